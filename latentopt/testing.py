"""The conformance kit: inherit a class, name your config, and pytest runs what the built-ins must pass.

    class TestTV(ObjectiveConformance):
        config = TotalVariation()

Override `decoder()` where the plugin needs another kind of design or latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from latentopt import rng
from latentopt.budget import Budget, Clock
from latentopt.decoder import Decoder
from latentopt.driver import drive
from latentopt.interfaces import (
    Candidates,
    DecoderConfig,
    EarlyReports,
    InterpolatorConfig,
    LeastSquares,
    ObjectiveConfig,
    PluginConfig,
    SamplerConfig,
    SearchConfig,
    SearchState,
)
from latentopt.packing import pack, unpack
from latentopt.problem import Problem
from latentopt.regions import Ball, Region
from latentopt.rng import RowNoise
from latentopt.stagerun import Stage
from latentopt.terms import Term

# ---------------------------------------------------------------------- decoders to test on


class ToyNet(nn.Module):
    """A small smooth network of fixed weights from D latent values to designs of any shape."""

    def __init__(self, dim: int, design_shape: tuple[int, ...], hidden: int = 16, seed: int = 0) -> None:
        super().__init__()
        self.design_shape = design_shape
        values = int(torch.tensor(design_shape).prod())
        generator = torch.Generator().manual_seed(seed)
        self.first, self.second = nn.Linear(dim, hidden), nn.Linear(hidden, values)
        with torch.no_grad():
            for layer in (self.first, self.second):
                fan_in = layer.weight.shape[1]
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / fan_in**0.5)
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=generator) * 0.1)

    def forward(self, z: Tensor) -> Tensor:
        """Latents `(N, ...)` to designs `(N, *design_shape)`."""
        hidden = torch.tanh(self.first(z.flatten(1)))
        return self.second(hidden).view(len(z), *self.design_shape)


class ToyImages(ToyNet):
    """The same with designs in (0, 1)."""

    def forward(self, z: Tensor) -> Tensor:
        """Latents `(N, ...)` to pictures `(N, 1, H, W)`."""
        return torch.sigmoid(super().forward(z))


def toy_decoders() -> dict[str, Decoder]:
    """Decoders of several kinds of design: pictures, a waveform, token logits, properties, and a latent of rank 3."""
    return {
        "image": Decoder(ToyImages(4, (1, 8, 8)), latent_shape=(4,), prior="normal", name="image"),
        "waveform": Decoder(ToyNet(6, (1, 4096)), latent_shape=(6,), prior="normal", name="waveform"),
        "tokens": Decoder(ToyNet(5, (7, 11)), latent_shape=(5,), prior="normal", name="tokens"),
        "vector": Decoder(ToyNet(3, (5,)), latent_shape=(3,), prior="normal", name="vector"),
        "volume": Decoder(ToyImages(256, (1, 8, 8)), latent_shape=(4, 8, 8), prior="normal", name="volume"),
    }


class NoHostSync(TorchDispatchMode):
    """Raises where a tensor's value is asked for on the host (`float(x)`, `if x`, `.item()`)."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Refuse the one operator that all of those come down to."""
        if func is torch.ops.aten._local_scalar_dense.default:
            pytest.fail("a host sync: a tensor's value was read in Python")
        return func(*args, **(kwargs or {}))


@contextmanager
def global_rng_untouched() -> Iterator[None]:
    """Fail where global random state is read or set."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "global random state was used: draw from the generator"


# ---------------------------------------------------------------------- the kit


class _Conformance:
    config: ClassVar[Any]

    def decoder(self) -> Decoder:
        """The decoder to test on: small pictures from 4 latent values."""
        return toy_decoders()["image"]

    def test_the_config_is_frozen_and_survives_a_file(self) -> None:
        config: Any = self.config
        assert isinstance(config, PluginConfig)
        kind: Any = type(config)
        assert config.kind_name(), "the config needs a kind"
        with pytest.raises(ValueError, match="frozen"):
            setattr(config, "kind", "other")  # noqa: B010
        with pytest.raises(ValueError, match="unknown key 'no_such_option'"):
            kind(no_such_option=1)
        stored = config.model_dump(mode="json")
        if "callable" not in str(stored):
            assert kind.model_validate(stored) == config


class DecoderConformance:
    """For decoders: builds, decodes its prior, gives latents back their shape, leaves global state alone."""

    config: ClassVar[DecoderConfig]

    def test_it_decodes_draws_from_its_prior(self) -> None:
        decoder = self.config.build()
        z = decoder.space.draw(5, rng.generator(0))
        with global_rng_untouched():
            designs = decoder.decode(z)
        assert designs.shape == (5, *decoder.design_shape)
        assert torch.isfinite(designs).all()
        assert torch.allclose(decoder.decode(z[2:3]), designs[2:3], atol=1e-5)

    def test_encoding_and_decoding_come_back_near(self) -> None:
        decoder = self.config.build()
        if decoder.encoder is None:
            pytest.skip("no encoder")
        designs = decoder.decode(decoder.space.draw(8, rng.generator(1)))
        again = decoder.decode(decoder.encode(designs))
        shuffled = designs.roll(1, 0)
        assert (again - designs).square().mean() < (shuffled - designs).square().mean()

    def test_examples_and_pictures_have_the_right_shapes(self) -> None:
        decoder = self.config.build()
        found = self.config.examples()
        assert found is None or found.shape[1:] == decoder.design_shape
        pictures = self.config.draw(decoder.decode(decoder.space.draw(2, rng.generator(0))))
        assert pictures is None or (pictures.ndim == 4 and len(pictures) == 2)


class ObjectiveConformance(_Conformance):
    """For objectives: one finite number a row, rows independent, no host sync unless declared, residuals that add up."""

    config: ClassVar[ObjectiveConfig]

    def _built(self) -> tuple[Any, Candidates]:
        decoder = self.decoder()
        targets = decoder.decode(decoder.space.draw(2, rng.generator(7)))
        objective = self.config.with_target(targets).build(decoder)
        z = decoder.space.draw(6, rng.generator(3)).to(decoder.device)
        return objective, Candidates(z, decoder.decode(z), torch.arange(6, device=z.device) % 2)

    def test_gives_one_finite_number_a_row(self) -> None:
        objective, rows = self._built()
        with global_rng_untouched():
            value = objective(rows)
        assert value.shape == (6,)
        assert value.is_floating_point()
        assert torch.isfinite(value).all()
        assert torch.equal(value, objective(rows)), "a second call gave another value"

    def test_rows_do_not_see_each_other(self) -> None:
        if self.config.across_rows:
            pytest.skip("declared across_rows")
        objective, rows = self._built()
        value = objective(rows)
        for i in range(6):
            alone = objective(Candidates(*(part[i : i + 1] for part in rows)))
            assert torch.allclose(alone, value[i : i + 1], rtol=1e-4, atol=1e-5)

    def test_a_nan_row_stays_alone(self) -> None:
        if self.config.across_rows:
            pytest.skip("declared across_rows")
        objective, rows = self._built()
        value = objective(rows)
        designs = rows.designs.clone()
        designs[2] = torch.nan
        latents = rows.latents.clone()
        latents[2] = torch.nan
        broken = objective(Candidates(latents, designs, rows.target_index))
        others = [0, 1, 3, 4, 5]
        assert torch.allclose(broken[others], value[others], rtol=1e-4, atol=1e-5)

    def test_gradients_reach_their_own_row_without_a_host_sync(self) -> None:
        objective, rows = self._built()
        latents, designs = (part.clone().requires_grad_(True) for part in rows[:2])
        value = objective(Candidates(latents, designs, rows.target_index))
        if not value.requires_grad:
            pytest.skip("no gradient")
        with nullcontext() if self.config.waits_for_device else NoHostSync():
            value = objective(Candidates(latents, designs, rows.target_index))
            gradients = torch.autograd.grad(value[1], (latents, designs), allow_unused=True)
        for gradient in (g for g in gradients if g is not None):
            assert torch.isfinite(gradient).all()
            if not self.config.across_rows:
                assert not gradient[[0, 2, 3, 4, 5]].any()

    def test_residuals_square_up_to_the_value(self) -> None:
        objective, rows = self._built()
        if not isinstance(objective, LeastSquares):
            pytest.skip("gives no residuals")
        residuals = objective.residuals(rows)
        assert residuals.ndim == 2
        assert len(residuals) == 6
        assert torch.allclose(residuals.square().sum(1), objective(rows), rtol=1e-4, atol=1e-6)

    def _asked(self) -> tuple[ObjectiveConfig, Tensor]:
        """The config and designs on the CPU, the first of them its target, as reports ask it."""
        designs = self._built()[1].designs.detach().cpu()
        return self.config.with_target(designs[:1]), designs

    def test_what_is_known_beforehand_is_aligned(self) -> None:
        config, designs = self._asked()
        found = config.reference(designs)
        if found is None:
            pytest.skip("nothing is known beforehand")
        assert found.of_N.shape == (len(designs),), "one place on the axis a design"
        for name, (axis_K, value_K) in found.bounds.items():
            assert axis_K.shape == value_K.shape == (len(axis_K),), f"bound {name}: a value at each place"
            assert bool((axis_K.diff() >= 0).all()), f"bound {name}: its places ascend"
        for name, (axis_P, value_P) in found.known.items():
            assert axis_P.shape == value_P.shape == (len(axis_P),), f"known {name}: a value and a place a design"
        for name, names in found.names.items():
            assert len(names) == len(found.known[name][1]), f"names of {name}: one a design"

    def test_the_number_of_designs_by_themselves_is_that_of_the_rows(self) -> None:
        config, designs = self._asked()
        objective, rows = self._built()
        alone = config.of(designs)
        if alone is None:
            pytest.skip("takes a decoder or a target")
        assert alone.shape == (len(designs),)
        own = objective(rows).detach().cpu().to(alone)
        assert torch.allclose(alone, own, rtol=1e-3, atol=1e-5, equal_nan=True)

    def test_what_it_draws_of_designs_are_pictures(self) -> None:
        config, designs = self._asked()
        for some in (designs, designs[:1]):
            before = some.clone()
            with global_rng_untouched():
                found = config.pictures(some)
            assert torch.equal(some, before), "pictures changed the designs"
            for title, picture in found.items():
                assert title, "a picture needs a title"
                assert title == " ".join(title.split()), "a title is one line, without spaces at its ends"
                assert picture.ndim == 3, f"{title}: (C, H, W)"
                assert picture.shape[0] in (1, 3), f"{title}: grey, or red, green and blue"
                assert picture.is_floating_point()
                assert picture.numel() > 0
                assert bool(((picture >= 0) & (picture <= 1)).all()), f"{title}: values in 0 to 1"

    def test_notes_are_sentences(self) -> None:
        objective, rows = self._built()
        objective(rows)
        for note in Term("objective", objective).notes:
            assert note == " ".join(note.split()), "a note is one line, without spaces at its ends"
        means = Term("objective", objective).nan_means
        assert means == " ".join(means.split()), "what a NaN means is one line, without spaces at its ends"

    def test_early_estimates_are_finite_numbers_of_each_row_alone(self) -> None:
        objective, rows = self._built()
        if not isinstance(objective, EarlyReports):
            pytest.skip("reports nothing early")
        assert isinstance(objective.rungs, int)
        assert objective.rungs >= 1
        for rung in range(objective.rungs):
            with global_rng_untouched():
                estimate = objective.early(rows, rung)
            assert estimate.shape == (6,)
            assert estimate.is_floating_point()
            assert torch.isfinite(estimate).all()
            for i in range(6):
                alone = objective.early(Candidates(*(part[i : i + 1] for part in rows)), rung)
                assert torch.allclose(alone, estimate[i : i + 1], rtol=1e-4, atol=1e-5)


class SamplerConformance(_Conformance):
    """For samplers: `(n, D)` finite rows, prefix-stable in n, a function of the generator alone."""

    config: ClassVar[SamplerConfig]

    def _draw(self, n: int, seed: int = 0) -> Tensor:
        decoder = self.decoder()
        with global_rng_untouched():
            return self.config.build(decoder)(n, decoder.space, rng.generator(seed))

    @pytest.mark.parametrize("n", [1, 2, 5, 33])
    def test_gives_n_finite_rows(self, n: int) -> None:
        found = self._draw(n)
        assert found.shape == (n, self.decoder().dim)
        assert torch.isfinite(found).all()

    def test_the_first_k_of_n_are_those_of_k(self) -> None:
        many = self._draw(33)
        for k in (1, 2, 7, 16, 32):
            assert torch.equal(self._draw(k), many[:k])

    def test_seeds_matter_and_repeat(self) -> None:
        assert torch.equal(self._draw(9, seed=0), self._draw(9, seed=0))
        if type(self.config).__dict__.get("random", True):
            assert not torch.equal(self._draw(9, seed=0), self._draw(9, seed=1))


class InterpolatorConformance(_Conformance):
    """For interpolators: through every key, exact at the ends, finite for the awkward pairs."""

    config: ClassVar[InterpolatorConfig]

    def _path(self, keys: Tensor, t: Tensor) -> Tensor:
        return self.config.build(self.decoder())(keys, t)

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_passes_through_every_key(self, count: int) -> None:
        keys = rng.randn(count, 4, rng.generator(2))
        found = self._path(keys, torch.linspace(0, 1, count))
        assert found.shape == (count, 4)
        assert torch.allclose(found, keys, atol=1e-5)
        assert torch.equal(found[[0, -1]], keys[[0, -1]]), "the ends must be the keys, to the bit"

    def test_is_continuous(self) -> None:
        keys = rng.randn(4, 4, rng.generator(4))
        found = self._path(keys, torch.linspace(0, 1, 2001))
        assert (found[1:] - found[:-1]).norm(dim=1).max() < 0.05

    @pytest.mark.parametrize(
        "pair",
        [
            ([1.0, 0, 0, 0], [2.0, 0, 0, 0]),
            ([1.0, 0, 0, 0], [-1.0, 0, 0, 0]),
            ([0.0, 0, 0, 0], [1.0, 0, 0, 0]),
            ([0.0, 0, 0, 0], [0.0, 0, 0, 0]),
            ([1.0, 0, 0, 0], [1.0, 0, 0, 0]),
            ([1e-3, 0, 0, 0], [0, 1e3, 0, 0]),
        ],
        ids=["collinear", "antipodal", "from zero", "zero", "same", "unequal norms"],
    )
    def test_awkward_pairs_stay_finite(self, pair: tuple[list[float], list[float]]) -> None:
        keys = torch.tensor(pair)
        found = self._path(keys, torch.linspace(0, 1, 11))
        assert torch.isfinite(found).all()
        assert torch.equal(found[[0, -1]], keys)


class _Distance:
    """The mean squared difference to each row's target, with residuals for the searches that want them."""

    def __init__(self, target_T: Tensor) -> None:
        self.target_T = target_T

    def __call__(self, c: Candidates) -> Tensor:
        return (c.designs - self.target_T[c.target_index]).square().flatten(1).mean(1)

    def residuals(self, c: Candidates) -> Tensor:
        """`(M, R)`, whose squares add up to the number."""
        difference = (c.designs - self.target_T[c.target_index]).flatten(1)
        return difference / difference.shape[1] ** 0.5


class SearchConformance(_Conformance):
    """For searches: same seed same result, rows independent, NaN rows alone, within region and budget, never worse."""

    config: ClassVar[SearchConfig]
    rows_move_alone: ClassVar[bool] = True  # False where the rows of one target share what they learn
    draws: ClassVar[bool] = False  # True where what comes back is draws, rather than the best that each row passed

    def problem(self, *, region: Region | None = None) -> Problem:
        """Reach one of two designs of the decoder."""
        decoder = self.decoder()
        target_T = decoder.decode(decoder.space.draw(2, rng.generator(11)))

        problem = Problem(decoder, [Term("distance", _Distance(target_T))], region=region, targets=2)
        problem.check()
        return problem

    def starts(self, n: int = 4) -> tuple[Tensor, Tensor]:
        """n starts for each of the two targets."""
        z = self.decoder().space.draw(2 * n, rng.generator(5))
        return z, torch.arange(2).repeat_interleave(n)

    def run(self, problem: Problem, z: Tensor, target: Tensor, *, rows: int | None = None, seed: int = 0) -> Any:
        """Drive this search alone from these starts."""
        stage = Stage("search", self.config.build(problem.decoder), self.config.keep)
        clock = Clock(problem, Budget(rows=rows))
        return drive(problem, z, target, [stage], clock=clock, seed=seed)

    def test_same_seed_same_result(self) -> None:
        z, target = self.starts()
        problem = self.problem()  # made outside: building a torch module draws its first weights from global state
        with global_rng_untouched():
            first = self.run(problem, z, target)
        again = self.run(self.problem(), z, target)
        assert torch.equal(first.z_ND, again.z_ND)
        assert [r.best_T for r in first.history] == [r.best_T for r in again.history]

    def test_never_ends_worse_than_it_began(self) -> None:
        z, target = self.starts()
        found = self.run(self.problem(), z, target)
        for before, after in zip(found.history[0].best_T, found.history[-1].best_T, strict=True):
            assert after <= before
        assert sum(found.history[-1].best_T) < sum(found.history[0].best_T), "it gained nothing at all"

    def test_returns_latents_whose_losses_it_reported(self) -> None:
        if self.draws:
            pytest.skip("returns draws, not the best")
        problem = self.problem()
        found = self.run(problem, *self.starts())
        evaluation = problem.value(found.z_ND, found.target_N)
        for t, best in enumerate(found.history[-1].best_T):
            assert float(evaluation.loss_M[found.target_N == t].amin()) == pytest.approx(best, rel=1e-3, abs=1e-7)

    def test_stays_in_its_region(self) -> None:
        decoder = self.decoder()
        region = Ball(radius=0.8).resolve(decoder.space)
        found = self.run(self.problem(region=region), *self.starts())
        assert decoder.space.prior.radius(found.z_ND).max() <= 0.8 + 1e-4

    def test_one_start_alone_equals_the_same_start_in_a_batch(self) -> None:
        if not self.rows_move_alone:
            pytest.skip("rows of one target share what they learn")
        z, target = self.starts()
        together = self._steps(z, target)
        alone = self._steps(z[:1], target[:1])
        assert torch.allclose(alone.z_ND, together.z_ND[:1], atol=1e-4)

    def _steps(self, z: Tensor, target: Tensor, count: int = 20) -> SearchState:
        problem = self.problem()
        search = self.config.build(problem.decoder)
        state = search.init(problem, z, target, RowNoise(0, 0, len(z)))
        for _ in range(min(count, search.n_steps)):
            search.step(problem, state)
        return state

    def test_its_evaluation_is_the_one_at_its_latents(self) -> None:
        state = self._steps(*self.starts(), count=3)
        problem = self.problem()
        loss_N = problem.value(state.z_ND, state.target_N).loss_M
        if state.pruned_N is not None:
            loss_N = torch.where(state.pruned_N, torch.inf, loss_N)
        assert torch.allclose(loss_N, state.evaluation.loss_M, rtol=1e-4, atol=1e-7)

    def test_a_step_replaces_its_tensors_and_never_writes_into_them(self) -> None:
        problem = self.problem()
        search = self.config.build(problem.decoder)
        z, target = self.starts()
        state = search.init(problem, z, target, RowNoise(0, 0, len(z)))
        held = [(state.z_ND, state.evaluation.loss_M)]
        copies = [tuple(part.clone() for part in held[0])]
        for _ in range(min(3, search.n_steps)):
            search.step(problem, state)
            held.append((state.z_ND, state.evaluation.loss_M))
            copies.append(tuple(part.clone() for part in held[-1]))
        for kept, copied in zip(held, copies, strict=True):
            assert torch.equal(kept[0], copied[0])
            assert torch.equal(kept[1], copied[1])

    def test_a_state_taken_up_again_goes_on_exactly(self) -> None:
        problem, (z, target) = self.problem(), self.starts()
        search = self.config.build(problem.decoder)
        state = search.init(problem, z, target, RowNoise(0, 0, len(z)))
        steps = min(6, search.n_steps)
        for _ in range(steps // 2):
            search.step(problem, state)
        kept = pack(state.saved())  # as a checkpoint does
        another, afresh = self.problem(), self.config.build(self.decoder())  # nothing may be kept outside of the state
        taken_up = afresh.init(another, z, target, RowNoise(0, 0, len(z)))
        taken_up.restore(unpack(kept))
        for _ in range(steps - steps // 2):
            search.step(problem, state)
            afresh.step(another, taken_up)
        assert torch.equal(taken_up.z_ND, state.z_ND)
        assert torch.equal(taken_up.evaluation.loss_M, state.evaluation.loss_M)

    def test_a_nan_row_stays_alone(self) -> None:
        if not self.rows_move_alone:
            pytest.skip("rows of one target share what they learn")
        z, target = self.starts()
        sane = self._steps(z, target)
        broken = z.clone()
        broken[2] = torch.nan
        hurt = self._steps(broken, target)
        others = [0, 1, 3, 4, 5, 6, 7]
        assert torch.equal(hurt.z_ND[others], sane.z_ND[others])

    def test_keeps_to_its_budget(self) -> None:
        problem = self.problem()
        before = problem.decoder.rows.forward + problem.decoder.rows.backward
        found = self.run(problem, *self.starts(), rows=200)
        used = problem.decoder.rows.forward + problem.decoder.rows.backward - before
        assert used + len(found.z_ND) <= 200
        assert found.forward_rows + found.backward_rows == used

    def test_steps_without_a_host_sync(self) -> None:
        if not self.config.needs_gradient:
            pytest.skip("ask/tell searches copy once a batch")
        problem = self.problem()
        search = self.config.build(problem.decoder)
        z, target = self.starts()
        state = search.init(problem, z, target, RowNoise(0, 0, len(z)))
        with NoHostSync():
            for _ in range(3):
                search.step(problem, state)

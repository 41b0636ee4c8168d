"""AskTell: slots, budget of evaluations, one decode and one copy a batch, failures, constraints, seeds."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import latentopt as lo
from latentopt import rng
from latentopt.asktell import AskTell, Coordinates, Told, _best_rows, _figures, prior_coordinates
from latentopt.budget import Budget, Clock
from latentopt.decoder import Decoder
from latentopt.driver import drive
from latentopt.goals import Bound
from latentopt.problem import Problem
from latentopt.regions import Ball
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import SearchConformance, ToyNet, toy_decoders
from latentopt_std import RandomSearch


class Counting(nn.Module):
    """Designs are the latents; counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        self.calls.append(len(z))
        return z + 0 * self.unused


class Scatter:
    """Asks for uniform points in [-3, 3], and keeps all that it is told."""

    def __init__(self, coordinates: int, seed: int) -> None:
        self.coordinates, self.seed = coordinates, seed
        self.added: list[Told] = []
        self.told: list[Told] = []
        self.seeds: list[int] = []

    def add(self, told: Told) -> None:
        self.added.append(told)

    def ask(self, n: int, seed: int) -> np.ndarray:
        self.seeds.append(seed)
        return np.random.default_rng(seed).uniform(-3, 3, (n, self.coordinates))

    def tell(self, told: Told) -> None:
        self.told.append(told)


class Made(list):
    """Makes `Scatter`s and keeps them in view."""

    def __call__(self, coordinates: int, seed: int) -> Scatter:
        self.append(Scatter(coordinates, seed))
        return self[-1]


def bowl(c):
    """A bowl about another corner for each target."""
    return (c.designs - 0.3 * (1 + c.target_index[:, None])).square().sum(1)


@pytest.fixture
def decoder():
    return Decoder(Counting(), latent_shape=(3,), prior="normal", name="counting")


def starts(n, targets):
    z = rng.randn(n * targets, 3, rng.generator(9))
    return z, torch.arange(targets).repeat_interleave(n)


def search_with(decoder, *, n=2, targets=2, evaluations=40, batch=6, loss=bowl, constraints=(), budget=None, **options):
    made = Made()
    problem = Problem(decoder, [Term("loss", loss)], constraints=constraints, targets=targets, **options)
    search = AskTell(made, evaluations, batch)
    clock = Clock(problem, Budget(rows=budget))
    found = drive(problem, *starts(n, targets), [Stage("scatter", search)], clock=clock, seed=4)
    return found, made, problem


def everything(optimizer: Scatter) -> Told:
    told = [*optimizer.added, *optimizer.told]
    return Told(*(np.concatenate(part) for part in list(zip(*told, strict=True))[:3]), None)


@pytest.mark.parametrize("n", [1, 2, 6, 9, 25])
def test_the_rows_that_end_are_the_best_of_all_points_told(decoder, n):
    found, made, _ = search_with(decoder, n=n)
    for target, optimizer in enumerate(made):
        told = np.sort(everything(optimizer).loss_n)
        mine = found.target_N == target
        losses = bowl(Candidate(found.z_ND[mine], found.target_N[mine]))
        assert losses.tolist() == pytest.approx(told[:6].tolist(), rel=1e-4), "not only the best: the best six"
        assert found.history[-1].best_T[target] == pytest.approx(told[0], rel=1e-6)


class Candidate:
    def __init__(self, z, target):
        self.designs, self.target_index = z, target


@pytest.mark.parametrize(
    ("n", "evaluations", "batch", "used"),
    [(2, 40, 6, 36), (6, 40, 6, 36), (9, 40, 6, 39), (9, 9, 6, 9), (25, 12, 6, 12), (2, 5, 6, 5), (1, 1, 10, 1)],
)
def test_a_target_never_gets_more_than_its_evaluations(decoder, n, evaluations, batch, used):
    before = decoder.rows.forward
    found, made, _ = search_with(decoder, n=n, evaluations=evaluations, batch=batch)
    assert [len(everything(optimizer).loss_n) for optimizer in made] == [used, used]
    assert found.forward_rows == decoder.rows.forward - before == 2 * used
    assert len(made[0].added[0].loss_n) == min(n, evaluations), "the starts are told first"


def test_five_targets_are_one_batch_and_few_copies(decoder, monkeypatch):
    problem = Problem(decoder, [Term("loss", bowl)], targets=5)
    search = AskTell(Made(), 100, 8)
    state = search.init(problem, *starts(8, 5), rng.RowNoise(0, 0, 40))
    out, back = [], []
    plain_cpu, plain_from = Tensor.cpu, torch.from_numpy
    monkeypatch.setattr(Tensor, "cpu", lambda self: back.append(self.shape) or plain_cpu(self))
    monkeypatch.setattr(torch, "from_numpy", lambda array: out.append(array.shape) or plain_from(array))
    for name in ("item", "tolist", "numpy"):
        monkeypatch.setattr(Tensor, name, refuse(getattr(Tensor, name), len(state.z_ND)))
    decoder.module.calls.clear()
    search.step(problem, state)
    assert decoder.module.calls == [40]
    assert out == [(40, 3), (40,)], "points, and row numbers"
    assert back == [(3, 40)]


def refuse(plain, rows):
    def guarded(self, *args):
        assert plain.__name__ == "numpy" and self.shape == (3, rows), "a second copy to the host"  # noqa: PT018
        return plain(self, *args)

    return guarded


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_failures_are_told_as_failures_and_never_win(decoder, bad):
    def loss(c):
        return torch.where(c.designs[:, 0] > 0, torch.full_like(c.designs[:, 0], bad), bowl(c))

    found, made, _ = search_with(decoder, loss=loss)
    for optimizer in made:
        told = everything(optimizer)
        assert (told.failed_n == (told.points_nK[:, 0] > 0)).all()
        assert 0 < told.failed_n.sum() < len(told.failed_n)
        assert np.isfinite(told.loss_n[~told.failed_n]).all()
        assert np.isnan(told.loss_n[told.failed_n]).all()
    assert torch.isfinite(found.z_ND).all()
    assert (found.z_ND[:, 0] <= 0).all()
    asked = sum(int(told.failed_n.sum()) for optimizer in made for told in optimizer.told[1:])
    assert found.diverged >= asked > 0


def test_constraints_come_with_loss_and_violation_and_the_feasible_are_kept(decoder):
    wall = Term("wall", lambda c: c.designs[:, 0], Bound(at_least=1.0))
    found, made, problem = search_with(decoder, constraints=[wall], evaluations=120, batch=6)
    for target, optimizer in enumerate(made):
        told = [*optimizer.added, *optimizer.told]
        violation = np.concatenate([part.violation_n for part in told])
        loss = np.concatenate([part.loss_n for part in told])
        merit = np.concatenate([part.merit_n for part in told])
        assert ((merit > loss) == (violation > 0)).all()
        mine = problem.value(found.z_ND[found.target_N == target], found.target_N[found.target_N == target])
        order = np.lexsort((loss, violation))[:6]
        assert mine.violation_M.tolist() == pytest.approx(violation[order].tolist(), abs=1e-6)
        assert mine.loss_M.tolist() == pytest.approx(loss[order].tolist(), rel=1e-4)
        assert mine.violation_M.max() == 0


def test_without_constraints_no_violation_is_told(decoder):
    _, made, _ = search_with(decoder)
    assert all(told.violation_n is None for told in (*made[0].added, *made[0].told))


def test_points_are_projected_and_the_budget_holds(decoder):
    region = Ball(radius=1.0).resolve(decoder.space)
    found, _, problem = search_with(decoder, region=region, budget=60)
    assert problem.space.prior.radius(found.z_ND).max() <= 1 + 1e-5
    assert found.forward_rows + len(found.z_ND) <= 60
    assert found.stopped == "budget"


def test_seeds_differ_by_target_and_step_and_come_from_the_run(decoder):
    _, made, _ = search_with(decoder)
    seeds = [seed for optimizer in made for seed in (optimizer.seed, *optimizer.seeds)]
    assert len(set(seeds)) == len(seeds)
    _, again, _ = search_with(decoder)
    assert [optimizer.seeds for optimizer in again] == [optimizer.seeds for optimizer in made]
    assert made[1].seeds[1] == rng.RowNoise(4, 0, 4).seed_for(1, 1)


def test_targets_may_come_with_uneven_rows_or_not_at_all(decoder):
    problem = Problem(decoder, [Term("loss", bowl)], targets=4)
    target = torch.tensor([0, 2, 2, 2, 2, 2, 3])
    made = Made()
    search = AskTell(made, 30, 4)
    state = search.init(problem, rng.randn(7, 3, rng.generator(0)), target, rng.RowNoise(0, 0, 7))
    assert state.target_N.tolist() == [0] * 4 + [2] * 4 + [3] * 4
    for _ in range(search.n_steps):
        search.step(problem, state)
    assert [len(everything(optimizer).loss_n) for optimizer in made] == [28, 29, 28]
    again = problem.value(state.z_ND, state.target_N)
    assert torch.allclose(again.loss_M, state.evaluation.loss_M)


def test_points_of_a_wrong_shape_are_refused(decoder):
    class Flat(Scatter):
        def ask(self, n: int, seed: int) -> np.ndarray:
            return np.zeros(n)

    search = AskTell(Flat, 20, 4)
    problem = Problem(decoder, [Term("loss", bowl)])
    with pytest.raises(
        lo.ShapeError, match=r"Flat.ask returned points of shape \(3,\), expected \(3, 3\): return one row"
    ):
        search.init(problem, *starts(1, 1), rng.RowNoise(0, 0, 1))


def test_coordinates_map_there_and_back():
    decoder = Decoder(ToyNet(6, (2,)), latent_shape=(6,), prior={"kind": "normal", "mean": 2.0, "std": 0.5})
    plain = prior_coordinates(Problem(decoder, ()), 0)
    z = decoder.space.draw(5, rng.generator(0))
    assert torch.allclose(plain.of(z), (z - 2) / 0.5)
    assert torch.allclose(plain.latents(plain.of(z)), z)
    basis = torch.linalg.qr(rng.randn(6, 2, rng.generator(1))).Q * torch.tensor([2.0, 0.1])
    some = Coordinates(plain.centre_D, plain.scale_D, basis)
    u = rng.randn(4, 2, rng.generator(2))
    assert (plain.count, some.count) == (6, 2)
    assert torch.allclose(some.of(some.latents(u)), u, atol=1e-4)
    nearest = torch.linalg.lstsq(basis, ((z - 2) / 0.5).T).solution.T
    assert torch.allclose(some.of(z), nearest, atol=1e-4)


def test_what_the_state_keeps_whole_stays_whole_when_rows_go(decoder):
    problem = Problem(decoder, [Term("loss", bowl)], targets=2)
    state = AskTell(Made(), 20, 4).init(problem, *starts(1, 2), rng.RowNoise(0, 0, 2))
    state.take(torch.tensor([0, 5]))
    assert state.centre_D.shape == state.scale_D.shape == (3,)
    assert state.held_2N.shape[1:] == state.evaluation.loss_M.shape == (2,)


def test_notes_of_the_coordinates_reach_the_result(decoder):
    def chart(problem, seed):
        return Coordinates(torch.zeros(3), torch.ones(3), notes=("searched oddly",))

    problem = Problem(decoder, [Term("loss", bowl)])
    stage = Stage("scatter", AskTell(Made(), 20, 4, chart))
    found = drive(problem, *starts(1, 1), [stage], clock=Clock(problem, Budget()), seed=0)
    assert found.notes == ["searched oddly"]


def test_a_chain_hands_the_best_on(decoder):
    search = [{"kind": "random", "evaluations": 100, "batch": 20, "keep": 3}, {"kind": "adam", "steps": 50}]
    found = lo.optimize(decoder, objectives=bowl, search=search, starts="mean", seed=1)
    assert len(found.losses) == 3
    assert found.losses[0] < 1e-3


def test_evaluations_of_rows_that_fail_everywhere_say_so(decoder):
    with pytest.raises(lo.DivergedError, match="all 12 rows diverged: term 'loss' was NaN or infinite for every row"):
        search_with(decoder, loss=lambda c: bowl(c) * torch.nan)


def test_rows_that_have_no_value_rank_last():
    figures = _figures(np.array([[np.nan, 1.0, -np.inf, 3.0], [0.0, 0.5, 0.0, 0.0]]))
    assert _best_rows(figures, np.array([0, 0, 0, 0]), [0], 4).tolist() == [3, 1, 0, 2]
    assert _best_rows(figures, np.array([0, 1, 0, 1]), [1], 4).tolist() == [3, 1]
    assert _best_rows(figures, np.array([0, 1, 0, 1]), [0, 1], 1).tolist() == [0, 3]


class TestRandom(SearchConformance):
    config = RandomSearch(evaluations=60, batch=10)
    rows_move_alone = False


def test_evaluations_that_starts_use_up_are_told_of():
    decoder = toy_decoders()["vector"]
    z = decoder.space.draw(6, torch.Generator().manual_seed(1))
    search = {"kind": "optuna", "sampler": "random", "evaluations": 5, "batch": 1}
    result = lo.optimize(decoder, objectives=lambda c: c.latents[:, 0], starts=z, search=search)
    assert "its 5 evaluations a target went to the 5 starts: give more, or fewer starts" in result.notes

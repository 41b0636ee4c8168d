"""The Python door: defaults, targets, starts, what a result holds, and errors at the door."""

import json

import pytest
import torch

import latentopt as lo
from latentopt import rng
from latentopt.testing import ToyImages, ToyNet, toy_decoders
from latentopt_std import MSE, Adam

FAST = {"kind": "adam", "steps": 30}


@pytest.fixture
def decoder():
    return toy_decoders()["image"]


def designs(decoder, n, seed=4):
    return decoder.decode(decoder.space.draw(n, rng.generator(seed)))


def test_the_defaults_find_a_design_that_the_decoder_made(decoder):
    target = designs(decoder, 1)[0]
    result = lo.optimize(decoder, target=target, seed=0)
    assert result.best.loss < 1e-8
    assert torch.allclose(result.best.design, target, atol=1e-3)
    assert result.best.latent.shape == (4,)
    assert bool(result.best.realism.inside[0])
    assert result.stopped == "finished"


def test_a_result_is_ordered_and_aligned(decoder):
    targets = designs(decoder, 3)
    result = lo.optimize(decoder, target=targets, search=FAST, seed=1)
    assert len(result) == 24
    assert result.target_index.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    for t in range(3):
        losses = result.losses[result.target_index == t]
        assert torch.equal(losses, losses.sort().values)
    again = decoder.decode(result.latents)
    assert torch.allclose(again, result.designs, atol=1e-6)
    expected = (again - targets[result.target_index]).square().flatten(1).mean(1)
    assert torch.allclose(result.losses, expected, atol=1e-6)
    assert result.terms["mse"].shape == (24,)
    assert result.best_steps.shape == (24,)
    assert 0 < result.best_steps.max() <= FAST["steps"]
    assert result.best.loss.shape == (3,)
    assert result.best.design.shape == (3, 1, 8, 8)
    assert result.best.latent.shape == (3, 4)
    assert torch.equal(result.targets, targets)


def test_many_targets_at_once_equal_one_at_a_time(decoder):
    targets = designs(decoder, 3)
    starts = decoder.space.draw(4, rng.generator(9))
    together = lo.optimize(decoder, target=targets, starts=starts, search=FAST)
    for t in range(3):
        alone = lo.optimize(decoder, target=targets[t], starts=starts, search=FAST)
        assert torch.allclose(alone.latents, together.latents[together.target_index == t], atol=1e-4)


def test_same_seed_same_bits_and_other_seed_other_start(decoder):
    target = designs(decoder, 1)[0]
    a, b, c = (lo.optimize(decoder, target=target, search=FAST, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.latents, b.latents)
    assert not torch.equal(a.latents, c.latents)


def test_global_random_state_is_neither_read_nor_set(decoder):
    before = torch.random.get_rng_state()
    lo.optimize(decoder, target=designs(decoder, 1)[0], search={"kind": "adam", "steps": 3, "noise": 0.1})
    lo.sample(decoder, 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_top_gives_the_best_and_distinct_rows(decoder):
    result = lo.optimize(decoder, target=designs(decoder, 2), search={"kind": "adam", "steps": 1})
    top = result.top(3, target=1)
    assert torch.equal(top.losses, result.losses[8:11])
    apart = result.top(8, distinct=0.5)
    flat = apart.latents
    distances = torch.cdist(flat, flat) / 2
    assert (distances + torch.eye(len(flat)) >= 0.5).all()
    with pytest.raises(lo.ConfigError, match="target 5 has no rows: targets go from 0 to 1"):
        result.top(1, target=5)


def test_terms_keep_their_raw_sign(decoder):
    def brightness(c):
        return c.designs.flatten(1).mean(1)

    def maximize(steps):
        objective = {"kind": "callable", "function": brightness, "goal": "maximize", "name": "bright"}
        return lo.optimize(decoder, objectives=[objective], search={"kind": "adam", "steps": steps})

    short, long = maximize(1), maximize(100)
    assert long.best.terms["bright"] > short.best.terms["bright"]
    assert long.best.loss == pytest.approx(-long.best.terms["bright"])


def test_constraints_hold_in_the_answer(decoder):
    target = designs(decoder, 1)[0]
    bright = {"kind": "callable", "function": lambda c: c.designs.flatten(1).mean(1), "name": "bright"}
    free = lo.optimize(decoder, target=target, search=FAST, objectives=["mse", {**bright, "weight": 0.0}])
    limit = free.best.terms["bright"] - 0.02
    held = lo.optimize(decoder, target=target, constraints=[{**bright, "goal": {"at_most": limit}}])
    assert held.best.terms["bright"] <= limit + 1e-3
    assert held.violations[0] < 1e-3
    assert held.best.loss > free.best.loss


def test_starts_of_every_kind_and_the_encoder():
    net = ToyImages(4, (1, 8, 8))
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    decoder = lo.Decoder(net, (4,), encoder=encoder, prior="normal")
    target = designs(decoder, 2)
    given = torch.zeros(2, 3, 4)
    result = lo.optimize(
        decoder, target=target, starts=["mean", "encoder", {"kind": "prior", "n": 2}, given], search=FAST
    )
    assert len(result) == 2 * (1 + 1 + 2 + 3)
    assert "encoder" in lo.optimize(decoder, target=target, search=FAST).config["task"]["starts"]


@pytest.mark.parametrize("name", ["waveform", "tokens", "vector", "volume"])
def test_designs_of_any_kind_and_latents_of_any_rank(name):
    decoder = toy_decoders()[name]
    target = designs(decoder, 2)
    result = lo.optimize(decoder, target=target, starts=[{"kind": "prior", "n": 2}], search=FAST)
    assert result.latents.shape == (4, *decoder.latent_shape)
    assert result.designs.shape == (4, *decoder.design_shape)
    assert result.history[-1]["best_T"][0] < result.history[0]["best_T"][0]
    path = lo.interpolate(decoder, result.latents[:3], steps=5)
    assert path.designs.shape == (5, *decoder.design_shape)
    assert torch.equal(path.latents[[0, -1]], result.latents[[0, 2]])
    json.dumps(result.summary(), allow_nan=False)


def test_an_interrupt_returns_the_best_so_far(decoder):
    def stop(report):
        if report.step >= 10:
            raise KeyboardInterrupt

    result = lo.optimize(decoder, target=designs(decoder, 1)[0], on_report=stop)
    assert result.stopped == "interrupted"
    assert result.best.loss < result.history[0]["best_T"][0]


def test_cost_counts_every_row(decoder):
    before = decoder.rows.forward, decoder.rows.backward
    result = lo.optimize(decoder, target=designs(decoder, 1)[0], search=FAST, budget={"rows": 400})
    cost = result.cost
    assert cost.rows == cost.forward_rows + cost.backward_rows <= 400
    assert cost.forward_rows >= 400 // 16 + 8 * 2
    # the probe of the objective at the door and the target's own decode above are the only rows outside the run
    assert decoder.rows.forward - before[0] - cost.forward_rows == 1 + 4
    assert result.stopped == "budget"


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, lo.ConfigError, "nothing to search for: give a target, objectives, or constraints"),
        ({"target": torch.zeros(3, 3)}, lo.ShapeError, "has shape 3x3, the decoder gives 1x8x8"),
        ({"target": torch.full((1, 8, 8), torch.nan)}, lo.ShapeError, "NaN or infinite"),
        ({"target": "no_such.png"}, lo.InputFileError, "file not found: no_such.png"),
        ({"target": torch.zeros(1, 8, 8), "starts": "encoder"}, lo.DecoderError, "has no encoder"),
        (
            {"objectives": "prior", "starts": "encoder"},
            lo.ConfigError,
            "starts 'encoder' encodes the target, and there is none",
        ),
        (
            {"target": torch.zeros(1, 8, 8), "starts": torch.zeros(3, 5)},
            lo.ShapeError,
            r"starts of shape \(3, 5\) do not fit",
        ),
        (
            {"target": torch.zeros(1, 8, 8), "starts": torch.full((3, 4), torch.nan)},
            lo.ShapeError,
            "starts contain NaN",
        ),
        ({"target": torch.zeros(1, 8, 8), "objectives": "prior"}, lo.ConfigError, "no objective could use the target"),
        (
            {"target": torch.zeros(1, 8, 8), "seed": -1},
            lo.ConfigError,
            "seed: Input should be greater than or equal to 0",
        ),
        ({"target": torch.zeros(1, 8, 8), "search": []}, lo.ConfigError, "at least 1"),
        ({"target": torch.zeros(1, 8, 8), "starts": []}, lo.ConfigError, "at least 1"),
        ({"objectives": []}, lo.ConfigError, "at least 1"),
    ],
)
def test_bad_input_is_an_error_at_the_door(decoder, options, error, text):
    with pytest.raises(error, match=text):
        lo.optimize(decoder, **options)


def test_paths_need_keys_or_designs(decoder):
    with pytest.raises(lo.ConfigError, match="a path goes through keys .* give one of them"):
        lo.interpolate(decoder)
    with pytest.raises(lo.ShapeError, match="a path needs at least 2 key latents, got 1"):
        lo.interpolate(decoder, torch.zeros(1, 4))
    with pytest.raises(lo.ShapeError, match=r"latents of shape \(2, 3\) do not fit this decoder"):
        lo.interpolate(decoder, torch.zeros(2, 3))


def test_a_sampler_or_interpolator_of_the_wrong_shape_is_named(decoder):
    with pytest.raises(
        lo.ShapeError,
        match=r"'callable' returned a tensor of shape \(3, 2\), expected a tensor of shape \(3, 4\)",
    ):
        lo.sample(decoder, 3, sampler=lambda n, space, generator: torch.zeros(n, 2))
    with pytest.raises(
        lo.ShapeError, match=r"returned a tensor of shape \(2, 4\), expected a tensor of shape \(9, 4\)"
    ):
        lo.interpolate(decoder, torch.zeros(2, 4), interpolator=lambda keys, t: keys)


def test_examples():
    assert lo.examples.digits().shape == (100, 1, 28, 28)
    with pytest.raises(lo.ConfigError, match="unknown decoder 'nothing'"):
        lo.examples.nothing()


def test_a_run_config_of_another_task_has_no_plan(decoder):
    from latentopt.config import make_config
    from latentopt.planning import plan

    with pytest.raises(lo.ConfigError, match="a plan is for optimize, got sample"):
        plan(make_config({"decoder": decoder, "task": "sample"}), decoder)


def test_everything_is_written_out_in_the_resolved_config(decoder):
    task = lo.optimize(decoder, target=designs(decoder, 1)[0], search=Adam(steps=2)).config["task"]
    assert task["objectives"] == [{"kind": "mse", "goal": "minimize", "weight": 1.0}]
    assert task["region"] == {"kind": "ball", "percentile": 99.0}
    assert task["search"][0]["lr"] == 0.3
    assert task["starts"][1]["screened_from"] == 512


def test_an_objective_keeps_its_own_target(decoder):
    near, far = designs(decoder, 2)
    result = lo.optimize(decoder, target=near, objectives=[MSE(), MSE(target=far, name="far", weight=0.0)], search=FAST)
    expected = (result.designs - far).square().flatten(1).mean(1)
    assert torch.allclose(result.terms["far"], expected, atol=1e-6)


def test_half_precision_modules_keep_float32_latents():
    net = ToyNet(3, (5,)).to(torch.bfloat16)
    decoder = lo.Decoder(net, (3,), prior="normal")
    result = lo.optimize(decoder, target=torch.zeros(5), search=FAST)
    assert result.latents.dtype == torch.float32
    assert result.losses.dtype == torch.float32


def test_keys_that_are_nan_are_named(decoder):
    with pytest.raises(lo.ShapeError, match="the keys contain NaN or infinite values"):
        lo.interpolate(decoder, torch.full((2, 4), torch.nan))


@pytest.mark.parametrize("scale", [lambda x: x * 255, lambda x: x * 2 - 1])
def test_a_target_of_another_range_is_warned_of(decoder, scale):
    with pytest.warns(lo.LatentoptWarning, match="the target goes from .* and the decoder's designs from"):
        result = lo.optimize(decoder, target=scale(torch.eye(8)[None]), search=FAST)
    assert any("scale the target" in note for note in result.notes)


def test_a_budget_that_is_too_small_says_where_it_ended(decoder):
    target = designs(decoder, 1)[0]
    result = lo.optimize(decoder, target=target, search=[FAST, FAST], budget={"rows": 400})
    assert result.stopped == "budget"
    assert any("its share of the budget ended in stage 1 (adam), at step" in note for note in result.notes)
    assert any("the budget ended in stage 2 (adam), at step" in note for note in result.notes)


def test_rows_that_were_lost_are_said():
    with pytest.warns(lo.LatentoptWarning, match="returns NaN or infinite values for"):
        half = lo.Decoder(lambda z: torch.where(z[:, :1] > 1.0, torch.nan, z), (2,), prior="normal")
    search = {"kind": "adam", "lr": 0.3, "steps": 60}
    result = lo.optimize(half, target=torch.tensor([9.0, 0.0]), region="free", search=search)
    assert result.diverged == 8
    assert any("8 of 8 rows turned NaN or infinite in stage 1 (adam) and were dropped" in note for note in result.notes)


def test_results_print_in_a_line(decoder):
    result = lo.optimize(decoder, target=designs(decoder, 2), search=FAST)
    assert len(repr(result)) < 400
    assert repr(result).startswith("Result(16 designs, best loss")
    assert repr(lo.sample(decoder, 3)).startswith("Draws(3 designs; ")


@pytest.mark.parametrize(
    "search",
    [
        FAST,
        {"kind": "random", "evaluations": 40, "batch": 10},
        {"kind": "optuna", "sampler": "random", "evaluations": 40},
    ],
)
@pytest.mark.parametrize("rows", range(8, 60, 4))
def test_a_tight_budget_is_kept_or_refused(decoder, search, rows):
    target = designs(decoder, 2)
    before = decoder.rows.forward + decoder.rows.backward
    probed = 4  # the look at the objectives at the door
    start = {"target": target, "starts": torch.zeros(2, 4), "search": search, "budget": {"rows": rows}}
    least = {"adam": 12, "random": 40, "optuna": 40}[search["kind"]]
    if rows < least:  # starts (slots, for those that ask and tell) and their final decode, and gradients where taken
        with pytest.raises(lo.ConfigError, match="does not cover 4 starts"):
            lo.optimize(decoder, **start)
        return
    result = lo.optimize(decoder, **start)
    assert result.cost.rows <= rows
    assert decoder.rows.forward + decoder.rows.backward - before - probed == result.cost.rows

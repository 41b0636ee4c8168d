"""What `auto` reaches on trained decoders: few targets, fixed seeds, and margins that docs/quality.md leaves room for."""

import functools

import moocore
import pytest
import torch

import latentopt as lo
from benchmarks import tasks
from benchmarks.tasks import best_rows, ink, mean_square

NAMES = ("digits", "deep")
each_decoder = pytest.mark.parametrize("name", NAMES)


@functools.cache
def decoder_and_designs(name):
    return tasks.decoder_and_designs(name)


def solved(name, task, **options):
    """Results of a task's runs, and their best rows' designs; every one of them must be inside, by its own realism."""
    decoder, _ = decoder_and_designs(name)
    results = [lo.optimize(decoder, **{**run, "seed": 1, **options}) for run in task.runs]
    for result in results:
        assert bool(best_rows(result).realism.inside.all()), str(result.realism)
    return results, torch.cat([best_rows(result).designs for result in results])


def plan_of(result):
    """The kinds of the searches that the resolved config holds, a race as a list."""
    chain = result.config["task"]["search"]
    return [[one["kind"] for one in entry] if isinstance(entry, list) else entry["kind"] for entry in chain]


def reference(name, task, steps=200, n=16):
    """The losses `(T,)` of a long search: Adam with large steps from many starts that no plan has, then polished."""
    chain = [{"kind": "adam", "lr": 0.5, "steps": steps, "keep": 4}, {"kind": "lbfgs", "steps": 100}]
    results, _ = solved(name, task, starts=[{"kind": "prior", "n": n}], search=chain, seed=9)
    return best_rows(results[0]).losses


@each_decoder
def test_inversion_reaches_what_a_long_search_does(name):
    _, x = decoder_and_designs(name)
    task = tasks.inversion(x[:6])
    [result], designs = solved(name, task)
    loss = best_rows(result).losses
    assert float((loss / reference(name, task)).amax()) < 1.02
    assert torch.allclose(mean_square(designs, x[:6]), loss, rtol=1e-3)


@each_decoder
def test_inversion_uses_fewer_rows_than_the_random_draws_that_it_beats(name):
    decoder, x = decoder_and_designs(name)
    task = tasks.inversion(x[8:12])
    [result], _ = solved(name, task)
    draws = {"kind": "random", "evaluations": result.cost.rows // 4}
    by_chance = lo.optimize(decoder, target=x[8:12], search=draws, starts=[{"kind": "prior", "n": 1}], seed=1)
    assert result.cost.rows / 4 < 5000
    assert float((best_rows(by_chance).losses / best_rows(result).losses).amin()) > 2


@each_decoder
def test_the_hidden_half_of_an_inpainting_is_nearer_than_the_mean_design(name):
    _, x = decoder_and_designs(name)
    few, rest = x[:12], x[12:]
    _, designs = solved(name, tasks.inpainting(few))
    hidden = torch.zeros(x.shape[1:])
    hidden[..., x.shape[-1] // 2 :] = 1
    seen = 1 - hidden
    assert float(mean_square(designs, few, seen).mean()) < 0.25 * float(mean_square(rest.mean(0), few, seen).mean())
    assert float(mean_square(designs, few, hidden).mean()) < 0.7 * float(mean_square(rest.mean(0), few, hidden).mean())


def test_the_hidden_half_is_hidden_from_the_encoder_too():
    _, x = decoder_and_designs("digits")
    [options] = tasks.inpainting(x[:3]).runs
    assert float(options["target"][..., 14:].abs().amax()) == 0
    assert torch.equal(options["target"][..., :14], x[:3, ..., :14])


@each_decoder
def test_a_hundred_measurements_give_back_almost_what_the_whole_design_does(name):
    _, x = decoder_and_designs(name)
    whole = mean_square(solved(name, tasks.inversion(x[:6]))[1], x[:6]).mean()
    errors = {m: mean_square(solved(name, tasks.recovery(x[:6], m))[1], x[:6]).mean() for m in (25, 100)}
    assert float(whole) <= float(errors[100]) < 2 * float(whole)
    assert float(errors[100]) < float(errors[25])


@each_decoder
def test_a_property_is_reached_to_a_thousandth(name):
    _, x = decoder_and_designs(name)
    task = tasks.property_value(x, 3)
    results, designs = solved(name, task)
    wanted = ink(x).quantile(torch.tensor([0.05, 0.5, 0.95]))
    assert float((ink(designs) / wanted - 1).abs().amax()) < tasks.REACHED
    assert all(float(task.score(result)) < tasks.REACHED for result in results)


@each_decoder
def test_a_black_box_ends_better_than_random_draws_of_equal_budget(name):
    _, x = decoder_and_designs(name)
    task = tasks.black_box(x[4:7])
    results, designs = solved(name, task)
    rows = results[0].cost.rows
    assert results[0].cost.backward_rows == 0
    by_chance, _ = solved(
        name, task, search={"kind": "random", "evaluations": rows}, starts=[{"kind": "prior", "n": 1}]
    )
    for found, chance in zip(results, by_chance, strict=True):
        assert found.best.loss < 0.8 * chance.best.loss
    wrong = ((designs > 0.5) != (x[4:7] > 0.5)).flatten(1).double().mean(1)
    assert [found.best.loss for found in results] == pytest.approx(wrong.tolist(), rel=1e-5)


@each_decoder
def test_a_constraint_holds_and_costs_no_more_than_a_long_search_pays(name):
    _, x = decoder_and_designs(name)
    task = tasks.constrained(x[:4])
    [result], designs = solved(name, task)
    assert bool(best_rows(result).feasible.all())
    assert float((ink(designs) / ink(x[:4])).amax()) <= 0.8 * (1 + 1e-6)
    search = {"kind": "adam", "lr": 0.3, "steps": 300}
    [far], _ = solved(name, task, search=search, starts=[{"kind": "prior", "n": 16}], seed=9)
    assert float((best_rows(result).losses / best_rows(far).losses).amax()) < 1.05
    free = best_rows(solved(name, tasks.inversion(x[:4]))[0][0]).losses
    assert bool((best_rows(result).losses > free).all()), "the constraint does not bind, and so tests nothing"


@each_decoder
def test_a_front_covers_what_a_long_search_of_many_weights_does(name):
    _, x = decoder_and_designs(name)
    task = tasks.front(x[:2])
    [result], _ = solved(name, task)
    starts = [{"kind": "prior", "n": 48}]
    [far], _ = solved(name, task, search={"kind": "adam", "steps": 300}, starts=starts, seed=9)
    for t in range(2):
        volumes = []
        for one in (result, far):
            front = one.front(t)
            losses = torch.stack([front.terms[k] for k in front.objectives], 1).double()
            volumes.append(moocore.hypervolume(losses.numpy(), ref=result.reference[t].double().numpy()))
        assert volumes[0] == pytest.approx(float(result.hypervolumes[t]), rel=1e-5)
        assert volumes[0] > 0.97 * volumes[1]
        assert len(result.front(t)) >= 10


def test_a_region_keeps_inside_what_a_free_search_takes_outside():
    decoder, x = decoder_and_designs("digits")
    [options] = tasks.recovery(x[:6], 25).runs
    kept, free = (lo.optimize(decoder, **options, seed=1, region=region) for region in (None, "free"))
    assert bool(best_rows(kept).realism.inside.all())
    assert float(best_rows(free).realism.inside.double().mean()) < 0.7
    assert float(best_rows(free).losses.mean()) < float(best_rows(kept).losses.mean())  # and that is why it goes there


PLANS = {
    "inversion": (tasks.inversion, ["lbfgs", "levenberg_marquardt"], "sum of squares"),
    "front": (tasks.front, ["lbfgs"], "own weights"),
    "constrained": (tasks.constrained, ["lbfgs"], "multipliers"),
    "black box": (tasks.black_box, ["cmaes"], "no gradient reaches"),
    "property": (lambda x: tasks.property_value(x, 1), None, "there are gradients"),
}


@pytest.mark.parametrize("kind", PLANS)
def test_notes_name_the_plan_that_the_config_holds(kind):
    make, expected, why = PLANS[kind]
    decoder, x = decoder_and_designs("digits")
    run = make(x[:1]).runs[0]
    result = lo.optimize(decoder, **run, budget={"rows": 3000}, seed=1)
    [note] = [note for note in result.notes if note.startswith("auto chose ")]
    plan = plan_of(result)
    assert why in note
    assert expected is None or plan == expected
    for entry in plan:
        for one in entry if isinstance(entry, list) else [entry]:
            assert one in note


def test_conv_ends_below_its_own_encoder_within_few_rows():
    decoder, x = tasks.decoder_and_designs("conv")
    result = lo.optimize(decoder, target=x[0], budget={"rows": 900}, seed=1)
    encoded = float(mean_square(decoder.decode(decoder.encode(x[:1])), x[:1]))
    assert result.best.loss < 0.8 * encoded
    assert bool(result.best.realism.inside[0])
    assert result.cost.rows <= 900

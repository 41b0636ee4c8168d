"""Races: equal shares, the pool of all entrants, failures and interrupts, and how a config writes them."""

import json

import pytest
import torch
import yaml

import latentopt as lo
from latentopt.budget import Budget, Clock
from latentopt.config import json_schema, make_config, read_config
from latentopt.driver import drive
from latentopt.interfaces import SearchState
from latentopt.problem import Problem
from latentopt.stagerun import Stage
from latentopt.terms import Term
from latentopt.testing import toy_decoders
from latentopt_std import Adam, RandomSearch


def distance(c):
    return (c.latents - 0.5).square().sum(1)


class Path:
    """Every row at given values, one a step; a row of values is the same for all rows. Each step decodes the rows."""

    def __init__(self, values, at_init=None, at_step=None):
        self.values, self.n_steps, self.at_init, self.at_step = values, len(values), at_init, at_step or {}
        self.seen = []

    def init(self, problem, z_ND, target_N, noise):
        if self.at_init is not None:
            self.at_init()
        self.seen.append(z_ND.clone())
        flags = torch.zeros(len(z_ND), dtype=torch.bool)
        return SearchState(z_ND, target_N, torch.arange(len(z_ND)), problem.value(z_ND, target_N), flags, 0)

    def step(self, problem, state):
        state.step += 1
        if state.step in self.at_step:
            self.at_step[state.step]()
        value = torch.as_tensor(self.values[state.step - 1], dtype=torch.float32)
        state.z_ND = value.expand(len(state.z_ND))[:, None].expand(-1, 3).clone()
        state.evaluation = problem.value(state.z_ND, state.target_N)


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture
def decoder():
    return toy_decoders()["vector"]


def race(decoder, *stages, rows=None, n=4, targets=1, start=2.0, terms=None, **more):
    problem = Problem(decoder, terms or [Term("d", distance)], targets=targets, **more)
    z = torch.full((n * targets, 3), start)
    target = torch.arange(targets).repeat_interleave(n)
    stages = [stage if isinstance(stage, list) else [stage] for stage in stages]
    return drive(problem, z, target, stages, clock=Clock(problem, Budget(rows=rows)), seed=0)


def spent(found):
    """Rows that each (stage, entrant) spent."""
    ends, before = {}, 0
    for report in found.history:
        ends[report.stage, report.entrant] = report.forward_rows + report.backward_rows
    for place, end in ends.items():
        ends[place], before = end - before, end
    return ends


# ---------------------------------------------------------------------- shares of the budget


@pytest.mark.parametrize("rows", [20, 40, 47, 100, 203, 517])
@pytest.mark.parametrize("entrants", [2, 3])
def test_entrants_get_equal_shares_to_within_a_step_and_the_budget_holds(decoder, rows, entrants):
    if rows < 4 * (entrants + 1):
        pytest.skip("too few rows for all to begin")
    stages = [Stage(f"s{i}", Path([1.0] * 500)) for i in range(entrants)]
    found = race(decoder, stages, rows=rows)
    shares = list(spent(found).values())
    assert len(shares) == entrants
    assert max(shares) - min(shares) <= 4, "one step of 4 rows"
    assert found.forward_rows + len(found.z_ND) <= rows
    assert found.forward_rows + len(found.z_ND) > rows - 4, "and the budget was used"
    assert found.stopped == "budget"


def test_searches_of_unequal_cost_get_equal_rows(decoder):
    stages = [
        Stage("adam", Adam(steps=500).build(decoder)),
        Stage("random", RandomSearch(evaluations=900).build(decoder)),
    ]
    found = race(decoder, stages, rows=800)
    shares = spent(found)
    assert abs(shares[0, 0] - shares[0, 1]) <= 64, "a batch of random search"
    assert found.forward_rows + found.backward_rows + len(found.z_ND) <= 800


def test_without_a_budget_each_runs_its_own_steps(decoder):
    found = race(decoder, [Stage("a", Path([1.0] * 7)), Stage("b", Path([1.0] * 19))])
    assert found.stopped == "finished"
    assert {(r.entrant, r.name): r.step for r in found.history} == {(0, "a"): 7, (1, "b"): 19}
    assert spent(found) == {(0, 0): 4 * 8, (0, 1): 4 * 20}
    assert found.notes == []


def test_what_an_entrant_leaves_goes_to_those_after_it(decoder):
    found = race(decoder, [Stage("short", Path([1.0])), Stage("long", Path([1.0] * 500))], rows=100)
    assert spent(found) == {(0, 0): 8, (0, 1): 88}


def test_seconds_are_shared_too(decoder, monkeypatch):
    now = iter(range(100_000))
    monkeypatch.setattr("latentopt.budget.time.perf_counter", lambda: float(next(now)))
    problem = Problem(decoder, [Term("d", distance)])
    stages = [[Stage("a", Path([1.0] * 5000)), Stage("b", Path([1.0] * 5000))]]
    clock = Clock(problem, Budget(seconds=1000.0))
    found = drive(problem, torch.ones(2, 3), torch.zeros(2, dtype=torch.long), stages, clock=clock, seed=0)
    steps = {r.entrant: r.step for r in found.history}
    assert found.stopped == "budget"
    assert steps[0] == pytest.approx(steps[1], rel=0.1)


def test_an_entrant_that_its_share_does_not_cover_is_left_out_and_noted(decoder):
    found = race(decoder, [Stage("adam", Adam(steps=9).build(decoder)), Stage("cheap", Path([1.0]))], rows=16)
    assert [r.name for r in found.history] == ["cheap"] * 2
    assert found.notes == ["its share of the budget ended before stage 1 (adam)"]
    with pytest.raises(lo.ConfigError, match="a budget of 7 rows does not cover 4 starts"):
        race(decoder, [Stage("a", Path([1.0])), Stage("b", Path([1.0]))], rows=7)


@pytest.mark.parametrize("keep", [None, 1, 3, 50])
@pytest.mark.parametrize("rows", [60, 100, 101])
def test_the_final_evaluation_of_the_pool_is_within_the_budget(decoder, keep, rows):
    noise = iter(torch.rand(1000, 4, generator=torch.Generator().manual_seed(1)))
    ways = [Stage(name, Path([next(noise) for _ in range(99)]), keep) for name in "ab"]
    found = race(decoder, ways, rows=rows)
    assert found.forward_rows + len(found.z_ND) <= rows
    assert len(found.z_ND) == {None: 4, 1: 1, 3: 3, 50: 8}[keep]


def test_a_search_with_more_rows_than_starts_hands_over_no_more_than_it_began_with(decoder):
    random = Stage("random", RandomSearch(evaluations=50, batch=10).build(decoder))
    found = race(decoder, [random, Stage("a", Path([1.0] * 9))], n=2, targets=2, rows=120)
    assert found.target_N.tolist() == [0, 0, 1, 1]
    assert found.forward_rows + len(found.z_ND) <= 120
    cut = race(decoder, [Stage("adam", Adam().build(decoder)), random], n=1, rows=13)
    assert len(cut.z_ND) == 1, "a race of which one began is still a race"


# ---------------------------------------------------------------------- the pool


def test_the_best_distinct_rows_of_all_entrants_go_on(decoder):
    after = Path([5.0])
    first = Stage("a", Path([[0.9, 0.6, 1.4, 1.5]]), keep=3)
    second = Stage("b", Path([[0.55, 0.6, 0.7, 1.9]]), keep=2)
    found = race(decoder, [first, second], Stage("c", after))
    assert after.seen[0][:, 0].tolist() == pytest.approx([0.55, 0.6, 0.7]), "0.6 but once, and the larger keep"
    assert found.z_ND[:, 0].tolist() == pytest.approx([0.55, 0.6, 0.7])
    assert [(r.stage, r.entrant, r.name) for r in found.history[::2]] == [(0, 0, "a"), (0, 1, "b"), (1, 0, "c")]


def test_entrants_begin_from_the_same_rows(decoder):
    ways = [Path([[0.9, 0.8, 0.7, 0.6]]), Path([[0.9, 0.8, 0.7, 0.6]])]
    race(decoder, [Stage(name, way) for name, way in zip("ab", ways, strict=True)], start=1.7)
    assert torch.equal(ways[0].seen[0], ways[1].seen[0])
    assert ways[1].seen[0][0, 0] == pytest.approx(1.7)


def test_each_target_has_a_pool_of_its_own(decoder):
    def apart(c):
        return (c.latents - 0.5 * c.target_index[:, None]).square().sum(1)

    ways = [Path([[0.1, 0.2, 0.9, 0.8]]), Path([[0.3, 0.0, 0.7, 0.6]])]
    stages = [Stage(name, way) for name, way in zip("ab", ways, strict=True)]
    found = race(decoder, stages, n=2, targets=2, terms=[Term("d", apart)])
    assert found.target_N.tolist() == [0, 0, 1, 1]
    assert found.z_ND[:, 0].tolist() == pytest.approx([0.0, 0.1, 0.6, 0.7])


# ---------------------------------------------------------------------- failures and interrupts


@pytest.mark.parametrize("order", [0, 1])
def test_one_entrant_that_diverges_entirely_does_not_sink_the_race(decoder, order):
    ways = [Stage("bad", Path([torch.nan] * 9)), Stage("good", Path([0.6] * 3))]
    found = race(decoder, ways[::-1] if order else ways)
    assert found.z_ND[0, 0] == pytest.approx(0.6)
    assert found.diverged == 4
    assert found.notes == ["4 of 4 rows turned NaN or infinite in stage 1 (bad) and were dropped"]


def test_entrants_that_all_diverge_say_so(decoder):
    with pytest.raises(lo.DivergedError, match="all 4 rows diverged: term 'd' was NaN or infinite for every row"):
        race(decoder, [Stage("a", Path([torch.nan])), Stage("b", Path([torch.nan]))], start=torch.nan)


@pytest.mark.parametrize("when", ["init", "step"])
@pytest.mark.parametrize("rows", [None, 60])
def test_an_interrupt_in_the_second_entrant_keeps_the_first_ones_best(decoder, when, rows):
    second = Path([0.9] * 9, at_init=interrupt) if when == "init" else Path([0.9] * 9, at_step={2: interrupt})
    never = Path([0.5])
    found = race(decoder, [Stage("a", Path([0.6] * 30)), Stage("b", second)], Stage("c", never), rows=rows)
    assert found.stopped == "interrupted"
    assert found.z_ND[0, 0] == pytest.approx(0.6)
    assert not never.seen
    ended = [] if rows is None else ["its share of the budget ended in stage 1 (a), at step 5 of 30"]
    assert found.notes == ended


def test_an_interrupt_in_the_first_entrant_ends_the_race(decoder):
    other = Path([0.5])
    found = race(decoder, [Stage("a", Path([0.7, 0.6], at_step={2: interrupt})), Stage("b", other)])
    assert found.stopped == "interrupted"
    assert found.z_ND[0, 0] == pytest.approx(0.7)
    assert not other.seen
    with pytest.raises(KeyboardInterrupt):
        race(decoder, [Stage("a", Path([0.7], at_init=interrupt)), Stage("b", other)])


# ---------------------------------------------------------------------- noise and seeds


def noisy(decoder, seed, search=None):
    entrant = {"kind": "adam", "steps": 6, "noise": 0.3}
    return lo.optimize(
        decoder, objectives=distance, starts=torch.full((3, 3), 2.0), search=search or [[entrant, entrant]], seed=seed
    )


def test_same_seed_same_result_and_every_entrant_its_own_noise(decoder):
    first, again, other = noisy(decoder, 0), noisy(decoder, 0), noisy(decoder, 1)
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)
    ends = [[r["rows_N"] for r in first.history if r["entrant"] == entrant][-1] for entrant in (0, 1)]
    assert ends[0] != ends[1]
    alone = noisy(decoder, 0, {"kind": "adam", "steps": 6, "noise": 0.3})
    assert alone.history[-1]["rows_N"] == ends[0], "the first entrant runs as it would alone"


def test_reports_name_the_entrant(decoder):
    seen = []
    search = [[{"kind": "adam", "steps": 2}, {"kind": "random", "evaluations": 20}], {"kind": "adam", "steps": 2}]
    found = lo.optimize(decoder, objectives=distance, search=search, on_report=seen.append)
    assert list(dict.fromkeys((r.stage, r.entrant, r.name) for r in seen)) == [
        (0, 0, "adam"),
        (0, 1, "random"),
        (1, 0, "adam"),
    ]
    assert [r["entrant"] for r in found.history] == [r.entrant for r in seen]
    assert len(found) == 8, "as many rows as it began with"


# ---------------------------------------------------------------------- configs

RACE = """
decoder: {kind: digits}
task:
  kind: optimize
  objectives: [{kind: prior, weight: 0.2}]
  search:
    - [{kind: adam, steps: 5}, {kind: random, evaluations: 50, keep: 3}]
    - adam
"""


def test_a_race_survives_a_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RACE)
    config = read_config(path)
    race, last = config.task.search
    assert [type(one).__name__ for one in race] == ["Adam", "RandomSearch"]
    assert (race[0].steps, race[1].keep, last.kind) == (5, 3, "adam")
    path.write_text(yaml.safe_dump(config.to_dict()))
    assert read_config(path) == config
    assert make_config(json.loads(json.dumps(config.to_dict()))) == config


def test_a_race_is_set_from_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RACE)
    changed = read_config(path, ["task.search.0.1.evaluations=80", "task.search.0.0.lr=0.05", "task.search.0.2=optuna"])
    race = changed.task.search[0]
    assert (race[0].lr, race[1].evaluations, race[2].kind) == (0.05, 80, "optuna")


def test_a_race_in_python_takes_names_dicts_and_configs(decoder):
    found = lo.optimize(decoder, objectives=distance, search=[["adam", RandomSearch(evaluations=20)]])
    kinds = [one["kind"] for one in found.config["task"]["search"][0]]
    assert kinds == ["adam", "random"]


def task(search):
    return {"decoder": "digits", "task": {"kind": "optimize", "objectives": "prior", "search": search}}


@pytest.mark.parametrize(
    ("search", "text"),
    [
        ([["adam"]], "task.search.0: expected at least 2, got"),
        ([[]], "task.search.0: expected at least 2, got"),
        ([], "task.search: expected at least 1, got 0"),
        ([["adam", ["adam", "random"]]], "task.search.0.1: expected a search: a name, a dict with a kind, or a config"),
        ([["adam", "adm"]], "task.search.0.1: unknown search 'adm'; did you mean 'adam'"),
        ([["adam", {"kind": "adam", "lrr": 1}]], "task.search.0.1: unknown key 'lrr'; did you mean 'lr'"),
        ([["adam", {"kind": "adam", "lr": 0}]], "task.search.0.1.lr: Input should be greater than 0, got 0"),
        (["auto", "adam"], "task.search: 'auto' plans the whole search, so it stands alone"),
        ([{"kind": "auto"}, "adam"], "task.search: 'auto' plans the whole search, so it stands alone"),
        ([["auto", "adam"]], "task.search: 'auto' plans the whole search, so it stands alone"),
        ([["adam", {"kind": "auto"}], "adam"], "task.search: 'auto' plans the whole search, so it stands alone"),
        ([["auto"]], "task.search: 'auto' plans the whole search, so it stands alone"),
        ({"kind": "auto", "steps": 3}, "task.search: 'auto' plans the whole search"),
    ],
)
def test_errors_name_the_place(search, text):
    with pytest.raises(lo.ConfigError) as caught:
        make_config(task(search))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("search", ["auto", ["auto"], {"kind": "auto"}, [{"kind": "auto"}]])
def test_auto_is_the_same_as_no_word(search):
    assert make_config(task(search)).task.search is None


def test_the_schema_knows_races_and_auto():
    schema = json_schema()
    found = schema["$defs"]["Optimize"]["properties"]["search"]
    text = json.dumps(found)
    assert '"auto"' in text
    lists = [part for part in walk(found) if part.get("type") == "array" and part.get("minItems") == 2]
    assert lists, "a list within the list is a race"
    assert '"#/$defs/Adam"' in json.dumps(lists[0]["items"])


def walk(node):
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)

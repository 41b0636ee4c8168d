"""Comparing searches: the same starts and budget for all, random draws always among them, curves, table, files, errors."""

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console
from typer.testing import CliRunner

import latentopt as lo
from latentopt import api, cli, contest, curves, options, progress, rng, sizing, stagerun
from latentopt.budget import Report
from latentopt.testing import toy_decoders
from latentopt_std import Adam, RandomSearch

ROWS = 400
STARTS = {"kind": "prior", "n": 3}
OPTUNA = {"kind": "optuna", "sampler": "random"}


@pytest.fixture(scope="module")
def decoder():
    return toy_decoders()["image"]


def problem(decoder, targets=1, **fields):
    """A run of the toy decoder as plain data, its targets far from the start."""
    target = decoder.decode(decoder.space.draw(targets, rng.generator(4)))
    return {"decoder": decoder, "task": {"kind": "optimize", "target": target, "starts": STARTS, **fields}}


def blind(candidates):
    return candidates.designs.detach().flatten(1).mean(1)


@pytest.fixture(scope="module")
def found(decoder):
    return lo.compare(problem(decoder, targets=3), ["adam", OPTUNA], rows=3 * ROWS, seeds=3)


# ---------------------------------------------------------------------- fairness


def test_every_search_begins_at_the_same_starts_and_every_seed_at_others(decoder, monkeypatch):
    begun = {}
    start = stagerun.StageRun.start

    def look(self):
        begun.setdefault((self.stage.name, self._seed), []).append(self._starts.z_ND)
        start(self)

    monkeypatch.setattr(stagerun.StageRun, "start", look)
    lo.compare(problem(decoder), ["adam", OPTUNA], rows=100, seeds=2)
    assert set(begun) == {(name, seed) for name in ("adam", "optuna", "random") for seed in (0, 1)}
    for (_, seed), starts in begun.items():
        assert all(torch.equal(z, begun["random", seed][0]) for z in starts)
    assert not torch.equal(begun["adam", 0][0], begun["adam", 1][0])


def test_random_draws_are_always_among_them_and_never_twice(decoder):
    one = lo.compare(problem(decoder), "adam", rows=100, seeds=1)
    assert {standing.name for standing in one.standings} == {"adam", "random"}
    own = lo.compare(problem(decoder), [RandomSearch(batch=5), "adam"], rows=100, seeds=1)
    assert {standing.name for standing in own.standings} == {"random batch=5", "adam"}
    assert own.baseline == "random batch=5"


def test_the_best_stands_first_and_is_measured_against_random_draws(found):
    losses = [one.loss for one in found.standings]
    assert losses == sorted(losses)
    assert found.standings[0].name == "adam"
    assert found.times_better("random") == 1
    assert found.times_better("adam") == pytest.approx(found["random"].loss / found["adam"].loss)
    assert found.times_better("adam") > 3
    with pytest.raises(KeyError):
        found["nothing"]


def test_losses_below_zero_have_no_ratio(decoder):
    config = problem(decoder, objectives=[lambda c: c.latents.square().mean(1) - 50], starts="mean")
    del config["task"]["target"]
    one = lo.compare(config, "adam", rows=60, seeds=1)
    assert one["adam"].loss < 0
    assert one.times_better("adam") is None
    assert "-" in one.table()[1][0]


def test_a_seed_s_loss_is_that_of_its_result_the_median_over_targets(decoder, found):
    config = problem(decoder, targets=3, search=found["adam"].search)
    result = lo.run({**config, "seed": 2, "budget": {"rows": 3 * ROWS}})
    run = found["adam"].runs[2]
    assert run.seed == 2
    assert run.loss == pytest.approx(float(result.best.loss.double().median()))
    assert run.rows == result.cost.rows
    assert found["adam"].loss == np.median([one.loss for one in found["adam"].runs])


# ---------------------------------------------------------------------- the budget


def test_every_run_keeps_to_the_budget_and_uses_it(found):
    for standing in found.standings:
        for run in standing.runs:
            assert 0.9 * 3 * ROWS < run.rows <= 3 * ROWS, standing.name


def test_adam_s_schedule_ends_with_the_budget(found):
    assert [run.stopped for run in found["adam"].runs] == ["finished"] * 3
    # 3 targets of 3 starts, a decode and a gradient each at every step and at the start, and the final decode
    assert found["adam"].search[0]["steps"] == (3 * ROWS - 18 - 9) // 18


def test_a_size_that_was_given_stays(decoder):
    one = lo.compare(problem(decoder), [Adam(steps=5)], rows=ROWS, seeds=1)
    assert one["adam steps=5"].search[0]["steps"] == 5
    assert one["adam steps=5"].runs[0].rows < ROWS / 4


@pytest.mark.parametrize(
    ("chain", "sized"),
    [
        ([{"kind": "random", "keep": 2}, "adam"], [True, True]),
        ([{"kind": "adam", "steps": 20, "keep": 1}, "adam"], [False, True]),
        (["adam", {"kind": "adam", "steps": 20}], [True, False]),
        ([["adam", {"kind": "adam", "lr": 0.01}], {"kind": "adam", "steps": 4}], [True, False]),
    ],
)
def test_chains_and_races_share_the_budget(decoder, chain, sized):
    one = lo.compare(problem(decoder), [chain], rows=ROWS, seeds=1)
    standing = next(each for each in one.standings if each.name != "random")
    assert 0.9 * ROWS < standing.runs[0].rows <= ROWS
    assert standing.runs[0].stopped == "finished" or sized[0] is False or isinstance(chain[0], list | dict)
    for entry, free in zip(standing.search, sized, strict=True):
        for search in entry if isinstance(entry, list) else [entry]:
            size = search.get("steps", search.get("evaluations"))
            assert (size not in (4, 20)) == free


def test_every_stage_of_a_chain_runs(decoder):
    names = []

    def look(report):
        names.append((report.name, report.stage))

    lo.compare(problem(decoder), [["adam", OPTUNA, "adam"]], rows=ROWS, seeds=1, on_report=look)
    assert {stage for name, stage in names if name.startswith("adam > optuna sampler=random > adam")} == {0, 1, 2}


class Uneven(lo.SearchConfig):
    """Stands still; its first steps cost one row a start, the later ones four."""

    kind: str = "uneven"
    needs_gradient = False
    steps: int = 10

    def build(self, decoder):
        return UnevenSearch(self.steps)


class UnevenSearch:
    """Decodes more from its third step on."""

    def __init__(self, steps):
        self.n_steps = steps

    def init(self, problem, z_ND, target_N, rng):
        none = torch.zeros(len(z_ND), dtype=torch.bool)
        return lo.SearchState(z_ND, target_N, torch.arange(len(z_ND)), problem.value(z_ND, target_N), none, 0)

    def step(self, problem, state):
        state.step += 1
        for _ in range(1 if state.step < 3 else 4):
            state.evaluation = problem.value(state.z_ND, state.target_N)


def test_steps_that_differ_in_cost_are_measured_at_their_size(decoder):
    one = lo.compare(problem(decoder), [Uneven()], rows=ROWS, seeds=1)
    steps = one["uneven"].search[0]["steps"]
    assert steps == pytest.approx(ROWS / 12, rel=0.15)
    assert one["uneven"].runs[0].rows > 0.9 * ROWS


def test_the_budget_is_the_argument_s_then_the_config_s_then_a_default(decoder):
    config = {**problem(decoder), "budget": {"rows": 90, "seconds": 50}}
    assert lo.compare(config, "random", seeds=1).budget == lo.Budget(rows=90, seconds=50)
    assert lo.compare(config, "random", seeds=1, rows=80, seconds=40).budget == lo.Budget(rows=80, seconds=40)
    two = lo.compare(problem(decoder, targets=2), "random", seeds=1)
    assert two.budget == lo.Budget(rows=2 * contest.ROWS_A_TARGET)


def test_runs_that_the_clock_ended_are_named(decoder):
    one = lo.compare(problem(decoder), "adam", seeds=1, rows=10**8, seconds=0.2)
    assert one.notes[-1] == "the limit of 0.2 s ended runs before their rows were spent: random, adam"


def test_a_config_s_own_search_or_auto_is_compared_by_default(decoder):
    own = lo.compare(problem(decoder, search=[{"kind": "adam", "lr": 0.1}, "adam"]), rows=ROWS, seeds=1)
    assert {one.name for one in own.standings} == {"adam lr=0.1 > adam", "random"}
    auto = lo.compare(problem(decoder), rows=ROWS, seeds=1)
    assert {one.name for one in auto.standings} == {"auto", "random"}


# ---------------------------------------------------------------------- curves


def test_curves_fall_lie_within_their_bands_and_end_at_the_runs_ends(found):
    for standing in found.standings:
        for curve, axis in ((standing.by_rows, "rows_R"), (standing.by_seconds, "seconds_R")):
            known = ~np.isnan(curve.median_G)
            median, low, high = curve.median_G[known], curve.low_G[known], curve.high_G[known]
            assert known.any()
            assert np.all(np.diff(median) <= 0)
            assert np.all(low <= median)
            assert np.all(median <= high)
            ends = [getattr(run, axis)[-1] for run in standing.runs]
            assert curve.at_G[known][-1] == max(ends)
            last = [run.loss_R[-1] for run in standing.runs]
            assert (low[-1], median[-1], high[-1]) == (min(last), np.median(last), max(last))
    assert np.array_equal(found["adam"].by_rows.at_G, found["random"].by_rows.at_G)


def test_several_seeds_give_a_band_and_one_seed_gives_none(decoder, found):
    band = found["random"].by_rows
    assert np.nanmax(band.high_G - band.low_G) > 0
    alone = lo.compare(problem(decoder), "random", rows=100, seeds=[7])
    assert alone.seeds == (7,)
    assert np.nanmax(alone["random"].by_rows.high_G - alone["random"].by_rows.low_G) == 0


def test_a_curve_is_a_step_function():
    at, loss = np.array([2.0, 4.0, 8.0]), np.array([5.0, 3.0, 1.0])
    found = contest.step_values(at, loss, np.array([1.0, 2.0, 3.9, 4.0, 7.0, 8.0, 9.0]))
    assert np.array_equal(found, [np.nan, 5, 5, 3, 3, 1, 1], equal_nan=True)


def test_a_curve_waits_for_the_last_seed_to_begin_and_goes_on_to_the_last_end():
    runs = [(np.array([1.0, 3.0]), np.array([4.0, 2.0])), (np.array([2.0, 5.0]), np.array([6.0, 1.0]))]
    found = contest.curve(runs, np.array([1.0, 2.0, 3.0, 5.0, 6.0]))
    assert np.array_equal(found.low_G, [np.nan, 4, 2, 1, np.nan], equal_nan=True)
    assert np.array_equal(found.median_G, [np.nan, 5, 4, 1.5, np.nan], equal_nan=True)
    assert np.array_equal(found.high_G, [np.nan, 6, 6, 2, np.nan], equal_nan=True)


# ---------------------------------------------------------------------- realism and constraints


def test_a_search_that_leaves_the_prior_is_marked(decoder):
    far = {"objectives": [lambda c: -c.latents.mean(1)], "region": "free"}
    config = problem(decoder, **far)
    del config["task"]["target"]
    one = lo.compare(config, [Adam(lr=5.0)], rows=ROWS, seeds=2)
    assert one["adam lr=5.0"].inside == 0
    assert one["adam lr=5.0"].leaves_prior
    assert one.table()[1][0][6] == "0%*"
    assert "* leaves the prior: more than one in ten" in str(one)
    lines = {
        line.get_color(): line.get_linestyle() for line in one.picture().axes[0].lines if len(line.get_xdata()) > 1
    }
    assert sorted(lines.values()) == ["--", ":"]


def test_those_who_stay_inside_have_no_star(found):
    assert found["random"].inside == 1
    assert found.remarks() == []
    assert "*" not in str(found)


def test_feasible_designs_come_before_good_ones(decoder):
    limit = {"kind": "prior", "goal": {"at_most": 0.05}, "name": "near"}
    config = problem(decoder, constraints=[limit], starts=torch.full((1, 4), 3.0))
    one = lo.compare(config, [{"kind": "adam", "steps": 1, "lr": 1e-6}], rows=ROWS, seeds=1)
    heads, rows = one.table()
    assert heads[-1] == "feasible"
    shares = [standing.feasible for standing in one.standings]
    assert shares == sorted(shares, reverse=True)
    assert [row[-1] for row in rows] == [f"{share:.0%}" for share in shares]


# ---------------------------------------------------------------------- who is left out


def test_a_gradient_search_on_a_blind_problem_is_left_out_with_the_reason(decoder):
    config = problem(decoder, objectives=[blind])
    del config["task"]["target"]
    one = lo.compare(config, ["adam", OPTUNA], rows=100, seeds=1)
    assert {each.name for each in one.standings} == {"optuna sampler=random", "random"}
    assert one.left_out["adam"].startswith("search 'adam' needs gradients and no gradient reaches the latents")
    assert "left out: adam: search 'adam' needs gradients" in str(one)


class Fails(lo.SearchConfig):
    """Fails with one seed."""

    kind: str = "fails"
    bad: int = 1
    steps: int = 2

    def build(self, decoder):
        def init(problem, z_ND, target_N, noise):
            if noise.seed_for(0, 0) == lo.RowNoise(self.bad, 0, len(z_ND)).seed_for(0, 0):
                raise lo.DivergedError("all rows diverged")
            return UnevenSearch(2).init(problem, z_ND, target_N, noise)

        return SimpleNamespace(n_steps=2, init=init, step=UnevenSearch(2).step)


@pytest.mark.parametrize(("bad", "why"), [(0, "all rows diverged"), (1, "with seed 1: all rows diverged")])
def test_a_search_that_fails_with_some_seed_is_left_out_whole(decoder, bad, why):
    one = lo.compare(problem(decoder), [Fails(bad=bad), "adam"], rows=100, seeds=2)
    assert {each.name for each in one.standings} == {"adam", "random"}
    assert one.left_out == {f"fails bad={bad}": why}
    assert [run.seed for run in one["adam"].runs] == [0, 1]


def test_what_is_wrong_with_the_problem_is_an_error_and_not_a_remark(decoder):
    with pytest.raises(lo.ConfigError, match="a budget of 3 rows does not cover 3 starts"):
        lo.compare(problem(decoder), "adam", rows=3)
    with pytest.raises(lo.ConfigError, match="nothing to search for"):
        lo.compare({"decoder": decoder, "task": {"kind": "optimize"}}, "adam")


@pytest.mark.parametrize(
    ("searches", "options", "words"),
    [
        (["adam", "adan"], {}, "unknown search 'adan'; did you mean 'adam'?"),
        ([], {}, "nothing to compare: name searches, such as adam"),
        ([[]], {}, "expected at least 1, got 0"),
        (["adam"], {"seeds": 0}, "at least 1, or different seeds of 0 and more, got 0"),
        (["adam"], {"seeds": [1, 1]}, "different seeds"),
        (["adam"], {"seeds": [-1]}, "different seeds"),
        (["adam"], {"rows": 0}, "budget: rows: Input should be greater than or equal to 1, got 0"),
        (["adam"], {"seconds": -1.0}, "budget: seconds: Input should be greater than 0"),
    ],
)
def test_errors_say_what_is_wrong(decoder, searches, options, words):
    with pytest.raises(lo.ConfigError) as error:
        lo.compare(problem(decoder), searches, **options)
    assert words in str(error.value)


def test_only_searches_for_one_best_design_can_be_compared(decoder):
    with pytest.raises(lo.ConfigError, match="the task must be optimize, got sample"):
        lo.compare({"decoder": decoder, "task": {"kind": "sample"}}, "adam")
    with pytest.raises(lo.ConfigError, match="a front has none: drop pareto"):
        lo.compare(problem(decoder, pareto=True), "adam")


# ---------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("at", ["random, seed 1", "adam, seed 1"])
def test_an_interrupt_keeps_the_seeds_that_all_have_finished(decoder, at):
    def look(report):
        if report.name == at and report.step > 1:
            raise KeyboardInterrupt

    one = lo.compare(problem(decoder), "adam", rows=ROWS, seeds=3, on_report=look)
    assert one.interrupted
    assert one.seeds == (0,)
    assert {each.name: len(each.runs) for each in one.standings} == {"adam": 1, "random": 1}


def test_an_interrupt_before_the_first_seed_is_over_leaves_nothing(decoder, tmp_path):
    def look(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lo.compare(problem(decoder), "adam", rows=ROWS, out=tmp_path / "out", on_report=look)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- files and the picture


def test_the_folder_holds_picture_figures_and_curves(found, tmp_path):
    folder = found.save(tmp_path / "out")
    assert sorted(path.name for path in folder.iterdir()) == ["compare.csv", "compare.json", "compare.png"]
    summary = json.loads((folder / "compare.json").read_text())
    assert summary == json.loads(json.dumps(found.summary()))
    assert [one["name"] for one in summary["searches"]] == [one.name for one in found.standings]
    assert summary["searches"][0]["loss"]["median"] == found.standings[0].loss
    assert [run["seed"] for run in summary["searches"][0]["runs"]] == [0, 1, 2]
    with (folder / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    mine = [row for row in rows if row["search"] == "adam" and row["axis"] == "rows"]
    curve = found["adam"].by_rows
    known = ~np.isnan(curve.median_G)
    assert np.allclose([float(row["median"]) for row in mine], curve.median_G[known])
    assert {row["axis"] for row in rows} == {"rows", "seconds"}
    with pytest.raises(lo.ConfigError, match="a run never overwrites another"):
        found.save(folder)


def test_a_folder_that_cannot_be_written_is_an_error(found, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latentopt.comparison.write_json", full)
    with pytest.raises(lo.InputFileError, match="No space left on device"):
        found.save(tmp_path / "out")


def test_the_picture_has_two_panels_with_every_name_and_band(found):
    figure = found.picture()
    FigureCanvasAgg(figure).draw()
    rows, seconds = figure.axes
    for axes in (rows, seconds):
        assert {text.get_text() for text in axes.texts} == {"adam", "random", "optuna sampler=random"}
        assert len(axes.collections) == 3
        assert axes.get_xscale() == "log"
        assert axes.get_yscale() == "log"
    assert (rows.get_xlabel(), seconds.get_xlabel()) == ("rows decoded, plus gradients taken", "seconds")
    assert any("3 seeds, 1200 rows a run, median of 3 targets" in text.get_text() for text in figure.texts)


def test_labels_do_not_overlap_and_stay_where_there_is_room():
    assert curves.spread([0.1, 0.5, 0.9], [0.1] * 3) == pytest.approx([0.1, 0.5, 0.9])
    assert curves.spread([0.5, 0.5, 0.5], [0.1] * 3) == pytest.approx([0.4, 0.5, 0.6])
    found = curves.spread([0.0, 0.01, 0.3], [0.1, 0.2, 0.1])
    assert found[1] - found[0] == pytest.approx(0.15)
    assert found[2] == pytest.approx(0.3)


def test_long_names_are_broken_into_lines():
    assert curves._lines("random keep=4 > adam") == "random keep=4 >\nadam"
    lines = curves._lines("optuna sampler=cmaes batch=50 evaluations=1000 coordinates=16 span=2").split("\n")
    assert len(lines) == 2
    assert lines[1].endswith("...")


# ---------------------------------------------------------------------- sizes


def test_what_has_a_size_field_is_sized_by_it_unless_it_was_set():
    assert sizing.size_field(Adam()) == "steps"
    assert sizing.size_field(RandomSearch()) == "evaluations"
    assert sizing.size_field(Adam(steps=300)) is None
    assert sizing.size_field(lo.SearchConfig()) is None


# ---------------------------------------------------------------------- the command line


def call(*arguments, code=0):
    found = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert found.exit_code == code, found.stderr
    return found


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A run file beside its target, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    np.save("target.npy", lo.examples.digits()[3].numpy())
    (tmp_path / "run.yaml").write_text("decoder: digits\ntask: {kind: optimize, target: target.npy, starts: mean}\n")
    return "run.yaml"


def test_several_searches_after_one_flag(file):
    """The command line as people type it, run file first, every installed search that needs no more than this."""
    heads = ["search", "best", "loss", "min..max", "rows", "time", "x", "random", "inside"]
    line = f"compare {file} --search adam optuna random --rows 120 --seeds 2"
    found = call(*line.split())
    assert found.stdout.splitlines()[0].split() == heads
    names = [row.split()[0] for row in found.stdout.splitlines()[1:4]]
    assert sorted(names) == ["adam", "optuna", "random"]
    assert "budget   2 seeds, 120 rows a run" in found.stdout
    assert "kept     nothing: add --out DIR" in found.stdout
    ended = [line.split(":")[0] for line in found.stderr.splitlines()]
    assert ended == [f"{name}, seed {seed}" for seed in (0, 1) for name in ("random", "adam", "optuna")]


@pytest.mark.parametrize(
    "line",
    [
        "compare run.yaml --search adam --search {kind:\\ random,\\ batch:\\ 5}",
        "compare --search adam {kind:\\ random,\\ batch:\\ 5} run.yaml",
        "compare --search adam run.yaml {kind:\\ random,\\ batch:\\ 5}",
        "compare -s adam -s {kind:\\ random,\\ batch:\\ 5} run.yaml",
    ],
)
def test_searches_and_file_come_in_any_order(file, line):
    words = [word.replace("\0", " ") for word in line.replace("\\ ", "\0").split()]
    found = json.loads(call(*words, "--rows", 60, "--seeds", 1, "--json").stdout)
    assert {one["name"] for one in found["searches"]} == {"adam", "random batch=5"}


def test_the_run_file_is_the_word_that_ends_like_one():
    assert options.run_file(["a", "b.yml", "c"]) == ("b.yml", ["a", "c"])
    assert options.run_file(["a", "b"]) == ("a", ["b"])


def test_json_and_files(file, tmp_path):
    line = "compare run.yaml --search [adam,adam] --rows 120 --seeds 2 --out out --json"
    found = call(*line.split(), "--set", "task.region=free")
    document = json.loads(found.stdout)
    assert document["folder"] == "out"
    assert sorted(document["files"]) == sorted(path.name for path in (tmp_path / "out").iterdir())
    saved = json.loads((tmp_path / "out/compare.json").read_text())
    assert {key: document[key] for key in saved} == saved
    assert document["seeds"] == [0, 1]
    assert document["budget"] == {"rows": 120, "seconds": None}
    assert {one["name"] for one in document["searches"]} == {"adam > adam", "random"}
    assert "x random" in found.stderr


def test_quiet_shows_no_progress(file):
    found = call("compare", file, "--search", "random", "--rows", 60, "--seeds", 1, "--quiet")
    assert found.stderr == ""
    assert "random" in found.stdout


def test_code_that_a_file_names_is_said_and_who_is_left_out_is_printed(file, tmp_path):
    task = "{kind: optimize, objectives: [{kind: blackbox, function: 'numpy:mean'}], starts: mean}"
    (tmp_path / file).write_text(f"decoder: digits\ntask: {task}\n")
    found = call("compare", file, "--search", "adam", "--rows", 60, "--seeds", 1)
    assert found.stderr.splitlines()[0] == "this config runs code: numpy:mean"
    assert "left out: adam: search 'adam' needs gradients" in found.stdout


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["run.yaml", "--search", "adan"], "unknown search 'adan'; did you mean 'adam'?"),
        (["run.yaml", "--search", "adam", "randon"], "unknown search 'randon'; did you mean 'random'?"),
        (["nowhere.yaml", "--search", "adam"], "nowhere.yaml"),
        (["run.yaml", "--rows", "0"], "budget: rows"),
        (["run.yaml", "--set", "task.kind=sample"], "unknown key"),
    ],
)
def test_errors_are_one_line(file, words, text):
    found = call("compare", *words, code=2)
    assert found.stdout == ""
    assert found.stderr.startswith("error: ")
    assert text in found.stderr


def test_a_folder_is_never_overwritten_and_that_is_said_before_the_work(file, tmp_path, monkeypatch):
    (tmp_path / "kept.txt").write_text("mine")
    monkeypatch.setattr(api, "run_with", None)
    found = call("compare", file, "--search", "adam", "--out", tmp_path, code=2)
    assert "a run never overwrites another" in found.stderr


def test_an_interrupted_comparison_exits_as_shells_expect(file, monkeypatch):
    def hold(self, chains, baseline, seeds, inner=contest._Contest.hold):
        def look(report):
            if report.name == "adam, seed 1":
                raise KeyboardInterrupt

        self.on_report = look
        return inner(self, chains, baseline, seeds)

    monkeypatch.setattr(contest._Contest, "hold", hold)
    found = call("compare", file, "--search", "adam", "--rows", 60, "--seeds", 3, code=130)
    assert "stopped  interrupted; these are the 1 seeds that every search had finished" in found.stdout


def test_a_terminal_shows_the_run_at_work(capsys):
    def report(name, step):
        return Report(0, name, step, 5, 10 * step, 0, 0.5, (0.25,), 0.25, 3, (0.25,) * 3)

    with progress.watch_runs(Console(stderr=True, force_terminal=True, width=160)) as look:
        look(report("a [b], seed 0", 1))
        look(report("a [b], seed 0", 2))
        assert "a [b], seed 0" in str(look.status.renderable.text)
        look(report("c, seed 0", 1))
    text = capsys.readouterr().err
    assert "a [b], seed 0: best 0.25, median 0.25, 3 alive, 20 rows, 0.5 s" in text
    assert "c, seed 0: best 0.25, median 0.25, 3 alive, 10 rows, 0.5 s" in text


def test_progress_of_a_comparison_as_lines_and_as_json(file):
    options = ["compare", file, "--search", "random", "--rows", 60, "--seeds", 2, "--progress"]
    lines = call(*options, "lines").stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["random, seed 0", "random, seed 1"]
    names = {json.loads(line)["name"] for line in call(*options, "jsonl").stderr.splitlines()}
    assert names == {"random, seed 0", "random, seed 1"}

"""Reports: what they say, that nothing from a file runs or breaks out, that they need no network, that they stay small."""

import dataclasses
import json
import re
from pathlib import Path

import moocore
import pytest
import torch
import yaml
from report_page import Page, assert_sound
from report_runs import FAST, STARTS, hostile, ink, run, with_drawn
from typer.testing import CliRunner
from xss import CORPUS

import latentopt as lo
from latentopt import cards, known, maps, plotbox, rng, thumbnails
from latentopt.cli import app
from latentopt.termcurves import term_curves
from latentopt.testing import toy_decoders


@pytest.fixture(scope="module")
def result():
    return run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "found"
    run(search=[FAST, {"kind": "lbfgs", "steps": 4}], budget={"rows": 500}, out=path)
    return path


# ---------------------------------------------------------------------- what it says


def test_a_report_says_what_was_found_and_what_it_is_worth(folder):
    found = lo.load(folder)
    page = Page(lo.report(folder))
    assert plotbox.number(found.best.loss) in page.text
    assert "Inside the given prior" in page.text or "Inside what the decoder knows" in page.text
    assert "found" in next(text for text in page.text.split("\n") if text.strip())
    for name in ("The answer", "Distinct designs", "Convergence", "Where the search went", "Budget and cost"):
        assert name in page.text
    assert f"{plotbox.number(found.cost.rows)} of 500" in page.text
    assert [one for one in ("adam", "lbfgs") if one in page.text] == ["adam", "lbfgs"]
    assert torch.__version__ in page.text, "the versions of run.json"
    words = [figure["alt"] for figure in page.all("img")]
    assert words[:3] == ["target", "found", words[2]]
    assert words[2].startswith("difference")


def test_its_config_is_the_runs_and_can_be_copied(folder):
    page = lo.report(folder)
    block = re.search(r'<pre id="config-text"[^>]*>(.*?)</pre>', page, re.DOTALL)
    import html

    assert yaml.safe_load(html.unescape(block[1])) == json.loads((folder / "config.json").read_text())
    assert Page(page).all("button") == [{"type": "button", "data-copy": "config-text"}]


def test_every_point_of_the_map_has_its_design(result):
    page = Page(lo.report(result))
    shown = [int(mark["data-p"]) for mark in page.all("path") if "data-p" in mark]
    assert sorted(shown) == list(range(len(result)))
    assert len(page.points) == len(result)
    assert all(point["u"].startswith("data:image/png;base64,") for point in page.points)
    assert page.points[0]["t"].startswith(f"loss {plotbox.number(float(result.losses[0]))}")
    dots = [mark["class"] for mark in page.all("path") if mark.get("class", "").startswith("dot")]
    assert dots.count("dot start") == 5 + 1  # and one in the legend
    assert dots.count("dot prior") == 256 + 1
    assert dots.count("dot top") == 1 + 1


def test_several_targets_each_have_an_answer_and_a_gallery():
    found = run(targets=3)
    page = Page(lo.report(found))
    assert [f"Target {t}" in page.text for t in range(4)] == [True, True, True, False]
    assert page.text.count("Target 2") == 2
    assert sum(one["alt"] == "target" for one in page.all("img")) == 3
    assert "all 3 inside" in page.text or "of 3 outside" in page.text


def test_many_targets_are_cut_and_said_to_be():
    page = Page(lo.report(run("vector", targets=30, starts=["mean"])))
    assert "and 6 targets more, which this page leaves out" in page.text


def test_an_outside_design_is_called_so():
    found = run(target=None, objectives=lambda c: -c.latents.square().sum(1), region="free", search={**FAST, "lr": 5.0})
    assert not bool(found.realism.inside[0])
    page = Page(lo.report(found))
    assert "outside" in [one.strip() for one in page.text.split("\n")]
    assert any("end out" in mark.get("class", "") for mark in page.all("path"))
    assert page.points[0]["t"].endswith("outside what is known")


def test_an_infeasible_run_says_by_how_much():
    bound = {"kind": "property", "function": ink, "name": "ink", "goal": {"at_most": -1.0}}
    found = run(constraints=[bound])
    page = Page(lo.report(found))
    by = f"{float(found.violations[0]):.3g}"
    assert f"No design keeps the constraints: the best break them by {by}." in page.text
    assert "at most -1" in page.text
    assert "no, by" in page.text
    assert "infeasible" in page.text


def test_a_feasible_run_says_so():
    bound = {"kind": "property", "function": ink, "name": "ink", "goal": {"at_most": 2.0}}
    page = Page(lo.report(run(constraints=[bound])))
    assert "feasible" in page.text
    assert "infeasible" not in page.text
    assert "at most 2" in page.text


@pytest.fixture(scope="module")
def front():
    objectives = ["mse", {"kind": "property", "function": ink, "name": "ink"}]
    return run(objectives=objectives, pareto=True, search={"kind": "adam", "steps": 20})


BOUNDS = [
    {"kind": "property", "function": ink, "name": "ink", "goal": {"at_most": 0.5}},
    {"kind": "property", "function": ink, "name": "<b>spread", "goal": {"between": [0.2, 0.6]}},
]


@pytest.fixture(scope="module")
def several():
    chain = [FAST, {"kind": "lbfgs", "steps": 4}]
    return run(targets=2, objectives=["mse", {"kind": "mae", "weight": 0.1}], constraints=BOUNDS, search=chain)


def section(page, name):
    return page.partition(f'id="{name}"')[2].partition("</section>")[0]


def test_several_terms_have_a_small_chart_each_with_their_bounds(several):
    part = section(lo.report(several), "terms")
    assert re.findall(r"<figcaption>(.*?)</figcaption>", part) == ["mse", "mae", "ink", "&lt;b&gt;spread"]
    assert part.count('class="bound"') == 1 + 2
    assert part.count('class="best"') == 4 * 2 * 2, "a line a term, a target and a stage"
    assert part.count('class="stage"') == 4
    words = Page(lo.report(several)).text
    assert "must be at most 0.5" in words
    assert "must be between 0.2 and 0.6" in words
    assert "dashed: its bound; upright: where a search of a later stage or of a race began" in words


def test_one_term_alone_and_runs_of_earlier_versions_have_no_such_charts(result, several):
    assert 'id="terms"' not in lo.report(result)
    bare = [{key: value for key, value in entry.items() if key != "terms"} for entry in several.history]
    old = dataclasses.replace(several, history=bare, paths=None)
    page = lo.report(old)
    assert 'id="terms"' not in page
    assert 'class="path"' not in page
    assert "path of the best row" not in page
    some = dataclasses.replace(several, history=bare[:3] + several.history[3:])
    (first, *_) = term_curves(some)
    assert sum(len(one.rows_R) for one in first.parts) == len(several.history) - 3, "resumed: from there on"


def test_a_bound_far_from_its_curve_does_not_flatten_it():
    far = {"kind": "property", "function": ink, "name": "ink", "goal": {"at_most": 1e6}}
    (_, curve) = term_curves(run(constraints=[far]))
    assert curve.bounds == (1e6,)
    assert max(curve.values()) < 2
    assert curve.goal == "must be at most 1e+06"


@pytest.mark.parametrize("goal", ["maximize", {"equals": 0.3}, {"at_least": "<i>"}, {}, 7, None])
def test_goals_in_words_come_from_any_config(several, goal):
    plain = [{key: value for key, value in one.items() if key != "function"} for one in BOUNDS]
    task = {"objectives": ["mse", {"kind": "mae", "goal": goal}], "constraints": plain}
    curves = term_curves(dataclasses.replace(several, config={"task": task}))
    assert [curve.goal for curve in curves][2:] == ["must be at most 0.5", "must be between 0.2 and 0.6"]
    assert curves[1].bounds == ((0.3,) if goal == {"equals": 0.3} else ())
    lo.report(dataclasses.replace(several, config={"task": task}))
    unknown = term_curves(dataclasses.replace(several, config={"task": {"objectives": ["mse"]}}))
    assert [curve.goal for curve in unknown] == [""] * 4


def test_the_map_shows_the_path_of_each_targets_best_row(several):
    part = section(lo.report(several), "map")
    legs = maps.latent_map(several).legs
    assert [(leg.target, leg.stage) for leg in legs] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert part.count('class="path"') == 4 + 1  # and one in the legend
    assert part.count('class="dot begin"') == part.count('class="dot hole"') == 2 + 1
    assert part.count('class="dot turn"') == 2 + 1
    assert "path of the best row of each target" in part
    assert "A path jumps where another row takes the lead. " in part
    paths = torch.cat([leg.places_R2 for leg in legs])
    far = dataclasses.replace(several, paths=several.paths * 50)
    assert maps.latent_map(far).legs[0].places_R2.abs().max() > 10 * paths.abs().max()
    inside = [
        float(n)
        for d in re.findall(r'class="path" d="M([^"]*)"', section(lo.report(far), "map"))[1:]
        for n in re.findall(r"[\d.-]+", d)
    ]
    assert all(0 <= place <= 1000 for place in inside), "the map holds its paths"
    assert maps.latent_map(dataclasses.replace(several, history=several.history[1:])).legs == []


def test_a_front_has_its_chart_and_members_spread_along_it(front):
    page = Page(lo.report(front))
    members = front.front()
    assert f"{len(members)} designs, none better than another in every objective" in page.text
    assert f"hypervolume {plotbox.number(float(front.hypervolumes[0]))}" in page.text
    ends = [f"mse {plotbox.number(float(members.terms['mse'][i]))}" for i in (0, -1)]
    assert all(end in page.text for end in ends)


def test_members_along_a_front_are_evenly_apart_and_hold_both_ends(front):
    mse = torch.cat([torch.linspace(0, 0.01, 50), torch.linspace(0.02, 1, 5)])
    many = front.take(torch.zeros(55, dtype=torch.long))
    many = dataclasses.replace(many, terms={"mse": mse, "ink": 1 - mse})
    rows = maps.along(many, 6)
    assert rows[0] == 0
    assert rows[-1] == 54
    assert torch.equal(maps.along(many.take(torch.arange(3)), 6), torch.arange(3))
    assert int((rows < 50).sum()) <= 2, "where members crowd, few are taken"


@pytest.mark.parametrize("name", ["waveform", "tokens", "vector", "volume", "image"])
def test_designs_of_every_kind_are_shown(name):
    page = Page(lo.report(run(name)))
    pictures = page.all("img")
    kind = "data:image/svg+xml" if name in ("waveform", "vector") else "data:image/png"
    assert all(one["src"].startswith(kind) for one in pictures[:3])


def test_a_result_of_two_or_one_latent_values_has_a_map_of_the_values_themselves():
    for dim in (1, 2):
        decoder = lo.Decoder(torch.nn.Linear(dim, 4), latent_shape=(dim,), prior="normal")
        found = lo.optimize(decoder, target=torch.zeros(4), search=FAST, starts=STARTS)
        spots = maps.latent_map(found)
        assert torch.equal(spots.found_N2[:, :dim].float(), found.latents)
        assert "latent value 0" in Page(lo.report(found)).text


def test_the_map_holds_the_directions_of_most_variance(result):
    spots = maps.latent_map(result)
    z = torch.cat([result.latents.flatten(1), result.starts]).double() / result.latent_std
    values = torch.linalg.svdvals(z - z.mean(0)).square()
    assert spots.share == pytest.approx(float(values[:2].sum() / values.sum()))
    assert spots.prior_P2.shape == (256, 2)
    assert float(spots.prior_P2.mean(0).abs().max()) < 1e-6, "the prior's mean is the middle"


def test_a_run_saved_without_starts_and_draws_has_a_map_all_the_same(result):
    old = dataclasses.replace(result, starts=None, prior_draws=None)
    assert "draws from the prior" not in Page(lo.report(old)).text
    one = old.take(torch.tensor([0]))
    assert "Where the search went" in Page(lo.report(one)).text


def test_starts_and_draws_are_saved(folder):
    found = lo.load(folder)
    assert found.starts.shape == (5, 4)
    assert found.prior_draws.shape == (256, 4)


def test_a_decoders_own_drawing_is_used_and_its_failure_is_told(result, monkeypatch):
    class Drawn(lo.DecoderConfig):
        kind: str = "drawn"

        def draw(self, designs):
            return torch.ones(len(designs), 3, 4, 4)

    class Broken(Drawn):
        def draw(self, designs):
            raise RuntimeError("no <ink>")

    decoder = toy_decoders()["vector"]
    found = run("vector")
    decoder.config = Drawn()
    assert Page(lo.report(found, decoder=decoder)).all("img")[0]["src"].startswith("data:image/png")
    decoder.config = Broken()
    page = lo.report(found, decoder=decoder)
    assert "drawing failed (RuntimeError: no &lt;ink&gt;); plain plots instead" in page
    assert Page(page).all("img")[0]["src"].startswith("data:image/svg")


def test_no_code_that_a_config_names_is_imported(result, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("open('ran', 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    plain = {"kind": "module", "factory": "evil_module:build", "latent_shape": [4]}
    lo.report(dataclasses.replace(result, config={**result.config, "decoder": plain}))
    assert not (tmp_path / "ran").exists()
    assert thumbnails.drawing({"decoder": plain}) is None
    assert thumbnails.drawing({"decoder": {"kind": ["unhashable"]}}) is None
    assert thumbnails.drawing({"decoder": {"kind": "digits", "nonsense": 1}}) is None


@pytest.mark.parametrize(
    ("config", "ends", "expected"),
    [
        ({}, (0.1, 0.9), (0, 1)),
        ({}, (-0.9, 0.9), (-1, 1)),
        ({}, (0.0, 250.0), (0, 255)),
        ({}, (-9.0, 4.0), (-9, 4)),
        ({"decoder": {"value_range": [-2, 2]}}, (0.1, 0.9), (-2, 2)),
        ({"decoder": {"value_range": [2, "x"]}}, (0.1, 0.9), (0, 1)),
    ],
)
def test_black_and_white_are_found_from_the_config_or_the_values(config, ends, expected):
    assert thumbnails.value_range(config, ends) == expected


# ---------------------------------------------------------------------- what it must not do


@pytest.mark.parametrize("text", CORPUS)
def test_nothing_from_a_file_becomes_markup(result, front, text):
    marked = dataclasses.replace(hostile(front, text), reference=front.reference)
    for page in (lo.report(hostile(result, text)), lo.report(marked)):
        parsed = Page(page)
        assert_sound(parsed)
        assert len(parsed.all("script")) == 2
        assert page.count("<script") == 2
        assert text.strip() in parsed.text or "\0" in text


@pytest.mark.parametrize("text", CORPUS)
def test_nothing_from_a_file_becomes_markup_in_comparisons_and_notebooks(result, text, tmp_path):
    evil = hostile(result, text)
    page = lo.report(evil, result)
    assert page.count("<script") == 2
    assert_sound(Page(page))
    card = Page(evil._repr_html_())
    assert {tag for tag, _ in card.elements} == {"div", "strong", "table", "tr", "th", "td", "figure", "img"}
    assert {tag for tag, _ in Page(evil.realism._repr_html_()).elements} == {"p"}


@pytest.mark.parametrize("text", [one for one in CORPUS if "/" not in one and "\0" not in one and len(one) < 200])
def test_nothing_from_a_folders_name_becomes_markup(result, text, tmp_path):
    path = result.save(tmp_path / text)
    (path / "run.json").write_text(json.dumps({"decoder": text, "versions": {text: text}, "plugins": [{"name": text}]}))
    page = lo.report(path)
    assert page.count("<script") == 2
    assert text.strip() in Page(page).text
    assert lo.report(path, path).count("<script") == 2


def test_what_is_no_text_at_all_can_be_written(result, tmp_path):
    """Names of files may come with bytes that are no UTF-8, which Python keeps as lone surrogates."""
    page = lo.report(dataclasses.replace(result, notes=["a note on run-\udcff"]), out=tmp_path / "report.html")
    assert "a note on run-?" in page
    assert (tmp_path / "report.html").read_text() == page


def test_a_page_names_nothing_outside_itself(folder, front, result):
    for page in (lo.report(folder), lo.report(front), lo.report(folder, result)):
        parsed = Page(page)
        policy = next(one["content"] for one in parsed.all("meta") if "http-equiv" in one)
        assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-")
        links = [a[key] for _, a in parsed.elements for key in ("src", "href", "srcset", "action", "data") if key in a]
        assert all(link.startswith("data:") for link in links)
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org/2000/svg)", page)
        assert "http" not in re.sub(r"http-equiv|http%3A//www\.w3\.org/2000/svg", "", page)


def test_the_policy_allows_the_pages_own_script_alone(result):
    import base64
    import hashlib

    page = lo.report(result)
    script = re.search(r"<script>(.*?)</script>", page, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert not re.search(r"<[^>]*\son\w+=", page), "no inline handlers"


def test_the_noisiest_run_stays_below_five_megabytes(result, monkeypatch):
    with_drawn(monkeypatch)
    n, targets = 2000, 30
    noise = torch.rand(n, 3, 128, 128, generator=rng.generator(0))
    index = torch.arange(n) * targets // n
    rows = {name: torch.zeros(n) for name in ("losses", "violations", "best_steps")}
    rows |= {"latents": torch.randn(n, 8, generator=rng.generator(1)), "designs": noise, "target_index": index}
    realism = result.realism.take(torch.zeros(n, dtype=torch.long))
    report = {**result.history[0], "rows_N": torch.rand(n).tolist(), "best_T": [0.1] * targets}
    terms = {f"term {i}": torch.rand(n) for i in range(24)}
    report["terms"] = {name: value[:targets].tolist() for name, value in terms.items()}
    history = [{**report, "step": i, "forward_rows": 10 * i} for i in range(300)]
    paths = torch.randn(300, 8, 8, generator=rng.generator(2))
    pictures = [{"kind": "drawn", "title": f"picture {i}", "noise": 800} for i in range(12)]
    config = {**result.config, "task": {"measures": pictures, "notes": "x" * 1_000_000}}
    changed = {
        "terms": terms,
        "measures": {f"drawn {i}": torch.zeros(n) for i in range(12)},
        "paths": paths,
        "realism": realism,
        "history": history,
        "targets": noise[:targets],
        "latent_std": None,
    }
    many = dataclasses.replace(result, **rows, **changed, starts=None, prior_draws=None, config=config)
    page = lo.report(many)
    assert len(page.encode()) < 5_000_000
    assert "letters more are in config.json" in page
    assert page.count('class="path"') == 8 + 1
    assert page.count(", drawn by drawn ") == 12
    assert page.count("<figcaption>term ") == 24
    assert "of the first 4 targets" in page


# ---------------------------------------------------------------------- where it goes


def test_it_is_written_beside_the_run_and_the_run_stays_sound(folder):
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert (folder / "report.html").read_text() == lo.report(folder)
    assert CliRunner().invoke(app, ["report", str(folder)]).exit_code == 0, "a report is made again"
    lo.load(folder)
    (folder / "report.html").unlink()


def test_a_file_that_is_no_report_is_left_alone(result, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(lo.ConfigError, match="exists and is no report of latentopt: choose another file"):
        lo.report(result, out=tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "mine"
    with pytest.raises(lo.ConfigError, match="is a folder: give the report a file"):
        lo.report(result, out=tmp_path)
    with pytest.raises(lo.InputFileError, match="cannot write"):
        lo.report(result, out=tmp_path / "mine.html" / "below.html")


def test_what_is_no_finished_run_is_refused(result, tmp_path):
    with pytest.raises(lo.ConfigError, match="a report needs a run: give a result, or the folder of one"):
        lo.report()
    with pytest.raises(lo.InputFileError, match="is not the folder of an optimize run"):
        lo.report(tmp_path)
    (tmp_path / "run.json").write_text('{"status": "running"}')
    with pytest.raises(lo.InputFileError, match=r"cannot be read \(ValueError: schema None\)"):
        lo.report(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": 1, "status": "failed", "error": "no luck"}')
    with pytest.raises(lo.InputFileError, match=r"failed \(no luck\): there is nothing to report"):
        lo.report(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(lo.InputFileError, match=r"run.json cannot be read .*it is damaged"):
        lo.report(tmp_path)
    with pytest.raises(lo.ConfigError, match="the result holds no designs: there is nothing to report"):
        lo.report(result.take(torch.tensor([], dtype=torch.long)))


# ---------------------------------------------------------------------- several runs


def test_several_runs_are_compared_on_one_axis(folder, result, tmp_path):
    other = run(seed=3, search={**FAST, "lr": 0.01})
    page = Page(lo.report(folder, other, out=tmp_path / "both.html"))
    assert "2 runs compared" in page.text
    losses = [plotbox.number(float(one.losses[0])) for one in (lo.load(folder), other)]
    assert all(loss in page.text for loss in losses)
    assert "task.search" in page.text
    assert "adam > lbfgs" in page.text
    assert "seed" in page.text
    assert sum(mark.get("class") == "run run1" for mark in page.all("path")) == 2  # and one in the legend
    assert "do not solve one problem" not in page.text


def test_fronts_are_compared_by_hypervolumes_up_to_one_point(front):
    objectives = ["mse", {"kind": "property", "function": ink, "name": "ink"}]
    short = run(objectives=objectives, pareto=True, search={"kind": "adam", "steps": 1}, seed=3)
    corner = torch.stack([front.reference[0], short.reference[0]]).amax(0).double().numpy()
    volumes = []
    for one in (short, front):
        losses = torch.stack([one.front().terms[name] for name in ("mse", "ink")], 1).double()
        volumes.append(moocore.hypervolume(losses.numpy(), ref=corner))
    assert known.front_volumes([short, front]) == pytest.approx(volumes)
    assert volumes[1] > volumes[0]
    page = lo.report(short, front)
    rows = page.partition('id="standings"')[2].partition("</table>")[0].split("<tr>")[2:]
    assert [plotbox.number(volume) in row for volume, row in zip(volumes[::-1], rows, strict=True)] == [True, True]
    assert f'<td class="n">{len(front.front())}</td>' in rows[0]
    assert "Hypervolumes are up to one point" in page
    assert known.front_volumes([front, run()]) is None
    assert "least sum" not in lo.report(front, run())


def with_objectives(found, change):
    """A front whose first objective's config is changed, as in a folder that was received."""
    first, *others = found.config["task"]["objectives"]
    task = {**found.config["task"], "objectives": [change(first), *others]}
    return dataclasses.replace(found, config={**found.config, "task": task})


@pytest.mark.parametrize(
    "change",
    [
        lambda one: {**one, "weight": 2.0},
        lambda one: {**one, "goal": "maximize"},
        lambda one: {**one, "goal": {"equals": []}},
        lambda one: {**one, "weight": "heavy"},
        lambda one: "mse",
    ],
    ids=["weight", "goal", "no goal", "no weight", "no config"],
)
def test_fronts_of_other_or_unreadable_aims_have_no_common_hypervolume(front, change):
    other = with_objectives(front, change)
    assert known.front_volumes([front, other]) is None
    assert "Hypervolumes are up to one point" not in lo.report(front, other)


def test_a_front_without_members_is_compared_as_nothing(front):
    empty = dataclasses.replace(front, violations=torch.ones_like(front.violations))
    assert known.front_volumes([front, empty])[1] == 0
    page = lo.report(front, empty)
    assert '<td class="n">0</td><td class="n">0</td>' in page


def test_a_page_says_which_plugins_are_not_here(result):
    task = {**result.config["task"], "objectives": [{"kind": "<i>lift"}]}
    config = {**result.config, "decoder": {"kind": "wings"}, "task": task}
    page = lo.report(dataclasses.replace(result, config=config))
    words = "no plugin that is installed here adds &#39;wings&#39;, &#39;&lt;i&gt;lift&#39;: what it knows and draws"
    assert words in page
    assert "no plugin that is installed here" not in lo.report(result)


def test_runs_of_different_problems_are_told_apart(result):
    other = run("vector")
    text = Page(lo.report(result, other)).text
    assert "These runs do not solve one problem: decoder, target differ." in text


def test_runs_of_one_config_differ_in_nothing(result):
    assert "Their configs are the same." in Page(lo.report(result, result)).text


def test_an_infeasible_run_among_others_is_marked():
    bound = {"kind": "property", "function": ink, "name": "ink", "goal": {"at_most": -1.0}}
    page = Page(lo.report(run(), run(constraints=[bound])))
    assert "breaks its constraints" in page.text
    assert any(mark.get("class") == "run run1 dashed" for mark in page.all("path"))


# ---------------------------------------------------------------------- notebooks


def test_notebooks_show_results_and_draws(result, front):
    card = Page(result._repr_html_())
    assert plotbox.number(result.best.loss) in card.text
    assert str(result.best.realism) in card.text
    assert 1 <= len(card.all("img")) <= 12
    draws = lo.sample(toy_decoders()["image"], 30)
    assert len(Page(draws._repr_html_()).all("img")) == 12
    path = lo.interpolate(toy_decoders()["image"], torch.eye(4)[:2], steps=9)
    card = Page(path._repr_html_())
    assert "t = 1.00" in card.text
    assert len(card.all("img")) == 9
    assert "no designs" in result.take(torch.tensor([], dtype=torch.long))._repr_html_()
    assert len(Page(cards.of_result(run(targets=3))).all("img")) == 3


# ---------------------------------------------------------------------- numbers and places


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345, "12\u202f345"), (0.031245, "0.0312"), (1.5e-9, "1.5e-09"), (0.0, "0"), (float("nan"), "none"),
     (float("inf"), "∞"), (-float("inf"), "−∞"), (1234.56, "1\u202f235"), (7e7, "7e+07")],
)  # fmt: skip
def test_numbers_are_short(value, text):
    assert plotbox.number(value) == text


def test_axes_hold_their_values_and_few_ticks():
    for values in (
        [0.0, 1.0],
        [1e-9, 3.0],
        [5.0, 5.0],
        [0.0, 0.0],
        [-3.0, 1e6],
        [],
        [float("inf"), 2.0],
        [1e-300, 1e300],
        [0.0042, 0.02],
    ):
        for log in (False, True):
            axis = plotbox.Axis.over(values, log=log)
            ticks = axis.ticks(5)
            assert len(ticks) <= 6
            assert all(0 <= at <= 100 for at, _ in ticks)
            assert len({text for _, text in ticks}) == len(ticks)
            assert all(-1 <= axis.place(v) <= 1001 for v in values if abs(v) < 1e308 and v == v)
    assert plotbox.Axis(1, 100, log=True, down=True).place(10) == pytest.approx(500)


def test_labels_in_lanes_never_overlap_and_never_stick_out():
    placed = plotbox.lanes([0, 10, 12, 90, 95], [30, 30, 30, 30, 30], 100)
    for i, (a, lane) in enumerate(placed):
        assert 0 <= a <= 70
        assert all(b + 30 <= a or b >= a + 30 for b, other in placed[:i] if other == lane)
    assert max(lane for _, lane in placed) == 2
    assert plotbox.lanes([], [], 100) == []


def test_long_rows_keep_their_peaks():
    row = torch.zeros(5000).double().numpy()
    row[1234], row[4001] = 7.0, -3.0
    thin = thumbnails._thinned(row, 80)
    assert len(thin) == 80
    assert thin.max() == 7
    assert thin.min() == -3


def test_templates_and_style_are_in_the_package():
    names = {path.name for path in (Path(lo.__file__).parent / "pages").iterdir()}
    assert names == {"base.html", "parts.html", "report.html", "compare.html", "report.css", "report.js"}

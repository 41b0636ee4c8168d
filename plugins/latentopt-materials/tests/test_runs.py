"""The runs that the package ships, some of them shorter: what they find beats what is known, inside the prior."""

import importlib.resources
import importlib.util
import math
from pathlib import Path

import pytest
import torch

import latentopt as lo
from latentopt_materials import Conductivity, Percolation, TwoPoint, VolumeFraction
from latentopt_materials.properties import SETS

SCRIPT = Path(__file__).parents[1] / "scripts" / "runs.py"
README = SCRIPT.parents[1] / "README.md"
spec = importlib.util.spec_from_file_location("runs", SCRIPT)
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
NAMES = ["anisotropic", "demo", "front", "improve", "percolating", "polish", "statistics"]


def of(config, designs):
    """What an objective says of designs, from their own numbers."""
    n = len(designs)
    rows = lo.Candidates(torch.zeros(n, 32), designs, torch.zeros(n, dtype=torch.long))
    return config.build(lo.load_decoder("microstructures"))(rows)


def mean(tensors):
    return tensors.diagonal(dim1=1, dim2=2).mean(1)


def test_all_runs_are_listed_here_and_in_the_readme():
    files = (importlib.resources.files("latentopt_materials") / "runs").iterdir()
    assert sorted(one.name.removesuffix(".yaml") for one in files if one.name.endswith(".yaml")) == NAMES
    table = README.read_text().partition("<!-- begin runs -->")[2].partition("<!-- end runs -->")[0]
    assert sorted(line.split("`")[1] for line in table.splitlines() if line.startswith("| `")) == NAMES


@pytest.mark.parametrize(("v", "s"), [(0.3, 0.2), (0.3, 0.8), (0.5, 0.5), (0.7, 0.2), (0.7, 0.8)])
def test_conductivities_over_the_volume_fraction_are_hit(v, s):
    one = runs.hit(v, runs.wish(v, s))
    assert one["off"] < 0.001  # of the range between the phases; the demand is 0.01
    assert one["v off"] < 0.0005
    assert one["inside"]
    assert len(one["known losses"]) == 2
    assert one["loss"] < min(one["known losses"])
    assert abs(one["thresholded"] - one["k"]) < 0.03 * runs.RANGE  # cut into two phases, without a search for that


def test_the_table_of_wishes_has_no_miss():
    table = README.read_text().partition("<!-- begin grid -->")[2].partition("<!-- end grid -->")[0]
    rows = [line.split("|")[1:-1] for line in table.splitlines() if line.startswith("| 0.")]
    assert len(rows) == len(runs.GRID_V) * len(runs.GRID_S)
    for row in rows:
        v, s = float(row[0]), float(row[1].split("(")[1].rstrip("%) ")) / 100
        assert float(row[1].split("(")[0]) == runs.wish(v, s)
        assert float(row[2].strip().rstrip("%")) < 1
        assert row[7].strip() == "inside"


def test_the_demo_measures_the_thresholded_design_and_keeps_the_bounds(tmp_path):
    found, _ = runs.run("demo", out=tmp_path / "demo")
    best = found.best
    cut = (best.design > 0.5).float()[None]
    assert float(best.measures["conductivity as thresholded"]) == pytest.approx(
        float(mean(Conductivity().tensors(cut)))
    )
    assert float(best.measures["volume fraction as thresholded"]) == pytest.approx(float(cut.mean()))
    page = lo.report(tmp_path / "demo")
    for words in (*SETS.values(), "Wiener bounds", "Hashin-Shtrikman bounds", "Beside what is known"):
        assert words in page


def test_the_most_anisotropic_beats_all_that_are_known_and_stays_below_a_laminate():
    found, _ = runs.run("anisotropic")
    best = found.best
    v = float(best.terms["volume_fraction"])
    lower, upper = runs.bounds.means(torch.tensor(v), (1.0, 10.0))
    draws, training = lo.standings(found)
    assert best.feasible
    assert bool(best.realism.inside)
    assert max(draws.terms["anisotropy"], training.terms["anisotropy"]) < float(best.terms["anisotropy"])
    assert 0.98 * float(upper / lower) < float(best.terms["anisotropy"]) < float(upper / lower)
    assert float(best.measures["anisotropy as thresholded"]) > 0.97 * float(upper / lower)


def test_the_front_dominates_more_than_all_that_are_known():
    found, _ = runs.run("front", "task.search.0.steps=25")
    draws, training = lo.standings(found)
    assert float(found.hypervolumes[0]) > 1.1 * max(draws.hypervolume, training.hypervolume) > 0
    assert found.realism.inside.all()
    assert found.feasible.all()
    assert float(found.terms["conductivity along x"].max()) < runs._wiener(0.51)
    assert float(found.terms["stiffness along y"].max()) < runs._voigt(0.51)


def test_what_was_explored_without_gradients_is_polished_with_them(tmp_path):
    explored, _ = runs.run("percolating", "task.search.0.evaluations=1200", out=tmp_path / "explored")
    draws, training = lo.standings(explored)
    assert explored.best.feasible
    assert bool(explored.best.realism.inside)
    assert explored.best.loss < 0.9 * min(draws.loss, training.loss)
    assert draws.violation == training.violation == 0
    assert float(of(Percolation(direction="all"), explored.best.design[None])) > 0.9
    polished, _ = runs.run("polish", f"task.starts.0.folder={tmp_path / 'explored'}", "task.search.0.steps=60")
    assert polished.best.feasible
    assert bool(polished.best.realism.inside)
    assert polished.best.loss < explored.best.loss
    assert polished.best.loss > runs._lightest(1.5)
    assert float(polished.best.measures["percolation"]) > 0.9
    assert float(of(VolumeFraction(), polished.best.design[None])) == pytest.approx(polished.best.loss, abs=1e-5)


def test_polishing_refuses_to_start_from_nothing():
    with pytest.raises(lo.InputFileError, match="explored"):
        runs.run("polish")


def test_gradient_searches_refuse_percolation():
    with pytest.raises(lo.GradientError, match="no gradient reaches the latents from 'percolation'"):
        runs.run("percolating", "task.search=[{kind: adam, steps: 2}]")


def test_a_structure_comes_back_from_its_two_point_statistics():
    found, _ = runs.run("statistics")
    best, target = found.best, found.targets
    assert bool(best.realism.inside)
    draws, training = lo.standings(found)
    assert math.sqrt(best.loss) < 0.2 * math.sqrt(min(draws.loss, training.loss))
    own = TwoPoint().statistics(best.design[None]) - TwoPoint().statistics(target)
    assert float(own.square().mean()) == pytest.approx(best.loss, rel=1e-3)
    # statistics do not see shifts and turns by 180 degrees: the structure itself comes back in one of these
    turned = best.design[0]
    fits = []
    for one in (turned, turned.flip(0, 1)):
        product = torch.fft.irfft2(torch.fft.rfft2(one) * torch.fft.rfft2(target[0, 0]).conj()).max()
        fits.append(float(one.square().mean() + target.square().mean() - 2 * product / one.numel()))
    assert min(fits) < 0.02  # mean squared difference; 0.24 between a structure and one that has nothing to do with it
    assert float(best.measures["conductivity"]) == pytest.approx(float(mean(Conductivity().tensors(target))), rel=0.02)


def test_a_structure_is_improved_by_little_change():
    found, _ = runs.run("improve", "task.search.0.steps=80")
    best, target = found.best, found.targets
    assert best.feasible
    assert bool(best.realism.inside)
    assert float(best.terms["conductivity"]) >= 1.1 * float(mean(Conductivity().tensors(target)))
    assert best.loss < 0.03
    draws, training = lo.standings(found)
    assert draws.violation == training.violation == 0
    assert best.loss < 0.3 * min(draws.loss, training.loss)


def test_the_readmes_words_on_cutting_are_what_the_script_finds():
    table = README.read_text().partition("<!-- begin cut -->")[2].partition("<!-- end cut -->")[0]
    decoder = lo.load_decoder("microstructures")
    draws = lo.sample(decoder, 200, seed=0).designs
    fall = runs._conductivity(draws, None) - runs._conductivity(draws, 0.5)
    share = torch.tensor([0.5, 0.9, 1.0])
    assert f"| {runs._spelt(fall.quantile(share.to(fall)))} |" in table
    assert f"| {float(runs._grey(decoder.decode(torch.zeros(1, decoder.dim)))):.2f} |" in table
    assert f"| {runs._spelt(runs._grey(draws).quantile(share))} |" in table

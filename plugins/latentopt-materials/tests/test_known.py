"""The solver against what is known exactly; scripts/known.py says how."""

import importlib.util
import runpy
from pathlib import Path

import pytest
import torch
import yaml

from latentopt_materials import OBJECTIVES

SCRIPT = Path(__file__).parents[1] / "scripts" / "known.py"
README = SCRIPT.parents[1] / "README.md"
spec = importlib.util.spec_from_file_location("known", SCRIPT)
known = importlib.util.module_from_spec(spec)
spec.loader.exec_module(known)


@pytest.mark.parametrize("name", ["laminate_errors", "turned_errors"])
def test_what_the_grid_represents_is_exact(name):
    errors = getattr(known, name)()
    assert len(errors) >= 2
    assert max(errors.values()) < 1e-12


@pytest.mark.parametrize(("contrast", "last", "order"), [(2.0, 1e-3, 1.56), (10.0, 0.02, 0.78)])
def test_the_checkerboard_goes_to_the_geometric_mean_at_the_singularitys_own_rate(contrast, last, order):
    sizes = (16, 32, 64, 128)
    errors = known.checkerboard_errors(contrast, sizes)
    assert all(e > 0 for e in errors)  # conforming elements: the energy, and so the conductivity, comes from above
    assert errors[-1] < last
    assert known.orders(errors, sizes)[-1] == pytest.approx(order, abs=0.05)


@pytest.mark.parametrize("contrast", [0.001, 10.0, 1000.0])
def test_a_dilute_disc_goes_to_maxwells_formula(contrast):
    errors = known.inclusion_errors(contrast, (32, 64, 128), 2)
    assert errors[0] > errors[1] > errors[2] > 0
    assert errors[2] < 0.03
    assert known.orders([errors[0], errors[2]], (32, 128))[0] > 0.5


def test_a_dilute_ball_goes_to_maxwells_formula():
    errors = known.inclusion_errors(10.0, (12, 24), 3)
    assert errors[0] > errors[1] > 0
    assert errors[1] < 0.1


def test_random_structures_of_two_phases_keep_their_bounds():
    found = known.bound_margins(16)
    assert len(found) == 20
    for name, (outside, margin) in found.items():
        assert outside == 0, f"{name}: {outside} outside, by {margin}"


@pytest.mark.parametrize("kind", ["conductivity", "stiffness"])
@pytest.mark.parametrize("dim", [2, 3])
def test_gradients_are_those_of_central_differences(kind, dim):
    assert known.gradient_error(kind, dim) < 1e-6


def test_at_a_contrast_of_1000_the_tolerance_is_kept():
    for row in known.accuracy_rows(1000.0, n=32):
        floor = 2e-6 if row["precision"] == "float32" else 0.0
        assert row["value"] < row["tolerance"] + floor
        assert row["gradient"] < 3 * row["tolerance"] ** 0.5


def test_the_readme_has_the_tables_and_nobody_edits_them_by_hand():
    text = README.read_text()
    table = text.split("<!-- begin known -->")[1].split("<!-- end known -->")[0]
    for name in known.laminate_errors():
        assert f"laminate, across and along: {name}" in table
    errors = known.checkerboard_errors(2.0, (16, 32, 64, 128, 256))
    assert known.refined("checkerboard, contrast 2", errors, (16, 32, 64, 128, 256))[2] in table


def test_effective_conductivity_of_grey_designs_is_that_of_their_pixels():
    grey = torch.full((1, 1, 8, 8), 0.25, dtype=torch.float64)
    tensor = known.Conductivity(phases=(2.0, 10.0), precision="float64", tolerance=1e-10).tensors(grey)
    assert torch.allclose(tensor[0], 4.0 * torch.eye(2, dtype=torch.float64))
    steeper = known.Conductivity(phases=(2.0, 10.0), exponent=2, precision="float64").tensors(grey)
    assert torch.allclose(steeper[0], 2.5 * torch.eye(2, dtype=torch.float64))


def test_the_readmes_code_runs(tmp_path):
    blocks = README.read_text().partition("## Solver")[2].split("```python\n")[1:]  # test_readme.py runs the others
    assert blocks
    for block in blocks:
        (tmp_path / "block.py").write_text(block.split("```")[0])
        assert runpy.run_path(str(tmp_path / "block.py"))["tensors"].shape == (8, 2, 2)


def test_the_readmes_run_file_is_valid():
    block = README.read_text().split("```yaml\n")[1].split("```")[0]
    for entry in (one for part in yaml.safe_load(block).values() for one in part):
        kinds = {config.kind_name(): config for config in OBJECTIVES}
        kinds[entry["kind"]].model_validate(entry)


def test_the_readme_names_every_objective():
    for config in OBJECTIVES:
        assert f"| `{config.kind_name()}` |" in README.read_text()

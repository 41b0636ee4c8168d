import importlib.resources

import pytest
import torch

import latentopt as lo
from latentopt import DecoderError
from latentopt.testing import DecoderConformance
from latentopt_airfoils import Airfoils, AirfoilShape, published, real
from latentopt_airfoils.outlines import metric, outline


class TestAirfoils(DecoderConformance):
    config = Airfoils()


def test_it_is_found_by_name_and_its_prior_agrees_with_the_real_ones():
    decoder = lo.load_decoder("airfoils")
    assert decoder.design_shape == (18,)
    assert f"agrees with {len(real().names)} encodings" in str(decoder.space.evidence)
    assert not decoder.notes


def test_it_is_as_good_as_its_record():
    recorded = published.record()["decoder"]["held_out"]
    decoder, known = lo.load_decoder("airfoils"), real()
    examples = lo.examples.airfoils()
    assert len(examples) == recorded["airfoils"] == int(known.held_out.sum())
    root = metric().float().T
    error = ((decoder.decode(decoder.encode(examples)) - examples) @ root).norm(dim=1)
    spread = ((examples - known.numbers[~known.held_out].mean(0)) @ root).square().sum(1).mean()
    kept = float(1 - error.square().mean() / spread)
    assert kept == pytest.approx(recorded["outline_variance_kept"], abs=1e-4)
    assert kept > 0.99
    assert float(error.median()) == pytest.approx(recorded["outline_error_chords"]["median"], rel=0.02)
    assert float(error.median()) < 0.001


def test_draws_from_its_prior_are_airfoils():
    draws = lo.sample("airfoils", 500, seed=3).designs
    thick = AirfoilShape().of(draws)
    crossed = AirfoilShape(quantity="thinnest").of(draws) < 0
    assert crossed.float().mean() < 0.02
    assert float(thick.amin()) > 0.02
    assert float(thick.amax()) < 0.4
    assert float(draws[:, 17].amin()) >= 0


def test_the_table_holds_distinct_airfoils_with_names():
    known = real()
    assert len(known.names) == len(set(known.names)) == len(known.numbers) > 1800
    assert {"n0012", "naca4412", "e216", "clarky"} <= set(known.names)
    assert torch.isfinite(known.numbers).all()
    assert 0.09 < known.held_out.float().mean() < 0.11


def test_the_table_is_what_the_fit_gives():
    aerosandbox = pytest.importorskip("aerosandbox")
    known = real()
    for name in ("n0012", "e216", "fx76mp120", "clarky"):
        airfoil = (
            aerosandbox.Airfoil(name).normalize().to_kulfan_airfoil(n_weights_per_side=8, normalize_coordinates=False)
        )
        found = known.numbers[known.names.index(name)].double()
        expected = [*airfoil.upper_weights, *airfoil.lower_weights, airfoil.leading_edge_weight, airfoil.TE_thickness]
        assert found.tolist() == pytest.approx([float(value) for value in expected], abs=1e-6)
        x_K, upper, lower = outline(found[None])
        points = airfoil.coordinates
        nose = points[:, 0].argmin()
        assert float(upper[0, 50]) == pytest.approx(_at(points[: nose + 1][::-1], float(x_K[50])), abs=1e-4)
        assert float(lower[0, 50]) == pytest.approx(_at(points[nose:], float(x_K[50])), abs=1e-4)


def _at(points, x):
    import numpy as np

    return float(np.interp(x, points[:, 0], points[:, 1]))


# ---------------------------------------------------------------------- pictures


def test_pictures_cover_the_area_of_the_airfoil_at_one_scale():
    designs = real().numbers[::100]
    pictures = Airfoils().draw(designs)
    assert pictures.shape == (len(designs), 1, 80, 192)
    assert float(pictures.amin()) >= 0
    assert float(pictures.amax()) <= 1
    covered = (1 - pictures).sum((1, 2, 3)) / 0.85 / 176**2
    assert torch.allclose(covered, AirfoilShape(quantity="area").of(designs), rtol=0.01)


def test_pictures_are_the_right_way_up():
    cambered = real().numbers[[real().names.index("naca4412")]]
    dark_H = (1 - Airfoils().draw(cambered))[0, 0].sum(1)
    middle = (dark_H * torch.arange(80)).sum() / dark_H.sum()
    chord_line = 40 + 0.04 * 176
    assert float(middle) < chord_line - 2  # rows count downwards: most of it is above the chord line


# ---------------------------------------------------------------------- files


def test_other_files_than_the_published_are_refused(monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    folder = importlib.resources.files("latentopt_airfoils") / "data"
    (tmp_path / "data" / "airfoils.json").write_bytes((folder / "airfoils.json").read_bytes())
    monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path)
    text = "the file airfoils.safetensors of latentopt-airfoils cannot be read .*: reinstall latentopt-airfoils"
    with pytest.raises(DecoderError, match=text):
        published.raw("airfoils.safetensors")
    (tmp_path / "data" / "airfoils.safetensors").write_bytes(b"other")
    with pytest.raises(
        DecoderError, match="has sha256 d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa, expected"
    ):
        published.raw("airfoils.safetensors")
    with pytest.raises(DecoderError, match="the file other of latentopt-airfoils cannot be read"):
        published.raw("other")

"""Moving pictures: read back frame by frame, and refused at the door where they cannot be."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import latentopt as lo
from latentopt import animation
from latentopt.animation import Style, frames

needs_video = pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is None, reason="the extra video")


def read(path):
    """Frames `(F, H, W, 3)` and the file's own word on time and repetition."""
    with Image.open(path) as image:
        shown = []
        times = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            times.append(image.info.get("duration"))
            shown.append(np.array(image.convert("RGB")))
        return np.stack(shown), times, image.info.get("loop")


def read_mp4(path):
    """Frames `(F, H, W, 3)` and frames a second, by ffmpeg itself: imageio's reader leaves its pipes open."""
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
    about = next(line for line in done.stderr.decode().splitlines() if "Video: h264" in line)
    wide, high = map(int, re.search(r", (\d+)x(\d+)", about).groups())
    fps = float(re.search(r"([\d.]+) fps", about)[1])
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, high, wide, 3), fps


def enlarged(design, factor=4):
    """A grey design `(1, H, W)` as the pixels of a frame."""
    pixels = (design[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return np.repeat(pixels.repeat(factor, 0).repeat(factor, 1)[..., None], 3, 2)


@pytest.fixture(scope="module")
def decoder():
    return lo.load_decoder("digits")


@pytest.fixture(scope="module")
def path(decoder):
    return lo.interpolate(decoder, designs=lo.examples.digits()[[13, 18]], steps=7)


@pytest.mark.parametrize("ending", [".gif", ".webp", ".GIF"])
def test_a_path_shows_each_design_as_it_is(ending, decoder, path, tmp_path):
    file = lo.animate(decoder, path, tmp_path / f"p{ending}", fps=20, size=112)
    shown, times, loop = read(file)
    assert shown.shape == (7, 112, 112, 3)
    for frame, design in zip(shown, path.designs, strict=True):
        assert np.array_equal(frame, enlarged(design))
    assert times == [50] * 7
    assert loop == 0, "it repeats for ever"
    assert [one.name for one in tmp_path.iterdir()] == [file.name]


def test_back_and_forth_repeats_without_a_jump(decoder, path, tmp_path):
    file = lo.animate(decoder, path.designs, tmp_path / "p.webp", back=True, size=28)
    shown = read(file)[0]
    assert len(shown) == 12
    assert np.array_equal(shown[6], enlarged(path.designs[6], 1))
    assert np.array_equal(shown[7:], shown[5:0:-1])


@needs_video
@pytest.mark.parametrize("fps", [5.0, 24.0])
def test_mp4_has_these_frames_at_this_speed(fps, decoder, path, tmp_path):
    file = lo.animate(decoder, path, tmp_path / "p.mp4", fps=fps, size=112)
    shown, found = read_mp4(file)
    assert shown.shape == (7, 112, 112, 3)
    assert found == pytest.approx(fps)
    for frame, design in zip(shown, path.designs, strict=True):
        assert np.abs(frame.astype(float) - enlarged(design)).mean() < 1
    assert [one.name for one in tmp_path.iterdir()] == ["p.mp4"]


@needs_video
def test_mp4_of_odd_sides_repeats_an_edge(tmp_path):
    animation._write_mp4(tmp_path / "odd.mp4", [np.full((27, 33, 3), 90, np.uint8)] * 2, 10)
    shown, _ = read_mp4(tmp_path / "odd.mp4")
    assert shown.shape == (2, 28, 34, 3)
    assert np.abs(shown.astype(int) - 90).max() <= 2


def test_colours_survive(tmp_path):
    decoder = lo.Decoder(nn.Sequential(nn.Linear(4, 3 * 64), nn.Sigmoid(), nn.Unflatten(1, (3, 8, 8))), (4,))
    designs = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = (designs * 255).round().permute(0, 2, 3, 1).numpy()
    exact = read(lo.animate(decoder, designs, tmp_path / "c.webp", size=16))[0]
    assert np.array_equal(exact[:, ::2, ::2], whole)
    near = read(lo.animate(decoder, designs, tmp_path / "c.gif", size=16))[0]
    assert np.abs(near[:, ::2, ::2].astype(float) - whole).mean() < 4


def test_several_targets_stand_side_by_side_on_white():
    pictures = torch.zeros(2, 3, 1, 8, 8)
    pictures[1, 2] = 0.5
    first, second = frames(pictures, 32)
    assert first.shape == second.shape == (36, 36, 3), "two by two of 16, and a gap of 4"
    assert first[0, 16:20].min() == 255, "the gap"
    assert first[20:, 20:].min() == 255, "no fourth target"
    assert (second[20:, :16] == 128).all()
    assert (first[20:, :16] == 0).all()


# ---------------------------------------------------------------------- searches


def test_a_film_goes_from_the_starts_to_the_designs_found(decoder, tmp_path):
    film = lo.Film(decoder)
    targets = lo.examples.digits()[:2]
    search = {"kind": "adam", "steps": 6}
    found = lo.optimize(decoder, target=targets, starts="mean", search=search, on_report=film)
    assert found.cost.forward_rows == 2 * 7 + 4, "the film costs the run nothing: 7 evaluations, designs, their cycle"
    film.finish(found)
    assert len(film) == len(found.history) + 1
    shown, times, _ = read(film.write(tmp_path / "s.gif", size=56))
    assert sum(times) == 100 * len(film), "frames that are alike are one that lasts longer"
    start = decoder.decode(decoder.space.mean(torch.zeros(1, 20))[None])[0]
    for frame, one, two in ((shown[0], start, start), (shown[-1], *found.best.design)):
        assert np.abs(frame[:, :28].astype(int) - enlarged(one, 1)).max() <= 1
        assert np.abs(frame[:, 32:].astype(int) - enlarged(two, 1)).max() <= 1


def test_a_film_of_nothing(decoder, tmp_path):
    with pytest.raises(lo.ConfigError, match="nothing to show: pass the film as on_report"):
        lo.Film(decoder).write(tmp_path / "s.gif")


# ---------------------------------------------------------------------- at the door


@pytest.mark.parametrize(
    ("name", "style", "words"),
    [
        ("p.png", {}, "p.png is no animation: those end in .gif, .webp, .mp4"),
        ("p.wepb", {}, "did you mean '.webp'?"),
        ("p", {}, "p is no animation"),
        ("p.gif", {"fps": 0.0}, "takes 0.1 to 50 frames a second, got 0"),
        ("p.gif", {"fps": 51.0}, "got 51"),
        ("p.gif", {"fps": float("nan")}, "got nan"),
        ("p.gif", {"size": 8}, "takes 16 to 4096 pixels, got 8"),
    ],
)
def test_what_cannot_be_an_animation(name, style, words, decoder, path, tmp_path):
    with pytest.raises(lo.ConfigError, match=words.replace("?", "\\?")):
        lo.animate(decoder, path, tmp_path / name, **style)
    assert not list(tmp_path.iterdir())


def test_places_that_cannot_be_written(decoder, path, tmp_path):
    (tmp_path / "p.gif").mkdir()
    for place in (tmp_path / "p.gif", tmp_path / "none" / "p.gif"):
        with pytest.raises(lo.InputFileError, match="cannot write .*p.gif"):
            lo.animate(decoder, path, place)


def test_designs_that_are_no_pictures(tmp_path):
    decoder = lo.Decoder(nn.Linear(3, 5), (3,))
    with pytest.raises(lo.ShapeError, match="designs of shape \\(5,\\) are no pictures, so they cannot be animated"):
        lo.animate(decoder, torch.zeros(2, 5), tmp_path / "p.gif")
    with pytest.raises(lo.ShapeError, match="no pictures"):
        animation.drawable(decoder, tmp_path / "p.gif", Style())
    assert not list(tmp_path.iterdir())


def test_too_many_frames(decoder, tmp_path):
    with pytest.raises(lo.ConfigError, match="at most 1000 frames, got 1001: take fewer steps"):
        lo.animate(decoder, torch.zeros(1001, 1, 2, 2), tmp_path / "p.gif")


def test_mp4_without_the_extra(decoder, path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(lo.ConfigError, match="needs extra: pip install 'latentopt\\[video\\]'"):
        lo.animate(decoder, path, tmp_path / "p.mp4")

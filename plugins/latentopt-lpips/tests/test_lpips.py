import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

import latentopt as lo
from latentopt import Candidates, ConfigError, Decoder, InputFileError, ShapeError
from latentopt.testing import ObjectiveConformance, ToyImages, ToyNet, toy_decoders
from latentopt_lpips import LPIPS, weights
from latentopt_lpips.nets import LAYERS, shapes

HERE = Path(__file__).parent
PAIRS = range(5)
NETS = ("alex", "vgg")
fetched = pytest.mark.skipif(
    not all(weights.path_of(net).is_file() for net in NETS),
    reason=f"no weights in {weights.folder()}: {weights.REMEDY}",
)


def made_up(net):
    """Weights of the right shapes that keep features of ordinary size (He et al. 2015), heads of 0 and above."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in shapes(net).items():
        values = torch.randn(shape, generator=generator)
        fan_in = np.prod(shape[1:]) if len(shape) == 4 else 0
        found[name] = values * (2 / fan_in) ** 0.5 if fan_in else values.abs() * 0.1
    return found


@pytest.fixture
def any_weights(monkeypatch):
    monkeypatch.setattr(weights, "load", made_up)


def reference():
    with np.load(HERE / "reference.npz") as found:
        return {name: found[name] for name in found.files}


def written_out():
    """The formula in NumPy, of the script that recorded the reference."""
    spec = importlib.util.spec_from_file_location("record_reference", HERE.parent / "scripts" / "record_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def decoder_of(shape, dtype=torch.float64, **options):
    return Decoder(ToyNet(2, tuple(shape)).to(dtype), latent_shape=(2,), prior="normal", name="toy", **options)


def rows(designs):
    return Candidates(designs.new_zeros(len(designs), 2), designs, torch.zeros(len(designs), dtype=torch.long))


def distance(net, one, other, **options):
    """Of two pictures in bytes (H, W, C)."""
    a, b = (torch.from_numpy(picture).permute(2, 0, 1).double() / 255 for picture in (one, other))
    return float(LPIPS(net=net, target=a, **options).build(decoder_of(a.shape))(rows(b[None])))


# ---------------------------------------------------------------------- the distance


@fetched
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("pair", PAIRS)
def test_distances_are_those_recorded_of_the_formula(net, pair):
    known = reference()
    one, other = known[f"pair_{pair}"]
    assert distance(net, one, other) == pytest.approx(known[net][pair], rel=1e-9)
    assert distance(net, other, one) == pytest.approx(known[net][pair], rel=1e-9)
    assert distance(net, one, one) == 0


@fetched
@pytest.mark.parametrize("net", NETS)
def test_single_precision_is_near(net):
    known = reference()
    a, b = (torch.from_numpy(picture).permute(2, 0, 1).float() / 255 for picture in known["pair_0"])
    found = LPIPS(net=net, target=a).build(decoder_of(a.shape, torch.float32))(rows(b[None]))
    assert float(found) == pytest.approx(known[net][0], rel=1e-5)


@fetched
def test_a_search_brings_it_down():
    decoder, digit = lo.load_decoder("digits"), lo.examples.digits()[3:4]
    start = lo.optimize(decoder, target=digit, objectives=[LPIPS()], search={"kind": "adam", "steps": 1}, seed=0)
    found = lo.optimize(decoder, target=digit, objectives=[LPIPS()], search={"kind": "adam", "steps": 30}, seed=0)
    assert found.best.loss < 0.5 * start.best.loss


@pytest.mark.parametrize("net", NETS)
def test_the_formula_written_out_gives_the_same_with_any_weights(net, any_weights):
    module, known = written_out(), reference()
    values = {name: value.double().numpy() for name, value in made_up(net).items()}
    name = {"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]
    part = {f"{name}.Conv_{i}.bias": values[f"conv.{i}.bias"] for i in range(len(LAYERS[net]))}
    part |= {
        f"{name}.Conv_{i}.kernel": values[f"conv.{i}.weight"].transpose(2, 3, 1, 0) for i in range(len(LAYERS[net]))
    }
    part |= {f"NetLinLayer_{i}.Conv_0.kernel": values[f"head.{i}"] for i in range(5)}
    for pair in (0, 3, 4):
        one, other = known[f"pair_{pair}"]
        assert distance(net, one, other) == pytest.approx(module.distance(net, one, other, part), rel=1e-9)


# ---------------------------------------------------------------------- the contract


@pytest.mark.usefixtures("any_weights")
class TestAlex(ObjectiveConformance):
    config = LPIPS()


@pytest.mark.usefixtures("any_weights")
class TestVGG(ObjectiveConformance):
    config = LPIPS(net="vgg", least_side=32)


@pytest.mark.usefixtures("any_weights")
class TestColours(ObjectiveConformance):
    config = LPIPS()

    def decoder(self):
        return Decoder(ToyImages(4, (3, 40, 64)), latent_shape=(4,), prior="normal")


@pytest.mark.usefixtures("any_weights")
def test_gradients_agree_with_finite_differences():
    decoder = decoder_of((1, 16, 16))
    generator = torch.Generator().manual_seed(1)
    target, x, direction = (torch.rand((3, 1, 16, 16), generator=generator, dtype=torch.float64) for _ in range(3))
    objective = LPIPS(target=target[0]).build(decoder)
    moved = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(rows(moved)).sum(), moved)
    step = 1e-6
    expected = (objective(rows(x + step * direction)) - objective(rows(x - step * direction))) / (2 * step)
    assert torch.allclose((gradient * direction).sum((1, 2, 3)), expected, rtol=1e-4)


@pytest.mark.usefixtures("any_weights")
def test_a_picture_without_features_has_a_gradient():
    decoder = decoder_of((1, 8, 8))
    objective = LPIPS(target=torch.rand((1, 8, 8), generator=torch.Generator().manual_seed(2))).build(decoder)
    for name, value in objective.features.weights.items():
        if name.endswith("bias"):
            value.fill_(-100.0)  # so that every channel is silent
    x = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(objective(rows(x)).sum(), x)
    assert torch.isfinite(gradient).all()


@pytest.mark.usefixtures("any_weights")
def test_grey_is_colour_repeated_and_the_range_is_the_decoders():
    grey = torch.rand((2, 1, 32, 32), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    colour = grey.expand(-1, 3, -1, -1)

    def value(x, **options):
        return float(LPIPS(target=x[0], **options).build(decoder_of(x.shape[1:]))(rows(x[1:])))

    expected = value(grey)
    assert value(colour) == pytest.approx(expected)
    assert value(grey[:, 0]) == pytest.approx(expected)
    signed = grey * 2 - 1
    assert value(signed, value_range=(-1, 1)) == pytest.approx(expected)
    decoder = decoder_of((1, 32, 32), value_range=(-1.0, 1.0))
    assert float(LPIPS(target=signed[0]).build(decoder)(rows(signed[1:]))) == pytest.approx(expected)


@pytest.mark.usefixtures("any_weights")
def test_only_pictures_under_the_least_side_are_enlarged():
    def size(shape, **options):
        return LPIPS(target=torch.zeros(shape), **options).build(decoder_of(shape)).size

    assert size((1, 28, 28)) == (64, 64)
    assert size((3, 32, 48)) == (64, 96)
    assert size((3, 64, 64)) is None
    assert size((3, 40, 80), least_side=32) is None


@pytest.mark.usefixtures("any_weights")
def test_results_say_that_designs_were_enlarged(tmp_path):
    decoder, digit = lo.load_decoder("digits"), lo.examples.digits()[0]
    fast = {"starts": ["mean"], "search": {"kind": "adam", "steps": 2}}
    found = lo.optimize(decoder, target=digit, objectives=[LPIPS()], out=tmp_path / "run", **fast)
    note = "'lpips' compares designs of 28 x 28 enlarged to 64 x 64 pixels, as its network needs"
    assert found.notes == [note]
    assert lo.load(tmp_path / "run").notes == [note]
    assert note in lo.report(found).replace("&#39;", "'")
    large = decoder_of((1, 64, 64))
    assert lo.optimize(large, target=torch.zeros(1, 64, 64), objectives=[LPIPS()], **fast).notes == []


# ---------------------------------------------------------------------- what does not fit


def test_weights_that_are_not_there_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    text = rf"LPIPS's network 'vgg' are not on this machine \(looked for {tmp_path}/lpips_vgg.safetensors\): run"
    with pytest.raises(InputFileError, match=text) as caught:
        LPIPS(net="vgg", target=torch.zeros(1, 8, 8)).build(toy_decoders()["image"])
    assert "`python -m latentopt_lpips fetch`" in str(caught.value)
    assert f"or set {weights.FOLDER} to the folder that has them" in str(caught.value)


@pytest.mark.usefixtures("any_weights")
def test_what_is_no_picture_is_refused():
    text = r"compares pictures \(3, H, W\), \(1, H, W\) or \(H, W\), decoder 'tokens' gives designs of shape \(7, 11\)"
    for name in ("vector", "waveform"):
        shape = toy_decoders()[name].design_shape
        if len(shape) == 1:
            with pytest.raises(ConfigError, match=text.replace("tokens", name).replace(r"\(7, 11\)", r"\(5,\)")):
                LPIPS(target=torch.zeros(shape)).build(toy_decoders()[name])
    with pytest.raises(ConfigError, match=r"of shape \(2, 8, 8\): use 'perceptual' with a network that takes them"):
        LPIPS(target=torch.zeros(2, 8, 8)).build(decoder_of((2, 8, 8)))
    with pytest.raises(
        ConfigError, match="objective 'lpips' needs a target: pass target= to the task or to the objective"
    ):
        LPIPS().build(toy_decoders()["image"])
    with pytest.raises(ShapeError, match="lpips target"):
        LPIPS(target=torch.zeros(1, 9, 9)).build(toy_decoders()["image"])
    with pytest.raises(ConfigError, match=r"the value_range of 'lpips' must be \(low, high\) .*, got \(1.0, 0.0\)"):
        LPIPS(target=torch.zeros(1, 8, 8), value_range=(1, 0)).build(toy_decoders()["image"])


def test_other_weights_than_the_published_are_refused(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    monkeypatch.setenv(weights.FOLDER, str(tmp_path))
    save_file(made_up("alex"), tmp_path / "lpips_alex.safetensors")
    with pytest.raises(InputFileError, match=r"the weights in .* have sha256 .*, expected .*: they are damaged or"):
        weights.load("alex")
    save_file({"conv.0.weight": torch.zeros(3)}, tmp_path / "lpips_vgg.safetensors")
    with pytest.raises(InputFileError, match="does not hold the 31 arrays of LPIPS's network 'vgg': run"):
        weights.load("vgg")

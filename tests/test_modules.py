"""The modules behind a decoder: found, frozen and given back, and what is wrong with them said in one line."""

import functools

import pytest
import torch
from torch import nn

from latentopt import modules
from latentopt.errors import DecoderError


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 3), nn.Sequential(nn.Linear(3, 6), nn.Dropout())

    def decode(self, z):
        return self.decoder(z)


class Wrapper:
    def __init__(self, net):
        self.net, self.other = net, 3

    def __call__(self, z):
        return self.net(z)

    def method(self, z):
        return self.net(z)


GLOBAL = nn.Linear(2, 2)


def uses_a_global(z):
    return GLOBAL(z)


def test_modules_are_found_behind_callables():
    vae = Vae()
    bound = vae.decode
    assert modules.modules_of(vae) == [vae]
    assert modules.modules_of(bound, vae) == [vae]
    assert modules.modules_of(functools.partial(bound, scale=1)) == [vae]
    assert modules.modules_of(functools.partial(torch.nn.functional.linear, weight=vae)) == [vae]
    assert modules.modules_of(lambda z: vae.decode(z)) == [vae]
    assert modules.modules_of(lambda z: bound(z)) == [vae]
    assert modules.modules_of(uses_a_global) == [GLOBAL]
    assert modules.modules_of(Wrapper(vae)) == [vae]
    assert modules.modules_of(Wrapper(vae).method) == [vae]
    assert modules.modules_of(torch.sin, None, 3) == []


def test_a_name_that_is_not_bound_yet_is_no_trouble():
    def make():
        def function(z):
            return later(z)

        found = modules.modules_of(function)
        later = nn.Identity()
        return found, later

    assert make()[0] == []


def test_flags_come_back_for_each_part_even_after_an_exception():
    vae = Vae()
    vae.train()
    vae.decoder[1].eval()
    vae.encoder.weight.requires_grad_(False)
    training = {name: part.training for name, part in vae.named_modules()}
    wanted = {name: p.requires_grad for name, p in vae.named_parameters()}

    def fail():
        with modules.frozen([vae]):
            assert not any(part.training for part in vae.modules())
            assert not any(p.requires_grad for p in vae.parameters())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {name: part.training for name, part in vae.named_modules()} == training
    assert {name: p.requires_grad for name, p in vae.named_parameters()} == wanted
    assert len(set(training.values())) == 2
    assert len(set(wanted.values())) == 2


def test_a_callers_inference_mode_is_left_for_the_time():
    with torch.inference_mode():
        with modules.frozen([]):
            assert not torch.is_inference_mode_enabled()
        assert torch.is_inference_mode_enabled()


def meta():
    return nn.Linear(2, 2, device="meta")


def split():
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))


@pytest.mark.parametrize(
    ("device", "text"),
    [
        ("gpu", "'gpu' is no device"),
        (7.5, "7.5 is no device"),
        ("cuda", "device cuda was asked and this machine has no CUDA device: use device='cpu'"),
        ("meta", "device meta was asked, which holds no numbers: use device='cpu'"),
        ("xla", "device xla cannot be used here"),
        ("hpu", "device hpu cannot be used here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device, text, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DecoderError) as caught:
        modules.as_device(device)
    assert str(caught.value).startswith(text)
    assert "use " in str(caught.value)


def test_meta_tensors_are_refused():
    with pytest.raises(DecoderError, match="'d' has meta tensors, which hold no weights: load its weights first"):
        modules.device_and_dtype(meta(), None, None, "d")
    with pytest.raises(DecoderError, match="has meta tensors"):
        modules.device_and_dtype(split(), "cpu", None, "d")


class On(nn.Module):
    """Says that its parameters lie on these devices."""

    def __init__(self, *devices):
        super().__init__()
        self.devices = devices

    def parameters(self, recurse=True):
        for device in self.devices:
            found = nn.Parameter(torch.zeros(1))
            yield type("Fake", (), {"device": torch.device(device), "is_floating_point": found.is_floating_point,
                                    "dtype": found.dtype})()  # fmt: skip


def test_a_module_elsewhere_is_not_moved_but_named(monkeypatch):
    with pytest.raises(
        DecoderError, match=r"'d' is on cuda:0 and device='cpu' was asked: move it yourself with .to\('cpu'\)"
    ):
        modules.device_and_dtype(On("cuda:0"), "cpu", None, "d")
    with pytest.raises(
        DecoderError, match=r"'d' lies on several devices \(cuda:0, cuda:1\): move it to one, or say with"
    ):
        modules.device_and_dtype(On("cuda:1", "cuda:0"), None, None, "d")
    monkeypatch.setattr(modules, "as_device", torch.device)
    for asked in ("cuda", "cuda:0"):  # "cuda" is any CUDA device; a part of several may be chosen for the latents
        assert modules.device_and_dtype(On("cuda:0"), asked, None, "d")[0] == torch.device(asked)
        assert modules.device_and_dtype(On("cuda:1", "cuda:0"), asked, None, "d")[0] == torch.device(asked)
    moves_them_itself = On("cuda:0")
    assert modules.device_and_dtype(lambda z: moves_them_itself(z), "cpu", None, "d")[0] == torch.device("cpu")


def test_the_precision_is_that_of_the_first_parameter():
    mixed = nn.Sequential(nn.Linear(2, 2).half(), nn.Linear(2, 2))
    mixed.register_buffer("table", torch.zeros(2, dtype=torch.float64))
    assert modules.device_and_dtype(mixed, None, None, "d") == (torch.device("cpu"), torch.float16)
    assert modules.device_and_dtype(mixed, None, torch.float64, "d")[1] == torch.float64
    assert modules.device_and_dtype(nn.Identity(), None, None, "d")[1] == torch.float32
    buffers = nn.Identity()
    buffers.register_buffer("table", torch.zeros(2, dtype=torch.float64))
    assert modules.device_and_dtype(buffers, None, None, "d")[1] == torch.float64
    assert modules.device_and_dtype(torch.sin, None, None, "d") == (torch.device("cpu"), torch.float32)


def test_damaged_weights_are_counted_and_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    modules.check_weights(net, "d")
    net[1].register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    modules.check_weights(net, "d")
    net[1].running_var[2] = torch.nan
    with pytest.raises(DecoderError, match="decoder 'd' contain 1 NaN values in '1.running_var': load an undamaged"):
        modules.check_weights(net, "d")
    with torch.no_grad():
        net[0].weight[1] = torch.tensor([torch.nan, torch.inf, 1.0])
    with pytest.raises(DecoderError, match="weights of decoder 'd' contain 2 non-finite values in '0.weight'"):
        modules.check_weights(net.forward, "d")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Sequential(nn.ReLU(), nn.Linear(20, 4)), "; its first layer '1' takes 20 values"),
        (nn.Linear(20, 4), "; its first layer takes 20 values"),
        (nn.Conv2d(4, 8, 3), "takes 4 channels, as in latent_shape=(4, H, W)"),
        (nn.ConvTranspose1d(4, 8, 3), "takes 4 channels, as in latent_shape=(4, L)"),
        (nn.Conv3d(4, 8, 3), "takes 4 channels, as in latent_shape=(4, D, H, W)"),
        (Vae(), "it has encoder.* and decoder.*: give its .decoder as the decoder"),
    ],
)
def test_the_first_layer_says_what_latents_it_takes(module, text):
    assert text in modules.latent_hint(module)


def test_a_function_says_nothing_of_its_latents():
    assert modules.latent_hint(torch.sin) == modules.latent_hint(nn.ReLU()) == ""

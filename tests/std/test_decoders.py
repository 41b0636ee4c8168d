"""The decoders that come along: `digits`, and `module` made from code, weights and a config file."""

import hashlib
import importlib.resources
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import latentopt as lo
from latentopt.config import json_schema, read_config
from latentopt.testing import DecoderConformance, global_rng_untouched
from latentopt_std import Digits, ModuleDecoder
from latentopt_std.digits_nets import DigitsDecoder, DigitsEncoder


class TestDigits(DecoderConformance):
    config = Digits()


@pytest.fixture(scope="module")
def digits():
    return lo.load_decoder("digits")


def test_digits_says_what_it_is(digits):
    assert repr(digits) == (
        "Decoder(digits: (20,) -> (1, 28, 28), prior given with the decoder; agrees with 100 encodings "
        "(median radius 4.1, the prior's 4.4))"
    )
    assert digits.notes == []
    assert digits.probe.differentiable
    assert digits.probe.low >= 0.0
    assert digits.probe.high <= 1.0
    assert {p.dtype for p in digits.module.parameters()} == {torch.float32}


def test_digits_encodes_and_decodes_its_examples(digits):
    examples = lo.examples.digits()
    assert examples.shape == (100, 1, 28, 28)
    assert examples.dtype == torch.float32
    assert (float(examples.amin()), float(examples.amax())) == (0.0, 1.0)
    codes = digits.encode(examples)
    assert torch.allclose(codes, digits.codes)
    error = (digits.decode(codes) - examples).square().mean()
    assert error < 0.012  # 0.0081 over the test set (data/digits.json); an average digit is off by 0.067
    assert error < (examples.mean(0) - examples).square().mean() / 5


def test_the_examples_are_ten_of_each_digit_in_turn(digits):
    """Examples of one digit lie nearer to each other than to the others, as far as their codes tell."""
    codes = digits.codes.view(10, 10, 20)  # ten rounds of 0 to 9
    nearest = [torch.cdist(codes[r], codes[torch.arange(10) != r].flatten(0, 1)).argmin(1) % 10 for r in range(10)]
    agree = (torch.stack(nearest) == torch.arange(10)).float().mean()
    assert agree > 0.6


def test_digits_draws_no_random_numbers_and_depends_on_none():
    with global_rng_untouched():
        one = Digits().build()
    again = Digits().build()
    z = one.space.draw(3, torch.Generator().manual_seed(0))
    assert torch.equal(one.decode(z), again.decode(z))


@pytest.mark.parametrize("name", ["digits.safetensors", "digits_examples.safetensors"])
def test_damaged_files_of_digits_are_refused(name, tmp_path, monkeypatch):

    for path in (importlib.resources.files("latentopt_std") / "data").iterdir():
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    assert Digits().build().name == "digits"
    damaged = bytearray((tmp_path / "data" / name).read_bytes())
    damaged[-100] ^= 1  # a format without checksums would load it
    (tmp_path / "data" / name).write_bytes(damaged)
    with pytest.raises(
        lo.DecoderError,
        match=f"the file {name} of latentopt has sha256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}: reinstall latentopt",
    ):
        Digits().build()
    (tmp_path / "data" / name).unlink()
    with pytest.raises(lo.DecoderError, match=f"the file {name} of latentopt cannot be read .*: reinstall latentopt"):
        Digits().build()


def test_the_published_networks_have_the_published_weights():
    tensors = lo.read_weights("plugins/latentopt_std/data/digits.safetensors")
    for prefix, network in (("decoder.", DigitsDecoder()), ("encoder.", DigitsEncoder())):
        notes = lo.load_weights(network, tensors.part(prefix))
        assert notes == ["weights of digits.safetensors converted from torch.float16 to torch.float32"]


def test_digits_on_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        lo.DecoderError, match="device cuda was asked and this machine has no CUDA device: use device='cpu'"
    ):
        Digits(device="cuda").build()


# ---------------------------------------------------------------------- module


def module(factory="decoder_nets:Decoder", **options):
    return ModuleDecoder(**{"factory": factory, "latent_shape": (3,), "prior": "normal", **options})


class TestModule(DecoderConformance):
    config = module("decoder_nets:AutoEncoder", attribute="decoder", encoder_attribute=False)


def stored(tmp_path, network, name="w.safetensors"):
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, tmp_path / name)
    return tmp_path / name


def auto_encoder():
    from decoder_nets import AutoEncoder

    return AutoEncoder()


def test_a_module_from_a_config_file(tmp_path):
    from decoder_nets import Decoder

    network = Decoder(5, 6)
    weights = stored(tmp_path, network)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (tmp_path / "run.yaml").write_text(
        "decoder:\n"
        "  kind: module\n"
        "  factory: decoder_nets:Decoder\n"
        "  factory_options: {dim: 5, width: 6}\n"
        "  weights: w.safetensors\n"  # beside the config file, wherever it is run
        f"  sha256: {digest}\n"
        "  latent_shape: [5]\n"
        "  prior: {kind: normal, std: 2}\n"
        "  block_rows: 3\n"
        "task: sample\n"
    )
    config = read_config(tmp_path / "run.yaml").decoder
    assert config.weights == weights
    built = config.build()
    z = torch.ones(4, 5)
    assert torch.allclose(built.decode(z), network(z))
    assert built.notes == [f"weights from {weights}, sha256 {digest}"]
    assert (built.name, built.block_rows, str(built.space.evidence)) == (
        "decoder_nets:Decoder",
        3,
        "given with the decoder, unchecked",
    )
    assert ModuleDecoder.model_validate(config.model_dump(mode="json")) == config
    assert "module" in str(json_schema())


@pytest.mark.parametrize(
    ("dtype", "latents"), [(None, torch.float32), ("float64", torch.float64), ("bfloat16", torch.float32)]
)
def test_the_precision_is_the_users(dtype, latents):
    options = {"factory": "decoder_nets:Decoder", "factory_options": {"dim": 5, "width": 6}, "latent_shape": (5,)}
    built = ModuleDecoder(**options, dtype=dtype).build()
    assert built.dtype == getattr(torch, dtype or "float32")
    assert built.latent_dtype == latents
    assert built.decode(torch.ones(2, 5)).dtype == latents


def test_a_state_dict_loads_as_well(tmp_path):
    from decoder_nets import Decoder

    network = Decoder()
    torch.save({"model": nn.DataParallel(network).state_dict()}, tmp_path / "w.pt")
    built = module(weights=tmp_path / "w.pt").build()
    assert torch.allclose(built.decode(torch.ones(1, 3)), network(torch.ones(1, 3)))
    assert built.notes[1:] == [
        "took 'model' of the checkpoint in w.pt",
        "took the prefix 'module.' off the weights' names",
    ]


def test_functions_and_classes_make_networks_and_global_random_state_stays():
    with global_rng_untouched():
        built = module("decoder_nets:build", factory_options={"dim": 3}).build()
    assert built.design_shape == (1, 4, 4)
    assert built.notes == ["no weights given: decoder_nets:build has its own"]
    assert module(nn.Identity).build().notes == []


def test_the_parts_of_a_whole_auto_encoder(tmp_path):
    network = auto_encoder()
    weights = stored(tmp_path, network)
    x = torch.rand(4, 1, 4, 4)
    built = module("decoder_nets:AutoEncoder", weights=weights, attribute="decoder").build()
    assert torch.allclose(built.encode(x), network.encoder(x)[0])
    assert torch.allclose(built.decode(torch.ones(1, 3)), network.decoder(torch.ones(1, 3)))
    alone = module(weights=weights).build()  # the same file for the decoder alone
    assert torch.equal(alone.decode(torch.ones(1, 3)), built.decode(torch.ones(1, 3)))
    assert alone.encoder is None
    assert "took decoder.* of the checkpoint and left out encoder.*" in alone.notes


@pytest.mark.parametrize(
    ("attribute", "encoder_attribute", "found"),
    [
        ("decode", None, "encode"),
        ("vae.decoder", None, "vae.encoder"),
        ("vae.decoder", "encode", "encode"),
        ("decode", "vae.encoder.forward", "forward"),
        ("decode", False, None),
        ("vae.decoder.forward", None, None),
    ],
)
def test_parts_are_found_by_their_names(attribute, encoder_attribute, found):
    built = module("decoder_nets:WithMethods", attribute=attribute, encoder_attribute=encoder_attribute).build()
    assert built.design_shape == (1, 4, 4)
    name = None if built.encoder is None else getattr(built.encoder, "__name__", type(built.encoder).__name__)
    assert name == (found.rpartition(".")[2].replace("encoder", "Encoder") if found else None)


def test_a_prior_is_fitted_to_or_checked_against_data(tmp_path):
    data = torch.rand(50, 1, 4, 4)
    fitted = module("decoder_nets:AutoEncoder", attribute="decoder", data=data, prior=None).build()
    assert str(fitted.space.evidence) == "fitted to 50 encodings"
    checked = module("decoder_nets:AutoEncoder", attribute="decoder", data=data, prior="normal").build()
    assert "50 encodings" in str(checked.space.evidence)
    with pytest.raises(lo.ConfigError, match="data= needs encoder="):
        module(data=data).build()


def test_conditions_outputs_and_ranges_reach_the_decoder():
    options = {"conditions": {"label": [1.0], "scale": 0.5}, "value_range": (-1, 3), "block_rows": 2}
    built = module("decoder_nets:Conditional", **options).build()
    designs = built.decode(torch.zeros(5, 3))
    assert float(designs.amin()) > 1.0
    assert float(designs.amax()) < 1.5
    assert (built.value_range, built.block_rows) == ((-1.0, 3.0), 2)
    with pytest.raises(
        lo.DecoderError, match="returned a tensor of shape .*, which has no parts to choose from: leave output="
    ):
        module(output=0).build()
    with pytest.raises(lo.EncoderError, match="has no output 'mean': set encoder_output= to a part of it"):
        module("decoder_nets:AutoEncoder", attribute="decoder", encoder_output="mean").build()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"factory": "decoder_nets:AutoEncoder"},
            lo.DecoderError,
            "factory 'decoder_nets:AutoEncoder' gives a whole auto-encoder (found encoder.* and decoder.*): "
            "set attribute: decoder (or attribute: forward, where all of it takes latents)",
        ),
        (
            {"factory": "decoder_nets:WithMethods"},
            lo.DecoderError,
            "gives a whole auto-encoder (found encode() and decode()): set attribute: decode (or",
        ),
        (
            {"factory": "decoder_nets:AutoEncoder", "attribute": "decodr"},
            lo.DecoderError,
            "attribute: AutoEncoder has no 'decodr'; did you mean 'decoder'?; it has decoder, encoder",
        ),
        (
            {"factory": "decoder_nets:WithMethods", "attribute": "vae.generator"},
            lo.DecoderError,
            "attribute: AutoEncoder has no 'generator'; it has decoder, encoder",
        ),
        (
            {"factory": nn.Identity, "attribute": "decoder"},
            lo.DecoderError,
            "attribute: Identity has no 'decoder'; it has nothing to call",
        ),
        (
            {"factory": "decoder_nets:AutoEncoder", "attribute": "decoder", "encoder_attribute": "enc"},
            lo.DecoderError,
            "encoder_attribute: AutoEncoder has no 'enc'",
        ),
        (
            {"factory": "decoder_nets:AutoEncoder", "attribute": "training"},
            lo.DecoderError,
            "attribute: 'training' is a bool, expected a module or a method",
        ),
        (
            {"factory": "decoder_nets:Uneven", "attribute": "decoder"},
            lo.EncoderError,
            "into latents of 3 values (latents of shape (1, 5) do not fit this decoder: give (N, 3)): pass its matching "
            "encoder, and encoder_output= where it returns several things (it was found as 'encoder': name another with "
            "encoder_attribute, or none with encoder_attribute: false)",
        ),
        (
            {"factory_options": {"dimm": 3}},
            lo.ConfigError,
            "factory 'decoder_nets:Decoder' does not take these factory_options (got an unexpected keyword argument 'dimm'); "
            "did you mean 'dim'?; it takes dim, width",
        ),
        (
            {"factory": nn.Linear},
            lo.ConfigError,
            "factory 'Linear' does not take these factory_options (missing a required argument: 'in_features'); it takes",
        ),
        (
            {"factory": "decoder_nets:not_a_network"},
            lo.DecoderError,
            "factory 'decoder_nets:not_a_network' returned a dict, expected an nn.Module",
        ),
        (
            {"factory": "decoder_nets:Uneven", "attribute": "decoder", "encoder_attribute": "encoder"},
            lo.EncoderError,
            "pass its matching encoder, and encoder_output= where it returns several things",
        ),
        ({"factory": dict}, lo.DecoderError, "factory 'dict' returned a dict, expected an nn.Module"),
        (
            {"factory": "decoder_nets:fails"},
            lo.DecoderError,
            "factory 'decoder_nets:fails' failed (KeyError: 'no such\\nmodel'): give it the factory_options that it needs",
        ),
        (
            {"factory": "decoder_nets:net"},
            lo.ConfigError,
            "factory 'decoder_nets:net' is a network already: name the class or function that makes it, or from Python give",
        ),
        (
            {"factory": "decoder_nets:THRESHOLD"},
            lo.ConfigError,
            "factory 'decoder_nets:THRESHOLD' is a float, expected a class or function",
        ),
        (
            {"factory": "decoder_nets:Decodr"},
            lo.ConfigError,
            "module 'decoder_nets' has no 'Decodr'; did you mean 'Decoder'?",
        ),
        (
            {"sha256": "0" * 64},
            lo.ConfigError,
            "sha256 is that of the weights, and no weights are given: add weights, or",
        ),
        ({"weights": "none.pt"}, lo.InputFileError, "model file not found: none.pt (looked in "),
        ({"device": "gpu"}, lo.DecoderError, "'gpu' is no device"),
        (
            {"latent_shape": (5,)},
            lo.DecoderError,
            "rejects latents of shape (4, 5), torch.float32, on cpu (mat1 and mat2 shapes cannot be multiplied (4x5 and 3x8)"
            "): set latent_shape to what it was trained with; its first layer 'fc1' takes 3 values",
        ),
        (
            {"factory": "decoder_nets:Conditional"},
            lo.DecoderError,
            "give the inputs that it takes besides latents as cond",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(options, error, text):
    with pytest.raises(error, match=re.escape(text)) as caught:
        module(**options).build()
    assert "\n" not in str(caught.value)


def test_weights_that_are_another_file_are_refused(tmp_path):
    weights = stored(tmp_path, auto_encoder().decoder)
    with pytest.raises(
        lo.DecoderError, match=f"has sha256 [0-9a-f]{{64}}, expected {'0' * 64}: it is damaged or another file"
    ):
        module(weights=weights, sha256="0" * 64).build()
    with pytest.raises(
        lo.DecoderError, match="'decoder.fc1.weight' is missing.*: name the factory and factory_options"
    ):
        module("decoder_nets:AutoEncoder", weights=weights, attribute="decoder").build()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"latent_shape": ()}, "latent_shape: expected at least 1, got 0"),
        ({"latent_shape": (0,)}, "latent_shape.0: Input should be greater than or equal to 1, got 0"),
        ({"sha256": "abc"}, "sha256: String should match pattern"),
        ({"factory": "decoder_nets"}, "factory: code is named as 'package.module:function', got 'decoder_nets'"),
        ({"block_rows": 0}, "block_rows: Input should be greater than or equal to 1, got 0"),
        ({"wieghts": "w.pt"}, "unknown key 'wieghts'; did you mean 'weights'?"),
        ({"encoder_attribute": True}, "encoder_attribute"),
        ({"prior": "norml"}, "unknown prior 'norml'; did you mean 'normal'?"),
    ],
)
def test_fields_are_checked_before_anything_is_built(options, text):
    fields = {"kind": "module", "factory": "decoder_nets:Decoder", "latent_shape": [3], **options}
    with pytest.raises(lo.ConfigError, match=re.escape(text)):
        lo.load_decoder(fields)


def test_a_network_that_does_not_fit_on_its_device():
    class Large(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)

        def to(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(lo.OutOfMemoryError, match="Large' does not fit into the memory of cpu: use device: cpu"):
        module(Large).build()


def test_a_search_runs_on_a_module_from_a_dict():
    decoder = {"kind": "module", "factory": "decoder_nets:Decoder", "latent_shape": [3], "prior": "normal"}
    found = lo.optimize(
        lo.load_decoder(decoder), target=torch.full((1, 4, 4), 0.4), search={"kind": "adam", "steps": 5}
    )
    assert found.config["decoder"]["factory"] == "decoder_nets:Decoder"
    assert found.designs.shape[1:] == (1, 4, 4)

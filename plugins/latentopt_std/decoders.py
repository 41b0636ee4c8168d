"""The decoders that come with latentopt: `digits`, which is embedded, and `module`, any network that a config names."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from latentopt import (
    Array,
    CodeRef,
    ConfigError,
    Decoder,
    DecoderConfig,
    DecoderError,
    EncoderError,
    FilePath,
    OutOfMemoryError,
    PriorChoice,
    Weights,
    as_device,
    filled,
    load_weights,
    package_data,
    parse_weights,
    read_weights,
    suggest,
)
from latentopt_std.digits_nets import LATENT, DigitsDecoder, DigitsEncoder

# ---------------------------------------------------------------------- digits


class Digits(DecoderConfig):
    """The embedded decoder: 28 x 28 handwritten digits from 20 latent values, with its encoder and 100 held-out examples.

    A variational auto-encoder trained on MNIST (data/LICENSE.md, data/digits.json) with the prior N(0, I), which is checked
    against the encodings of the examples. `device`: where it runs.
    Raises `DecoderError` where its files are not those that were published, or the device is not there.
    """

    kind: Literal["digits"] = "digits"
    device: str = "cpu"

    def build(self) -> Decoder:
        device = as_device(self.device)
        weights = _published("digits.safetensors")
        return Decoder(
            filled(DigitsDecoder, weights.part("decoder.")).to(device),
            latent_shape=(LATENT,),
            encoder=filled(DigitsEncoder, weights.part("encoder.")).to(device),
            prior="normal",
            data=self.examples(),
            name="digits",
        )

    def examples(self) -> Tensor:
        """Ten held-out digits of each kind `(100, 1, 28, 28)` in [0, 1], float32: 0 to 9, and so on ten times."""
        return _published("digits_examples.safetensors").tensors["images"].float() / 255


def _published(name: str) -> Weights:
    """The tensors of one file of the package, whose hash is that in digits.json."""
    return parse_weights(package_data("latentopt_std", name, record="digits.json", distribution="latentopt"), name)


# ---------------------------------------------------------------------- module

# What a user's own code may raise when it is given what it was not made for, or lacks a file or package.
_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    OSError,
    ImportError,
)


class ModuleDecoder(DecoderConfig):
    """Any network: code that makes it, a file of its weights, and the shape of its latents.

    factory: `package.module:name` of a class or function that returns an `nn.Module`; called with `factory_options`.
    weights: a safetensors file, or a state_dict of `torch.save`; without it the factory's own are used. No code in it is
        run. `sha256`: what the file must hash to.
    attribute: the part that decodes, where the factory gives a whole auto-encoder: `decoder`, or a method such as `decode`.
    encoder_attribute: the part that encodes; found beside `attribute` where it is called likewise; `false` for none.
    device, dtype: where the network is put and what its numbers become; its own precision where none is given. Latents and
        losses stay in float32 (in float64 for a float64 network).
    precision, channels_last, fold_batch_norm, compile: for speed, off by default (docs/performance.md). `bfloat16` runs a
        float32 network under `torch.autocast`.
    The other fields are those of `Decoder`; `data` are known designs that the prior is fitted to or checked against.
    Raises `InputFileError`, `DecoderError` and `ConfigError` that say what does not fit.
    """

    kind: Literal["module"] = "module"
    factory: CodeRef
    factory_options: dict[str, Any] = Field(default_factory=dict)
    weights: FilePath | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    latent_shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    attribute: str | None = Field(default=None, min_length=1)
    encoder_attribute: str | Literal[False] | None = None
    output: str | int | None = None
    encoder_output: str | int | None = None
    prior: PriorChoice | None = None
    data: Array | None = None
    conditions: dict[str, int | float | Array] = Field(default_factory=dict)
    value_range: tuple[float, float] = (0.0, 1.0)
    block_rows: int | None = Field(default=None, ge=1)
    device: str = "cpu"
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    fold_batch_norm: bool = False
    compile: bool = False

    def build(self) -> Decoder:
        device = as_device(self.device)
        network = self._made()
        notes = self._filled(network)
        try:
            network.to(device=device, dtype=getattr(torch, self.dtype) if self.dtype else None)
        except NotImplementedError as error:  # what torch raises for meta tensors
            raise DecoderError(
                f"the network of {self.factory.name!r} has meta tensors, which hold no numbers: give its weights, or make "
                "it on the CPU"
            ) from error
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(
                f"the network of {self.factory.name!r} does not fit into the memory of {device}: use device: cpu"
            ) from error
        decoder, encoder, found_as = self._parts(network)
        try:
            built = Decoder(
                decoder,
                latent_shape=self.latent_shape,
                encoder=encoder,
                prior=self.prior,
                data=self.data,
                conditions={k: v.tensor() if isinstance(v, Array) else v for k, v in self.conditions.items()},
                output=self.output,
                encoder_output=self.encoder_output,
                block_rows=self.block_rows,
                value_range=self.value_range,
                name=self.factory.name,
                precision=self.precision,
                channels_last=self.channels_last,
                fold_batch_norm=self.fold_batch_norm,
                compile=self.compile,
            )
        except EncoderError as error:
            if found_as:
                raise EncoderError(
                    f"{error} (it was found as {found_as!r}: name another with encoder_attribute, or none with "
                    "encoder_attribute: false)"
                ) from error
            raise
        built.notes[:0] = notes
        return built

    def _made(self) -> nn.Module:
        factory, name = self.factory.load(), self.factory.name
        if isinstance(factory, nn.Module):
            raise ConfigError(
                f"factory {name!r} is a network already: name the class or function that makes it, or from Python give "
                "Decoder(module, ...) as the decoder"
            )
        if not callable(factory):
            raise ConfigError(f"factory {name!r} is a {type(factory).__name__}, expected a class or function")
        _check_options(factory, self.factory_options, name)
        # fresh weights are drawn from torch's global random state, which is left as it was
        try:
            with torch.random.fork_rng(devices=[]):
                network = factory(**self.factory_options)
        except _FAILURES as error:
            text = (str(error).strip().splitlines() or [""])[0][:200]
            raise DecoderError(
                f"factory {name!r} failed ({type(error).__name__}: {text}): give it the factory_options that it needs"
            ) from error
        if not isinstance(network, nn.Module):
            raise DecoderError(f"factory {name!r} returned a {type(network).__name__}, expected an nn.Module")
        if self.attribute is None:
            _refuse_whole(network, name)
        return network

    def _filled(self, network: nn.Module) -> list[str]:
        """Reads the weights into it; returns what there is to note."""
        if self.weights is None:
            if self.sha256 is not None:
                raise ConfigError(
                    "sha256 is that of the weights, and no weights are given: add weights, or drop sha256"
                )
            unfilled = any(True for _ in network.parameters())
            return [f"no weights given: {self.factory.name} has its own"] if unfilled else []
        weights = read_weights(self.weights, self.sha256)
        return [f"weights from {self.weights}, sha256 {weights.sha256}", *load_weights(network, weights)]

    def _parts(self, network: nn.Module) -> tuple[Any, Any, str]:
        """What decodes, what encodes or None, and as what the latter was found where it was not named."""
        decoder = network if self.attribute is None else _part(network, self.attribute, "attribute")
        if self.encoder_attribute:
            return decoder, _part(network, self.encoder_attribute, "encoder_attribute"), ""
        if self.attribute is None or self.encoder_attribute is False:
            return decoder, None, ""
        holder, _, last = self.attribute.rpartition(".")
        owner = _part(network, holder, "attribute") if holder else network
        likewise = last.replace("decod", "encod") if "decod" in last else last.replace("dec", "enc")
        for name in (likewise, "encoder", "encode", "enc"):
            if name != last and callable(getattr(owner, name, None)):
                return decoder, getattr(owner, name), f"{holder}.{name}".lstrip(".")
        return decoder, None, ""


def _check_options(factory: Any, options: dict[str, Any], name: str) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some classes written in C have none
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        unknown = next((key for key in options if key not in signature.parameters), "")
        hint = suggest(unknown, signature.parameters) if unknown else ""
        known = ", ".join(signature.parameters) or "nothing"
        raise ConfigError(
            f"factory {name!r} does not take these factory_options ({error}){hint}; it takes {known}"
        ) from None


def _refuse_whole(network: nn.Module, name: str) -> None:
    """A whole auto-encoder maps designs to designs: which part decodes must be said."""
    for encoding, decoding in (("encode", "decode"), ("encoder", "decoder"), ("enc", "dec")):
        if callable(getattr(network, encoding, None)) and callable(getattr(network, decoding, None)):
            parts = (
                f"found {encoding}() and {decoding}()"
                if encoding == "encode"
                else f"found {encoding}.* and {decoding}.*"
            )
            raise DecoderError(
                f"factory {name!r} gives a whole auto-encoder ({parts}): set attribute: {decoding} "
                "(or attribute: forward, where all of it takes latents)"
            )


def _part(network: Any, path: str, field: str) -> Any:
    found = network
    for name in path.split("."):
        if not hasattr(found, name):
            own = set(dir(found)) - set(dir(nn.Module))
            known = sorted(w for w in own if not w.startswith("_") and callable(getattr(found, w, None)))
            parts = ", ".join(known) or "nothing to call"
            raise DecoderError(f"{field}: {type(found).__name__} has no {name!r}{suggest(name, known)}; it has {parts}")
        found = getattr(found, name)
    if not callable(found):
        raise DecoderError(f"{field}: {path!r} is a {type(found).__name__}, expected a module or a method")
    return found

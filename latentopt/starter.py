"""A first run file for a decoder: loaded and looked at, then written down with a comment for every field."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from latentopt import api, rng
from latentopt.coderef import CodeRef
from latentopt.config import make_config
from latentopt.decoder import Decoder
from latentopt.errors import ConfigError, DecoderError, EncoderError, LatentoptError, ShapeError
from latentopt.interfaces import DecoderConfig
from latentopt.outputs import FAILURES, first_line
from latentopt.runtext import Given, compose, is_picture
from latentopt.yamltext import parse_document

_SIZES = ("latent_shape", "latent_dim", "latent_size", "latent_channels", "z_dim", "dim_z", "zdim", "nz", "n_latent")
_MOST_TRIED = 12
_PARTS = (("encode", "decode"), ("encoder", "decoder"), ("enc", "dec"))


class Starter(NamedTuple):
    """The text of a run file and, where there was none to name, the design that it has as its target."""

    text: str
    decoder: Decoder
    target: torch.Tensor | None
    target_name: str


def described(decoder: str | None, given: dict[str, Any]) -> dict[str, Any]:
    """A decoder as a run file says it: by its name, or code and what it takes. Raises `ConfigError` for both or neither."""
    if (decoder is None) == ("factory" not in given):
        raise ConfigError("init needs one decoder: --decoder NAME, or --factory PACKAGE.MODULE:FUNCTION for your own")
    if decoder is None:
        return {"kind": "module", **given}
    if given:
        raise ConfigError(f"{', '.join(given)} belong to --factory, and --decoder {decoder} is whole: leave them out")
    return {"kind": decoder}


def sized(text: str) -> list[int]:
    """A shape as an option gives it: `16`, or `4,8,8`. Raises `ConfigError`."""
    parts = text.replace("x", ",").strip("[]() ").split(",")
    if not all(part.strip().isdecimal() and 0 < int(part) < 10**9 for part in parts):
        raise ConfigError(f"--latent-shape {text!r} is no shape: give whole numbers such as 16, or 4,8,8")
    return [int(part) for part in parts]


def start(described: dict[str, Any], out: Path, target: Path | None = None) -> Starter:
    """Load the decoder, find what is not said of it, and write a run file for the place `out`.

    Raises `LatentoptError`s where the decoder cannot be loaded, or the shape of its latents not be found.
    """
    decoder, found = _loaded(described)
    held: torch.Tensor | None = None
    name = _relative(target, out) if target is not None else ""
    if target is not None:
        decoder.as_designs(str(target))  # or it says what does not fit
    else:
        held, origin = _example(decoder)
        name = _free(out, ".png" if _is_grid(decoder, held) else ".npy")
    about = Given(
        decoder={**found, **({"weights": _relative(found["weights"], out)} if "weights" in found else {})},
        target=name,
        origin="" if target is not None else origin,
        out=out.name,
    )
    text = compose(decoder, about)
    document = parse_document(text, out.name)
    make_config(document.data, folder=out.parent, where=out.name)
    return Starter(text, decoder, held, name)


def write(starter: Starter, out: Path) -> list[Path]:
    """Write the run file, and its target where it is new: the paths. Raises `ConfigError` where one is there already."""
    files = [out] if starter.target is None else [out, out.parent / starter.target_name]
    for path in files:
        refuse(path)
    try:
        if starter.target is not None:
            _save(starter.target, files[1])
        with out.open("x") as file:
            file.write(starter.text)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or out}: {error.strerror or error}; choose another --out"
        ) from None
    return files


def refuse(path: Path) -> None:
    """Raise `ConfigError` where a file is there already."""
    if path.exists():
        raise ConfigError(f"{path} is there already, and init never overwrites: give another --out, or move it away")


def _relative(path: str | Path, out: Path) -> str:
    """A path as the run file names it: from its own folder."""
    return os.path.relpath(path, out.parent) if not Path(path).is_absolute() else str(path)


# ---------------------------------------------------------------------- the decoder


def _loaded(described: dict[str, Any]) -> tuple[Decoder, dict[str, Any]]:
    """The decoder, and its description with what was missing: the part that decodes, the shape of latents."""
    if "factory" not in described:
        return api.load_decoder(described), described
    network = _network(described)
    tried: list[str] = []
    failed: LatentoptError | None = None
    for more in _guesses(network, described):
        whole = {**described, **more}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _noted(api.load_decoder(whole), described), whole
        except EncoderError:
            whole["encoder_attribute"] = False  # it decodes, and what encodes is another matter
            return _noted(api.load_decoder(whole), described), whole
        except (DecoderError, ShapeError) as error:
            failed = failed or error
            tried.append(f"{more.get('attribute', '')} {more['latent_shape']}".strip())
    if "latent_shape" in described and failed is not None:
        raise failed
    why = "" if failed is None else f" ({first_line(failed)})"
    raise ConfigError(
        f"the shape of the latents of {described['factory']!r} was not found (tried {', '.join(tried) or 'nothing'}){why}: "
        "give it with --latent-shape, for example 16 or 4,8,8"
    )


def _noted(decoder: Decoder, described: dict[str, Any]) -> Decoder:
    """With a note where the shape was a guess that any convolution takes."""
    shape = decoder.latent_shape
    if "latent_shape" not in described and len(shape) > 1 and set(shape[1:]) == {1}:
        sides = " x ".join("1" * (len(shape) - 1))
        decoder.notes.append(
            f"how large its latents are was not found: {sides} was taken, as convolutions take any sides; give "
            "--latent-shape where it was trained with others"
        )
    return decoder


def _network(described: dict[str, Any]) -> nn.Module | None:
    """The network that the factory makes, to look at; None where it fails, which loading the decoder will explain."""
    factory = CodeRef(described["factory"]).load()
    if not callable(factory) or isinstance(factory, nn.Module):
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            made = factory(**described.get("factory_options", {}))
    except (*FAILURES, OSError, ImportError):
        return None
    return made if isinstance(made, nn.Module) else None


def _guesses(network: nn.Module | None, described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What may be missing from a description, the likeliest first."""
    parts: list[str | None] = [described.get("attribute")]
    if parts == [None] and network is not None:
        whole = [
            dec
            for enc, dec in _PARTS
            if callable(getattr(network, enc, None)) and callable(getattr(network, dec, None))
        ]
        if not whole and not _runs(network):  # it can be used by a part alone
            whole = [dec for _, dec in _PARTS if callable(getattr(network, dec, None))]
        parts = [*whole] or parts
    for part in parts:
        named = {} if part is None else {"attribute": part}
        shapes = [described["latent_shape"]] if "latent_shape" in described else _shapes(network, part)
        for shape in shapes[:_MOST_TRIED] or [[1]] * (network is None):
            yield {**named, "latent_shape": shape}


def _runs(network: nn.Module) -> bool:
    """Whether a network has a forward of its own."""
    return type(network).forward is not nn.Module.forward


def _shapes(network: nn.Module | None, part: str | None) -> list[list[int]]:
    """Shapes that latents may have: what the network says of itself, then what its layers take, in their order."""
    if network is None:
        return []
    found: list[list[int]] = []
    owner: Any = network
    owners = [owner]
    for name in (part or "").split("."):
        owner = getattr(owner, name, owner)
        owners.append(owner)
    for one in (*owners, getattr(network, "config", None)):
        for name in _SIZES:
            size = one.get(name) if isinstance(one, dict) else getattr(one, name, None)
            sizes = list(size) if isinstance(size, tuple | list) else [size]
            numbers = [n for n in sizes if isinstance(n, int) and not isinstance(n, bool) and n > 0]
            if numbers and len(numbers) == len(sizes):
                found.append(numbers)
    module = owner if isinstance(owner, nn.Module) else network
    found += [[one.in_features] for one in module.modules() if isinstance(one, nn.Linear)]
    # a convolution takes any sides: those of a single pixel are a plain latent put into that form
    for one in module.modules():
        if isinstance(one, nn.modules.conv._ConvNd):
            found.append([one.in_channels, *[1] * len(one.kernel_size)])
            break
    return [shape for i, shape in enumerate(found) if shape not in found[:i]]


# ---------------------------------------------------------------------- a target to begin with


def _example(decoder: Decoder) -> tuple[torch.Tensor, str]:
    """A design to reach `(*design_shape)`, and where it is from: one that ships with the decoder, or one of its own."""
    config = decoder.config
    shipped = config.examples() if isinstance(config, DecoderConfig) else None
    if shipped is not None and len(shipped):
        return shipped[0], "a held-out example that ships with the decoder"
    z_ND = decoder.space.draw(1, rng.generator(1)).to(decoder.device)
    return decoder.decode(z_ND)[
        0
    ].cpu(), "a design that the decoder made of a draw from its prior, so it can be reached"


def _free(out: Path, suffix: str) -> str:
    """The name of a file for the target that is not there yet."""
    plain = f"target{suffix}"
    return f"{out.stem}-{plain}" if (out.parent / plain).exists() else plain


def _is_grid(decoder: Decoder, design: torch.Tensor) -> bool:
    """Whether a design is a picture that a PNG file holds: of 1 or 3 channels, in [0, 1]."""
    inside = float(design.min()) >= 0 and float(design.max()) <= 1 and tuple(decoder.value_range) == (0.0, 1.0)
    return is_picture(decoder) and inside


def _save(design: torch.Tensor, path: Path) -> None:
    if path.suffix == ".npy":
        with path.open("xb") as file:
            np.save(file, design.float().numpy())
        return
    from PIL import Image

    values = (design * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    with path.open("xb") as file:
        Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values).save(file, format="PNG")

"""The decoder: the frozen, trained map from latents to designs, probed once at the door and run in blocks of rows."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from latentopt import modules, outputs, rng
from latentopt.arrayfield import Array
from latentopt.errors import ConfigError, DecoderError, EncoderError, OutOfMemoryError, ShapeError
from latentopt.fitting import check_against, check_fit, fit_prior
from latentopt.gaussians import Fitted, PriorChoice
from latentopt.latent import Evidence, LatentSpace
from latentopt.models import config_error
from latentopt.priors import Normal, PriorBase
from latentopt.probing import Probe, probe, tolerances
from latentopt.speedups import Speedups


class LatentoptWarning(UserWarning):
    """Something that works but may not be what was meant; the message says what to do."""


@dataclass
class RowCounter:
    """Rows decoded and rows whose gradient was taken, since the decoder was made."""

    forward: int = 0
    backward: int = 0


class Decoder:
    """Wraps a trained `nn.Module` or any callable `(N, *latent_shape) -> (N, ...)`, and its encoder where there is one.

    Args:
        module: the decoder, or a callable such as `vae.decode`. It is used where it is: never moved, and left with the
            training modes and gradient flags that it came with. NumPy arrays that it returns become tensors.
        latent_shape: the shape of one latent, of any rank, for example `(64,)` or `(4, 8, 8)`.
        encoder: designs `(N, ...)` to latents; of a `(mean, log_variance)` tuple the mean is taken.
        prior: what the latents are believed to follow: a prior, its name or dict. With `data` and no prior, a Gaussian is
            fitted to the encodings; with neither, N(0, I) is assumed and every result says so.
        data: known designs `(n, *design_shape)`, encoded to fit or check the prior. Needs an encoder.
        conditions: extra keyword inputs of the module, frozen. Tensors whose first size is 1 are repeated for each row;
            floating-point ones take the decoder's precision.
        output: which part of a tuple (a number) or dict or object (a name) is the design.
        encoder_output: the same for the encoder.
        device: where a callable without parameters wants its latents; modules are asked themselves.
        dtype: in what precision it wants them; likewise.
        block_rows: how many rows are decoded at once; `None` chooses by the design's size (docs/performance.md).
        value_range: what black and white of a picture are for this decoder, `(0, 1)` or for example `(-1, 1)`.
        name: what results and errors call it.
        precision: `"bfloat16"` runs the module, and nothing else, under `torch.autocast`: latents, designs, losses and
            gradients stay in float32. `"float32"` leaves a module in its own precision.
        channels_last: keep the weights of 2-d and 3-d convolutions in torch's channels-last memory format.
        fold_batch_norm: write each batch norm into the linear or convolutional layer that it directly follows.
        compile: `torch.compile` the module, which takes from seconds to a minute each time a decoder is made.

    The last four are for speed; docs/performance.md has what each gains, and its effect on the final loss. For
    `channels_last` and `fold_batch_norm` a copy of the module is run, with the weights that it has now.

    Raises:
        DecoderError: the module rejects its latents, or returns something that is not one finite design a row.
        OutOfMemoryError: one row does not fit into memory.
        ConfigError, ShapeError: the other arguments do not fit it or each other.
    """

    def __init__(
        self,
        module: Callable[..., Any],
        latent_shape: tuple[int, ...] | int,
        *,
        encoder: Callable[..., Any] | None = None,
        prior: PriorBase | Fitted | dict[str, Any] | str | None = None,
        data: Any = None,
        conditions: Mapping[str, Any] | None = None,
        output: str | int | None = None,
        encoder_output: str | int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        block_rows: int | None = None,
        value_range: tuple[float, float] = (0.0, 1.0),
        name: str | None = None,
        precision: Literal["float32", "bfloat16"] = "float32",
        channels_last: bool = False,
        fold_batch_norm: bool = False,
        compile: bool = False,  # noqa: A002  # torch's own word
    ) -> None:
        if not callable(module):
            raise DecoderError(f"a decoder must be an nn.Module or a callable, got {type(module).__name__}")
        if block_rows is not None and block_rows < 1:
            raise ConfigError(f"block_rows must be at least 1, got {block_rows}")
        if not value_range[0] < value_range[1]:
            raise ConfigError(f"value_range must be (low, high) with low < high, got {tuple(value_range)}")
        self.module, self.encoder = module, encoder
        self._run = module  # what is run for it
        self.name: str = name or str(getattr(module, "__name__", type(module).__name__))
        self.output, self.encoder_output = output, encoder_output
        self.value_range = value_range
        self.rows = RowCounter()
        self.notes: list[str] = []
        self.config: Any = None  # the DecoderConfig that built it, where one did
        self._depth = 0
        self._spares_latents = False  # whether the module writes into its input, which must then be a copy
        self.device, self.dtype = modules.device_and_dtype(module, device, dtype, self.name)
        self._conditions = {key: self._condition(value) for key, value in (conditions or {}).items()}
        self.speedups = Speedups(precision, channels_last, fold_batch_norm, compile)
        self.speedups.check(module, self.device, self.dtype, self.name)
        choice = _prior_choice(prior)
        self.space = LatentSpace(
            _latent_shape(latent_shape),
            Normal() if choice is None or isinstance(choice, Fitted) else choice,
            Evidence("assumed" if choice is None or isinstance(choice, Fitted) else "given"),
        )
        for part in (module, encoder):
            if part is not None:
                modules.check_weights(part, self.name)
        self._block_rows = block_rows
        self._shape: tuple[int, ...] | None = None  # of a design, once it is known
        self._has_gradient = True
        with self.frozen():
            self.probe = probe(self)
            self._shape, self._has_gradient = self.probe.design_shape, self.probe.differentiable
            if self.speedups.wanted:
                self._speed_up()
        self._heed(self.probe)
        if encoder is not None:
            self._check_encoder()
        self.codes: Tensor | None = None
        self._learn_from(data, choice)

    # ------------------------------------------------------------------ what it is

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The shape of one latent."""
        return self.space.shape

    @property
    def dim(self) -> int:
        """D, the number of values in one latent."""
        return self.space.dim

    @property
    def design_shape(self) -> tuple[int, ...]:
        """The shape of one design."""
        return self.probe.design_shape

    @property
    def latent_dtype(self) -> torch.dtype:
        """float64 for a float64 module, else float32: latents, losses and moments are never kept in half precision."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        """The precision of the products inside the module: its own, or bfloat16 where that was asked."""
        return self.speedups.compute_dtype(self.dtype)

    @property
    def block_rows(self) -> int:
        """Rows decoded at once. Halved for good when memory runs out, which `notes` then says."""
        return self._block_rows or self._default_block_rows

    @cached_property
    def _default_block_rows(self) -> int:
        return default_block_rows(math.prod(self.design_shape), self.device)

    def __repr__(self) -> str:
        return f"Decoder({self.name}: {self.latent_shape} -> {self.design_shape}, prior {self.space.evidence})"

    # ------------------------------------------------------------------ running it

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Eval mode and parameters without gradients inside, the caller's own flags again after."""
        if self._depth:
            yield
            return
        self._depth += 1
        try:
            with modules.frozen(modules.modules_of(self.module, self.encoder)), self.speedups.settings():
                yield
        finally:
            self._depth -= 1

    def forward(self, z_ND: Tensor) -> Tensor:
        """Designs `(N, *design_shape)` of rows `(N, D)` in one piece, with the graph where gradients are on."""
        n = z_ND.shape[0]  # len() of a tensor is slow, and this runs at every step
        self.rows.forward += n
        latents = z_ND if len(self.space.shape) == 1 else z_ND.reshape(n, *self.space.shape)
        if latents.dtype != self.dtype:
            latents = latents.to(self.dtype)
        if not self._has_gradient:  # what fails on latents that want a gradient works on others
            latents = latents.detach()
        if self._spares_latents:
            latents = latents.clone()
        conditions = {key: _repeated(value, n) for key, value in self._conditions.items()} if self._conditions else {}
        designs = outputs.pick(self._run(latents, **conditions), self.output, "decoder")
        designs = outputs.as_designs(designs, n, self._shape, latents, self.name)
        return designs.contiguous() if self.speedups.channels_last else designs  # so that view() works as it did

    def decode(self, latents: Tensor) -> Tensor:
        """Designs `(N, *design_shape)` of latents `(N, *latent_shape)` or `(N, D)`, block by block, without a graph."""
        z_ND = self.as_rows(latents)
        designs = self._empty(len(z_ND))

        def block(rows: slice) -> None:
            designs[rows] = self.forward(z_ND[rows])

        with self.frozen(), torch.no_grad():
            self.each_block(len(z_ND), block)
        return designs

    def _empty(self, n: int) -> Tensor:
        """Room for n designs, taken at once."""
        try:
            with torch.inference_mode(False):
                return torch.empty(n, *self.design_shape, dtype=self.probe.dtype, device=self.device)
        except (RuntimeError, MemoryError) as error:
            gib = n * math.prod(self.design_shape) * self.probe.dtype.itemsize / 2**30
            raise OutOfMemoryError(
                f"{n} designs of shape {self.design_shape} need {gib:.3g} GiB, which is not free "
                f"({outputs.first_line(error)}): decode fewer at once"
            ) from error

    def encode(self, designs: Any) -> Tensor:
        """Latents `(N, D)` of designs `(N, *design_shape)` by the encoder. Raises `DecoderError` where there is none."""
        encoder = self.encoder
        if encoder is None:
            raise DecoderError(f"decoder {self.name!r} has no encoder: pass Decoder(..., encoder=...)")
        x = self.as_designs(designs, "designs to encode").to(self.dtype)
        codes: list[Tensor] = []

        def block(rows: slice) -> None:
            found = outputs.pick_code(encoder(x[rows]), self.encoder_output, self.dim)
            z_ND = self.space.flatten(found).to(device=self.device, dtype=self.latent_dtype)
            if len(z_ND) != rows.stop - rows.start:
                raise EncoderError(
                    f"the encoder of {self.name!r} returned {outputs.describe(found)} for {rows.stop - rows.start} designs: "
                    "expected one latent a row"
                )
            codes.append(z_ND)

        with self.frozen(), torch.no_grad():
            self.each_block(len(x), block)
        return torch.cat(codes)

    def each_block(self, n: int, work: Callable[[slice], None]) -> None:
        """Calls `work` on equal slices of at most `block_rows` rows; out of memory, halves the block and repeats the slice.

        Raises `OutOfMemoryError` where a single row does not fit.
        """
        start = 0
        while start < n:
            left = n - start
            stop = start + math.ceil(left / math.ceil(left / self.block_rows))  # equal blocks: no small one at the end
            try:
                work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not outputs.is_out_of_memory(error):
                    raise
                if stop - start == 1:
                    raise OutOfMemoryError(outputs.no_room(self.name, 1, error)) from error
                self.halve_block(stop - start)
            else:
                start = stop

    def spare_latents(self) -> None:
        """The module was seen to write into its input: give it a copy from now on."""
        self._spares_latents = True
        self.notes.append(f"decoder {self.name!r} writes into its latents, so it is given a copy of them")

    def halve_block(self, rows: int) -> None:
        """Memory ran out at this many rows: take half as many from now on, and say so in the notes."""
        self._block_rows = max(1, rows // 2)
        self.notes.append(f"out of memory at {rows} rows a block: went on with {self._block_rows}")

    # ------------------------------------------------------------------ what goes in

    def as_rows(self, latents: Tensor) -> Tensor:
        """Latents of any accepted shape as rows `(N, D)` on the decoder's device. Raises `ShapeError`."""
        try:
            z = torch.as_tensor(latents)
        except (TypeError, ValueError, RuntimeError) as error:
            shape = ", ".join(map(str, self.latent_shape))
            raise ShapeError(
                f"expected latents, a tensor (N, {shape}), got {type(latents).__name__} ({outputs.first_line(error)})"
            ) from None
        if z.is_complex():
            raise ShapeError(f"expected latents of real numbers, got {z.dtype}: give their real part")
        with torch.inference_mode(False):  # a tensor that was made in inference mode can have no gradient
            z = z.clone() if z.is_inference() else z
            return self.space.flatten(z).to(device=self.device, dtype=self.latent_dtype)

    def as_designs(self, values: Any, what: str = "target") -> Tensor:
        """Designs `(T, *design_shape)` from a tensor, nested list, path or `Array`. Never broadcasts.

        Pictures are mapped to the decoder's `value_range`. Raises `ShapeError`, `InputFileError`.
        """
        array = values if isinstance(values, Array) else Array(values)
        designs = array.designs(self.design_shape, what).to(device=self.device, dtype=self.latent_dtype)
        low, high = self.value_range
        return designs * (high - low) + low if array.is_picture and (low, high) != (0.0, 1.0) else designs

    # ------------------------------------------------------------------ at the door

    def _condition(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().to(device=self.device, dtype=self.dtype if value.is_floating_point() else None)

    def _speed_up(self) -> None:
        """Puts what the options make of the module in its place, and looks again."""
        plain = self.probe
        draws = self.space.draw(plain.rows, rng.generator(0)).to(device=self.device, dtype=self.latent_dtype)

        def exercise(run: Callable[..., Any]) -> Tensor:
            self._run = run
            if plain.differentiable:
                z_ND = draws.clone().requires_grad_(True)
                with torch.enable_grad():
                    torch.autograd.grad(self.forward(z_ND).sum(), z_ND, retain_graph=True)  # as the engine's checks do
                self.rows.backward += len(draws)
            with torch.no_grad():
                return self.forward(draws)

        self._run, notes = self.speedups.applied(self.module, exercise, self.device, self.name)
        self.notes.extend(notes)
        try:
            self.probe = probe(self)
            lost = self.probe.gradient_note if plain.differentiable else ""
        except DecoderError as error:
            lost = outputs.first_line(error)
        if lost:
            raise ConfigError(
                f"decoder {self.name!r} works, but not with {self.speedups.wanted} ({lost}): leave that out"
            )

    def _heed(self, probe: Probe) -> None:
        for text in probe.warnings(self):
            self._warn(text)
        if probe.rows < 4 and (self._block_rows or 4) > probe.rows:
            self._block_rows = probe.rows
            self.notes.append(f"out of memory at 4 rows a block: went on with {probe.rows}")
        low, high = self.value_range
        slack = 0.05 * (high - low)
        if len(probe.design_shape) == 3 and (low, high) == (0.0, 1.0) and -1.0 <= probe.low < low - slack:
            ends = "value_range=(-1, 1)" if probe.high <= high + slack else "value_range=(black, white)"
            self.notes.append(
                f"designs go from {probe.low:.2g} to {probe.high:.2g}: set {ends} if pictures are to be "
                "read so; they are read as 0 to 1 now"
            )
        picture = len(probe.design_shape) == 3 and probe.design_shape[0] in (1, 3)
        if picture and (low, high) == (0.0, 1.0) and probe.low >= -slack and 2.0 < probe.high <= 255.0:
            self.notes.append(
                f"designs go from {probe.low:.3g} to {probe.high:.3g}: set value_range=(0, 255) if they are pictures of "
                "8 bits; pictures are read as 0 to 1 now"
            )

    def _warn(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, LatentoptWarning, stacklevel=4)  # the line that makes the decoder

    def _check_encoder(self) -> None:
        with self.frozen():
            designs = self.decode(self.space.mean(torch.zeros(self.dim))[None])
            try:
                first, again = self.encode(designs), self.encode(designs)
            except outputs.REJECTIONS as error:
                raise EncoderError(
                    f"the encoder of {self.name!r} does not turn designs (N, {', '.join(map(str, self.design_shape))}) "
                    f"into latents of {self.dim} values ({outputs.first_line(error)}): "
                    "pass its matching encoder, and encoder_output= where it returns several things"
                ) from error
        if not bool(torch.isfinite(first).all()):
            self._warn(
                f"the encoder of {self.name!r} gives NaN or infinite latents for the design at the prior's mean: starts and "
                "cycle errors from it will be missing; check its weights"
            )
            return
        scale = max(1.0, float(first.abs().amax()))
        apart = float((first - again).abs().amax()) / scale
        if apart > tolerances(self.dtype, self.device)[0]:
            self._warn(
                f"the encoder of {self.name!r} gives another latent on a second call with the same design (they differ by "
                f"{apart:.1e}): make it return the mean rather than a draw"
            )

    def _learn_from(self, data: Any, choice: PriorBase | Fitted | None) -> None:
        if data is None:
            if isinstance(choice, Fitted):
                raise ConfigError("prior 'fitted' needs data= (known designs) and an encoder to fit it to")
            return
        if self.encoder is None:
            raise ConfigError("data= needs encoder=: it is encoded to fit or check the prior")
        codes = self.encode(data)
        self.codes = codes
        if choice is None or isinstance(choice, Fitted):
            prior = fit_prior(codes, 1 if choice is None else choice.components)
            self.space = self.space.with_prior(prior, Evidence("fitted", len(codes), check_fit(prior, codes)))
        else:
            finding = check_against(choice, codes)
            self.space = self.space.with_prior(choice, Evidence("given", len(codes), finding))


def default_block_rows(design_values: int, device: torch.device) -> int:
    """Rows a block: about 2^18 design values on a CPU (docs/performance.md), 2^25 on a GPU (not measured yet)."""
    budget, smallest, largest = (2**18, 16, 512) if device.type == "cpu" else (2**25, 16, 16384)
    return max(smallest, min(largest, budget // max(1, design_values)))


def _prior_choice(value: Any) -> PriorBase | Fitted | None:
    if value is None or isinstance(value, PriorBase | Fitted):
        return value
    try:
        return TypeAdapter(PriorChoice).validate_python(value)
    except ValidationError as error:
        raise config_error(error, value, "prior") from None


def _latent_shape(shape: Any) -> tuple[int, ...]:
    try:
        return tuple(operator.index(n) for n in (shape if isinstance(shape, list | tuple) else (shape,)))
    except TypeError:
        raise ShapeError(f"latent_shape must be positive whole numbers, for example (64,), got {shape!r}") from None


def _repeated(value: Any, n: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == 1:
        return value.expand(n, *value.shape[1:])
    return value

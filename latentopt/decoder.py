"""The decoder: the frozen, trained map from latents to designs, probed once at the door and run in blocks of rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from latentopt import outputs, rng
from latentopt.arrayfield import Array
from latentopt.errors import ConfigError, DecoderError, OutOfMemoryError, ShapeError
from latentopt.fitting import check_against, fit_prior
from latentopt.latent import Evidence, LatentSpace
from latentopt.models import config_error
from latentopt.priors import Fitted, Normal, PriorBase, PriorChoice

_PROBE_ROWS = 4


class LatentoptWarning(UserWarning):
    """Something that works but may not be what was meant; the message says what to do."""


@dataclass
class RowCounter:
    """Rows decoded and rows whose gradient was taken, since the decoder was made."""

    forward: int = 0
    backward: int = 0


@dataclass(frozen=True)
class Probe:
    """What one look at the decoder found: of its designs, its gradient, and whether rows and calls are independent."""

    design_shape: tuple[int, ...]
    low: float
    high: float
    differentiable: bool
    gradient_note: str
    row_difference: float
    call_difference: float


class Decoder:
    """Wraps a trained `nn.Module` or any callable `(N, *latent_shape) -> (N, ...)`, and its encoder where there is one.

    Args:
        module: the decoder. It is used where it is: never moved, never left in eval mode or without gradients.
        latent_shape: the shape of one latent, of any rank, for example `(64,)` or `(4, 8, 8)`.
        encoder: designs `(N, ...)` to latents; of a `(mean, log_variance)` tuple the mean is taken.
        prior: what the latents are believed to follow: a prior, its name or dict. With `data` and no prior, a Gaussian is
            fitted to the encodings; with neither, N(0, I) is assumed and every result says so.
        data: known designs `(n, *design_shape)`, encoded to fit or check the prior. Needs an encoder.
        conditions: extra keyword inputs of the module, frozen. Tensors whose first size is 1 are repeated for each row.
        output: which part of a tuple (a number) or dict or object (a name) is the design.
        encoder_output: the same for the encoder.
        device, dtype: where a callable without parameters wants its latents; modules are asked themselves.
        block_rows: how many rows are decoded at once; `None` chooses by the design's size (docs/performance.md).
        value_range: what black and white of a picture are for this decoder, `(0, 1)` or for example `(-1, 1)`.
        name: what results and errors call it.

    Raises:
        DecoderError: the module rejects its latents, or returns something that is not one finite design a row.
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
    ) -> None:
        if not callable(module):
            raise DecoderError(f"a decoder must be an nn.Module or a callable, got {type(module).__name__}")
        if block_rows is not None and block_rows < 1:
            raise ConfigError(f"block_rows must be at least 1, got {block_rows}")
        self.module, self.encoder = module, encoder
        self.name: str = name or str(getattr(module, "__name__", type(module).__name__))
        self.output, self.encoder_output = output, encoder_output
        self.value_range = value_range
        self.rows = RowCounter()
        self.notes: list[str] = []
        self.config: Any = None  # the DecoderConfig that built it, where one did
        self._depth = 0
        self.device, self.dtype = outputs.device_and_dtype(module, device, dtype, self.name)
        self._conditions = {
            key: value.to(self.device) if isinstance(value, Tensor) else value
            for key, value in (conditions or {}).items()
        }
        shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
        choice = _prior_choice(prior)
        self.space = LatentSpace(
            shape,
            Normal() if choice is None or isinstance(choice, Fitted) else choice,
            Evidence("assumed" if choice is None or isinstance(choice, Fitted) else "given"),
        )
        outputs.check_weights(module, self.name)
        self._block_rows = block_rows
        self.probe = self._probe()
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
    def block_rows(self) -> int:
        """Rows decoded at once. Halved for good when memory runs out, which `notes` then says."""
        return self._block_rows or default_block_rows(math.prod(self.design_shape), self.device)

    def __repr__(self) -> str:
        return f"Decoder({self.name}: {self.latent_shape} -> {self.design_shape}, prior {self.space.evidence})"

    # ------------------------------------------------------------------ running it

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Eval mode and parameters without gradients inside, the caller's own flags again after."""
        if self._depth:
            yield
            return
        modules = [m for m in (self.module, self.encoder) if isinstance(m, nn.Module)]
        training = [(part, part.training) for module in modules for part in module.modules()]
        wanted = [(p, p.requires_grad) for module in modules for p in module.parameters()]
        self._depth += 1
        try:
            for module in modules:
                module.eval()
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            self._depth -= 1
            for part, flag in training:
                part.training = flag
            for parameter, flag in wanted:
                parameter.requires_grad_(flag)

    def forward(self, z_ND: Tensor) -> Tensor:
        """Designs `(N, *design_shape)` of rows `(N, D)` in one piece, with the graph where gradients are on."""
        self.rows.forward += len(z_ND)
        latents = z_ND.reshape(len(z_ND), *self.space.shape)
        if latents.dtype != self.dtype:
            latents = latents.to(self.dtype)
        conditions = {key: _repeated(value, len(latents)) for key, value in self._conditions.items()}
        designs = outputs.pick(self.module(latents, **conditions), self.output, "decoder")
        return designs if designs.dtype in (torch.float32, torch.float64) else designs.float()

    def decode(self, latents: Tensor) -> Tensor:
        """Designs `(N, *design_shape)` of latents `(N, *latent_shape)` or `(N, D)`, block by block, without a graph."""
        z_ND = self.as_rows(latents)
        found: list[Tensor] = []

        def block(rows: slice) -> None:
            designs = self.forward(z_ND[rows])
            if not found:
                found.append(designs.new_empty(len(z_ND), *designs.shape[1:]))
            found[0][rows] = designs

        with self.frozen(), torch.no_grad():
            self.each_block(len(z_ND), block)
        return found[0] if found else torch.empty(0, *self.design_shape, device=self.device)

    def encode(self, designs: Any) -> Tensor:
        """Latents `(N, D)` of designs `(N, *design_shape)` by the encoder. Raises `DecoderError` where there is none."""
        encoder = self.encoder
        if encoder is None:
            raise DecoderError(f"decoder {self.name!r} has no encoder: pass Decoder(..., encoder=...)")
        x = self.as_designs(designs, "designs to encode").to(self.dtype)
        codes: list[Tensor] = []

        def block(rows: slice) -> None:
            found = outputs.pick_code(encoder(x[rows]), self.encoder_output, self.dim)
            codes.append(self.space.flatten(found).to(self.latent_dtype))

        with self.frozen(), torch.no_grad():
            self.each_block(len(x), block)
        return torch.cat(codes) if codes else torch.empty(0, self.dim, device=self.device)

    def each_block(self, n: int, work: Callable[[slice], None]) -> None:
        """Calls `work` on slices of `block_rows` rows; when memory runs out it halves the block and repeats that slice.

        Raises `OutOfMemoryError` where a single row does not fit.
        """
        start = 0
        while start < n:
            stop = min(n, start + self.block_rows)
            try:
                work(slice(start, stop))
            except (RuntimeError, MemoryError) as error:
                if not outputs.is_out_of_memory(error):
                    raise
                if stop - start == 1:
                    raise OutOfMemoryError(
                        f"one row of decoder {self.name!r} does not fit into memory ({outputs.first_line(error)}): "
                        "use a machine with more memory or a smaller decoder"
                    ) from error
                self._block_rows = (stop - start) // 2
                self.notes.append(f"out of memory at {stop - start} rows a block: went on with {self._block_rows}")
            else:
                start = stop

    # ------------------------------------------------------------------ what goes in

    def as_rows(self, latents: Tensor) -> Tensor:
        """Latents of any accepted shape as rows `(N, D)` on the decoder's device. Raises `ShapeError`."""
        z = torch.as_tensor(latents)
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

    def _probe(self) -> Probe:
        draws = self.space.draw(_PROBE_ROWS, rng.generator(0)).to(device=self.device, dtype=self.latent_dtype)
        with self.frozen():
            with torch.no_grad():
                first = self._try(draws)
                again, alone = self._try(draws), self._try(draws[:1])
            outputs.check_designs(first, _PROBE_ROWS, self.name)
            differentiable, note = self._gradient(draws)
        scale = float(first.abs().amax()) or 1.0
        found = Probe(
            design_shape=tuple(first.shape[1:]),
            low=float(first.amin()),
            high=float(first.amax()),
            differentiable=differentiable,
            gradient_note=note,
            row_difference=float((first[:1] - alone).abs().amax()) / scale,
            call_difference=float((first - again).abs().amax()) / scale,
        )
        self._warn_of(found)
        return found

    def _try(self, z_ND: Tensor) -> Tensor:
        try:
            return self.forward(z_ND)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            shape = (len(z_ND), *self.space.shape)
            raise DecoderError(
                f"decoder {self.name!r} rejects latents of shape {shape}, {self.dtype}, on {self.device} "
                f"({outputs.first_line(error)}): set latent_shape to what it was trained with"
            ) from error

    def _gradient(self, draws: Tensor) -> tuple[bool, str]:
        z = draws.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            designs = self.forward(z)
            if not designs.requires_grad:
                return False, "its output is cut off from its latents (no_grad, detach, argmax or NumPy inside)"
            try:
                (gradient,) = torch.autograd.grad(designs.square().sum(), z, allow_unused=True)
            except RuntimeError as error:
                return False, f"its backward pass fails ({outputs.first_line(error)})"
        self.rows.backward += len(z)
        if gradient is None or not bool((gradient != 0).any()):
            return False, "the gradient of its output with respect to the latents is zero"
        return True, ""

    def _warn_of(self, probe: Probe) -> None:
        if probe.call_difference > 1e-6:
            self._warn(
                f"decoder {self.name!r} gives another design on a second call with the same latents (they differ by "
                f"{probe.call_difference:.1e}): losses will be noisy; make it deterministic in eval mode"
            )
        elif probe.row_difference > 1e-3:
            self._warn(
                f"decoder {self.name!r} decodes a row differently alone and in a batch (they differ by "
                f"{probe.row_difference:.1e}): rows are not independent, so a result depends on the block it was in"
            )
        low, high = self.value_range
        slack = 0.05 * (high - low)
        if len(probe.design_shape) == 3 and (low, high) == (0.0, 1.0) and -1.0 <= probe.low < low - slack:
            self.notes.append(
                f"designs go from {probe.low:.2g} to {probe.high:.2g}: set value_range=(-1, 1) if pictures are to be "
                "read so; they are read as 0 to 1 now"
            )

    def _warn(self, text: str) -> None:
        self.notes.append(text)
        warnings.warn(text, LatentoptWarning, stacklevel=4)

    def _check_encoder(self) -> None:
        try:
            self.encode(torch.zeros(1, *self.design_shape, device=self.device))
        except (RuntimeError, TypeError, ValueError, ShapeError) as error:
            raise DecoderError(
                f"the encoder of {self.name!r} does not turn designs (N, {', '.join(map(str, self.design_shape))}) "
                f"into latents of {self.dim} values ({outputs.first_line(error)}): "
                "pass its matching encoder, and encoder_output= where it returns several things"
            ) from error

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
            self.space = self.space.with_prior(prior, Evidence("fitted", len(codes)))
        else:
            finding = check_against(choice, codes)
            self.space = self.space.with_prior(choice, Evidence("given", len(codes), finding))


def default_block_rows(design_values: int, device: torch.device) -> int:
    """Rows a block: about a million design values on a CPU (beyond that caches run over), 32 times that on a GPU."""
    budget = 2**20 if device.type == "cpu" else 2**25
    largest = 1024 if device.type == "cpu" else 16384
    return max(8, min(largest, budget // max(1, design_values)))


def _prior_choice(value: Any) -> PriorBase | Fitted | None:
    if value is None or isinstance(value, PriorBase | Fitted):
        return value
    try:
        return TypeAdapter(PriorChoice).validate_python(value)
    except ValidationError as error:
        raise config_error(error, value, "prior") from None


def _repeated(value: Any, n: int) -> Any:
    if isinstance(value, Tensor) and value.ndim and len(value) == 1:
        return value.expand(n, *value.shape[1:])
    return value

"""Residuals linearized row by row: gradients and Gauss-Newton matrices, block by block, by whichever derivative is cheapest.

Shapes: M rows, D latent values, R residuals, C columns at once, K directions of a Krylov space (docs/shapes.md).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from latentopt import outputs, rng
from latentopt.decoder import Decoder
from latentopt.errors import OutOfMemoryError
from latentopt.interfaces import Candidates, Evaluation
from latentopt.steering import Steering
from latentopt.tangents import Tangents

_Residuals = Callable[[Tensor, Tensor, "Steering | None"], tuple[Tensor, Tensor]]
_Evaluate = Callable[[Candidates, "Steering | None"], Evaluation]
# Columns of a Jacobian decoded together, in blocks of the decoder: tangents are not kept along the network, as what a
# gradient needs is.
_BLOCKS = 4
_TINY = 1e-30


class Linearized(NamedTuple):
    """What M rows look like to second order, as far as first derivatives of residuals go (Gauss and Newton).

    `gradient_MD` is the merit's own, 2 J^T r. The rest is for steps within the region, in K directions `basis_MKD`: to
    project(z + y basis) the merit changes by (basis gradient) y + y (gram + bend) y. `gram_MKK` is (J basis)^T (J basis);
    `bend_MKK` is what the region's border adds, 0 away from it. Directions are in the prior's deviations, so that the
    length of y is that of a step in standard units: all D of them, or a Krylov space.
    """

    evaluation: Evaluation
    gradient_MD: Tensor
    basis_MKD: Tensor
    gram_MKK: Tensor
    bend_MKK: Tensor


class _Way(NamedTuple):
    """How many residuals a row has, and how J v is had: by forward mode, by two backward passes, or by differences."""

    residuals: int
    products: Literal["forward", "twice", "differences"]
    note: str = ""


class Linearizer:
    """Linearizes one problem's residuals. Holds no rows.

    `residuals(z_MD, target_M, steering)` gives them `(M, R)`, differentiable in z, and the designs, which `evaluate` judges.
    How derivatives are taken is found out with one row, at the first use.
    """

    def __init__(
        self, decoder: Decoder, residuals: _Residuals, evaluate: _Evaluate, project: Callable[[Tensor], Tensor]
    ) -> None:
        self.decoder, self.residuals, self.evaluate, self.project = decoder, residuals, evaluate, project
        self._ways: dict[bool, _Way] = {}

    # ------------------------------------------------------------------ how

    def way(self, krylov: int = 0) -> _Way:
        """Found out with one row, which costs at most two decodes and two backward passes."""
        if bool(krylov) not in self._ways:
            self._ways[bool(krylov)] = self._find_way(bool(krylov))
        return self._ways[bool(krylov)]

    def _find_way(self, krylov: bool) -> _Way:
        decoder = self.decoder
        like = torch.empty(0, device=decoder.device, dtype=decoder.latent_dtype)
        z = decoder.space.draw(1, rng.generator(0)).to(like)
        target = torch.zeros(1, dtype=torch.long, device=decoder.device)
        with torch.no_grad():
            count = self.residuals(z, target, None)[0].shape[1]
        try:
            if krylov:
                at, r, _ = self._with_graph(z, target, None, twice=True)
                _Twice(at, r).push(torch.ones_like(z))
            elif count >= decoder.dim:
                with (
                    warnings.catch_warnings()
                ):  # torch reads its rules at the first use, by means that it deprecates itself
                    warnings.simplefilter("ignore", DeprecationWarning)
                    self._forward_mode(z, target, None, torch.ones_like(z)[None])
        except outputs.FAILURES as error:
            if outputs.is_out_of_memory(error):
                raise
            kind = "second" if krylov else "forward-mode"
            note = (
                f"decoder {decoder.name!r} or an objective has no {kind} derivative ({outputs.first_line(error)}): "
                "finite differences took its place"
            )
            return _Way(count, "differences", note)
        return _Way(count, "twice" if krylov else "forward")

    def by_rows(self, krylov: int) -> bool:
        """Whether a Jacobian is had row by row: fewer residuals than latent values, and no directions chosen."""
        return not krylov and self.way().residuals < self.decoder.dim

    def cost(self, krylov: int = 0) -> tuple[int, int]:
        """Forward and backward rows that one row costs. The decode that a column carries along is not counted again."""
        if krylov:
            return 1 + krylov, krylov
        if self.by_rows(0):
            return 1, self.way().residuals
        return 1 + self.decoder.dim, int(self.way().products == "differences")

    # ------------------------------------------------------------------ block by block

    def at(self, z_MD: Tensor, target_M: Tensor, steering: Steering | None, krylov: int = 0) -> Linearized:
        """All rows, `(M, R, D)` held for a block at a time. Raises `OutOfMemoryError` where one column does not fit."""
        decoder, (forward, backward) = self.decoder, self.cost(krylov)
        width = krylov or min(decoder.dim, self.way().residuals)
        self.project(z_MD)  # outside of the derivatives: it may keep tensors for the next call
        parts: list[Linearized] = []
        start, n = 0, len(z_MD)
        while start < n:
            room = decoder.block_rows * _BLOCKS if decoder.block_rows > 1 else 1
            most = max(1, min(room // width, decoder.block_rows))
            stop = start + math.ceil((n - start) / math.ceil((n - start) / most))
            rows = slice(start, stop)
            columns = max(1, min(width, room // (stop - start)))
            counted = decoder.rows.forward, decoder.rows.backward
            try:
                some = None if steering is None else steering.take(rows)
                parts.append(self._block(z_MD[rows].detach(), target_M[rows], some, columns, krylov))
            except (RuntimeError, MemoryError) as error:
                if not outputs.is_out_of_memory(error):
                    raise
                if room == 1:
                    raise OutOfMemoryError(outputs.no_room(decoder.name, 1, error)) from error
                decoder.halve_block(min(decoder.block_rows, (stop - start) * columns))
                continue
            decoder.rows.forward = counted[0] + forward * (stop - start)
            decoder.rows.backward = counted[1] + backward * (stop - start)
            start = stop
        return _join(parts)

    def _block(self, z: Tensor, target: Tensor, steering: Steering | None, columns: int, krylov: int) -> Linearized:
        if krylov:
            return self._in_krylov_space(z, target, steering, krylov)
        if self.by_rows(0):
            evaluation, gradient, jacobian_MRD = self._by_rows(z, target, steering)
        else:
            evaluation, gradient, jacobian_MRD = self._by_columns(z, target, steering, columns)
        gram_MDD = jacobian_MRD.mT @ jacobian_MRD
        scale_D = self.decoder.space.std(z)
        own_DMD = scale_D.diag()[:, None].expand(-1, *z.shape)
        basis_DMD, bend_DMD = Tangents(self.project, z, gradient, scale_D).push(own_DMD)
        basis_MDD = basis_DMD.transpose(0, 1)
        bend_MDD = own_DMD.transpose(0, 1) @ bend_DMD.permute(1, 2, 0)
        return Linearized(evaluation, gradient, basis_MDD, basis_MDD @ gram_MDD @ basis_MDD.mT, bend_MDD)

    def _by_rows(self, z: Tensor, target: Tensor, steering: Steering | None) -> tuple[Evaluation, Tensor, Tensor]:
        """The evaluation, the merit's gradient and the Jacobian `(m, R, D)`, a vector-Jacobian product a residual."""
        z, r, evaluation = self._with_graph(z, target, steering)
        rows = [torch.autograd.grad(r[:, i].sum(), z, retain_graph=True)[0] for i in range(r.shape[1])]
        jacobian_MRD = torch.stack(rows, dim=1)
        return evaluation, 2 * (jacobian_MRD.mT @ r.detach()[:, :, None])[:, :, 0], jacobian_MRD

    def _by_columns(
        self, z: Tensor, target: Tensor, steering: Steering | None, columns: int
    ) -> tuple[Evaluation, Tensor, Tensor]:
        """The same, a direction at a time, `columns` of them together."""
        directions = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, *z.shape)
        if self.way().products == "forward":
            found = [self._forward_mode(z, target, steering, v_CMD) for v_CMD in directions.split(columns)]
            jacobian_MRD = torch.cat([one[0] for one in found]).permute(1, 2, 0)
            _, r, designs = found[0]
            with torch.no_grad():
                evaluation = self.evaluate(Candidates(z, designs, target), steering)
            return evaluation, 2 * (jacobian_MRD.mT @ r[:, :, None])[:, :, 0], jacobian_MRD
        z, r, evaluation = self._with_graph(z, target, steering)
        (gradient,) = torch.autograd.grad(r, z, 2 * r.detach())  # exact: differences are for the curvature alone
        z, r = z.detach(), r.detach()
        chunks = [self._differences(z, target, steering, r, v_CMD) for v_CMD in directions.split(columns)]
        return evaluation, gradient, torch.cat(chunks).permute(1, 2, 0)

    def _in_krylov_space(self, z: Tensor, target: Tensor, steering: Steering | None, count: int) -> Linearized:
        """The Gauss-Newton matrix A on the space of g, A g, A^2 g, ..., in units of the prior's deviations.

        Lanczos with all directions made orthogonal twice. A damped step in this space is what as many conjugate-gradient
        iterations give, for every damping at once (Golub and Van Loan 2013, section 11.3; Frommer and Maass 1999).
        """
        scale_D = self.decoder.space.std(z)
        twice = self.way(count).products == "twice"
        z, r, evaluation = self._with_graph(z, target, steering, twice=twice)
        (gradient,) = torch.autograd.grad(r, z, 2 * r.detach(), retain_graph=True)
        plain, held = z.detach(), r.detach()
        jacobian = _Twice(z, r) if twice else None
        tangents = Tangents(self.project, plain, gradient, scale_D)
        units: list[Tensor] = []
        basis, bends, images = [], [], []
        w = tangents.pull(gradient) * scale_D
        for k in range(count):
            units.append(_orthogonal(w, units))
            direction_1MD, bend_1MD = tangents.push((units[-1] * scale_D)[None])
            if jacobian is not None:
                image = jacobian.push(direction_1MD[0])
            else:
                image = self._differences(plain, target, steering, held, direction_1MD)[0]
            basis.append(direction_1MD[0])
            bends.append(bend_1MD[0] * scale_D)
            images.append(image)
            if k + 1 < count:
                (pulled,) = torch.autograd.grad(r, z, image, retain_graph=True)
                w = tangents.pull(pulled) * scale_D + bends[-1]
        images_MKR = torch.stack(images, dim=1)
        bend_MKK = torch.stack(units, dim=1) @ torch.stack(bends, dim=2)
        return Linearized(evaluation, gradient, torch.stack(basis, dim=1), images_MKR @ images_MKR.mT, bend_MKK)

    # ------------------------------------------------------------------ derivatives

    def _with_graph(
        self, z: Tensor, target: Tensor, steering: Steering | None, twice: bool = False
    ) -> tuple[Tensor, Tensor, Evaluation]:
        z = z.detach().requires_grad_(True)
        with torch.enable_grad(), _plain_attention(twice):
            r, designs = self.residuals(z, target, steering)
        with torch.no_grad():
            evaluation = self.evaluate(Candidates(z.detach(), designs.detach(), target), steering)
        return z, r, evaluation

    def _forward_mode(
        self, z: Tensor, target: Tensor, steering: Steering | None, v_CMD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """J v `(C, m, R)` for C directions a row, the residuals and the designs, from one decode."""

        def residuals(z: Tensor) -> tuple[Tensor, Tensor]:
            return self.residuals(z, target, steering)

        def along(v_MD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            r, tangent, designs = jvp(residuals, (z,), (v_MD,), has_aux=True)  # type: ignore[misc]
            return tangent, r, designs

        with _plain_attention(True), torch.no_grad():  # a module that draws noise draws one for all columns
            return vmap(along, out_dims=(0, None, None), randomness="same")(v_CMD)  # type: ignore[arg-type]

    def _differences(self, z: Tensor, target: Tensor, steering: Steering | None, r: Tensor, v_CMD: Tensor) -> Tensor:
        """J v `(C, m, R)` by forward differences, for C directions a row.

        The step is the root of the decoder's precision (Nocedal and Wright 2006, equation 8.4) in the prior's deviations.
        """
        count, m = v_CMD.shape[:2]
        length_CM1 = (v_CMD / self.decoder.space.std(z)).norm(dim=2, keepdim=True).clamp(min=_TINY)
        moved_CMD = z + v_CMD * (torch.finfo(self.decoder.compute_dtype).eps ** 0.5 / length_CM1)
        square_CM = v_CMD.square().sum(2).clamp(min=_TINY)
        taken_CM = ((moved_CMD - z) * v_CMD).sum(2) / square_CM  # the step as it was rounded
        index = torch.arange(m, device=z.device).repeat(count)
        with torch.no_grad():
            some = None if steering is None else steering.take(index)
            there, _ = self.residuals(moved_CMD.flatten(0, 1), target[index], some)
        return (there.view(count, m, -1) - r) / torch.where(taken_CM > 0, taken_CM, 1.0)[:, :, None]


class _Twice:
    """J v as the derivative of J^T u along v, which is linear in u: a backward pass through a backward pass.

    A few rows take a third of the time of `torch.func.jvp`, and nothing is decoded again.
    """

    def __init__(self, z: Tensor, r: Tensor) -> None:
        self.u = torch.zeros_like(r, requires_grad=True)
        with torch.enable_grad():
            (self.pulled,) = torch.autograd.grad(r, z, self.u, create_graph=True)

    def push(self, v_MD: Tensor) -> Tensor:
        """J v, `(m, R)`."""
        return torch.autograd.grad(self.pulled, self.u, v_MD, retain_graph=True)[0]


def _plain_attention(wanted: bool) -> AbstractContextManager[None]:
    """Fused attention has a first derivative by reverse mode alone."""
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


def _orthogonal(w_MD: Tensor, basis: list[Tensor]) -> Tensor:
    """The unit vector of w's part that the basis lacks; 0 where rounding is all there is."""
    length_M1 = w_MD.norm(dim=1, keepdim=True)
    if basis:
        basis_MKD = torch.stack(basis, dim=1)
        for _ in range(2):  # twice is enough (Giraud, Langou and Rozloznik 2005)
            w_MD = w_MD - ((basis_MKD @ w_MD[:, :, None]) * basis_MKD).sum(1)
    rest_M1 = w_MD.norm(dim=1, keepdim=True)
    least_M1 = length_M1 * (10 * torch.finfo(w_MD.dtype).eps)
    return torch.where(rest_M1 > least_M1, w_MD / rest_M1.clamp(min=_TINY), 0.0)


def _join(parts: list[Linearized]) -> Linearized:
    if len(parts) == 1:
        return parts[0]
    evaluations, *others = zip(*parts, strict=True)
    return Linearized(Evaluation.join(evaluations), *(torch.cat(tensors) for tensors in others))

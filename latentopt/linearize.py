"""Residuals linearized row by row: gradients and Gauss-Newton matrices, block by block, whole or in a Krylov space.

Shapes: M rows (m in a block), D latent values, R residuals, C directions at once, K directions of a model (docs/shapes.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd

from latentopt import modules, outputs, rng
from latentopt.decoder import Decoder
from latentopt.errors import OutOfMemoryError
from latentopt.interfaces import Candidates, Evaluation
from latentopt.steering import Steering
from latentopt.tangents import Tangents

_Residuals = Callable[[Tensor, Tensor, "Steering | None"], tuple[Tensor, Tensor]]
_Evaluate = Callable[[Candidates, "Steering | None"], Evaluation]
# Columns of a Jacobian taken together, in blocks of the decoder: one needs less room than a row with its graph.
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


class Way(NamedTuple):
    """How many residuals a row has, and how J v is had: for several v in one pass, one by one, or by differences."""

    residuals: int
    products: Literal["batched", "single", "differences"]
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
        self._way: Way | None = None

    # ------------------------------------------------------------------ how

    @property
    def way(self) -> Way:
        """Found out with one row, which costs two forward rows at most."""
        if self._way is None:
            self._way = self._find_way()
        return self._way

    def _find_way(self) -> Way:
        decoder = self.decoder
        like = torch.empty(0, device=decoder.device, dtype=decoder.latent_dtype)
        z = decoder.space.draw(1, rng.generator(0)).to(like)
        target = torch.zeros(1, dtype=torch.long, device=decoder.device)
        at, r, _ = self._with_graph(z, target, None, _plain_attention())
        if _convolves(decoder):
            return Way(r.shape[1], "differences")
        decoder.rows.forward += 1
        for products in ("batched", "single"):
            try:
                _Jacobian(at, r, products == "batched").push(torch.ones_like(z)[None])
                return Way(r.shape[1], products)
            except outputs.FAILURES as error:
                if outputs.is_out_of_memory(error):
                    raise
                failure = outputs.first_line(error)
        note = (
            f"decoder {decoder.name!r} or an objective has no second derivative ({failure}): curvature was taken by "
            "finite differences"
        )
        return Way(r.shape[1], "differences", note)

    def by_rows(self, krylov: int) -> bool:
        """Whether a Jacobian is had row by row: fewer residuals than latent values, and all directions wanted."""
        return not krylov and self.way.residuals < self.decoder.dim

    def cost(self, krylov: int = 0) -> tuple[int, int]:
        """Forward and backward rows that one row costs: J v is a forward row, u J a backward row."""
        way = self.way
        if krylov:
            return 1 + krylov, krylov
        if self.by_rows(krylov):
            return 1, way.residuals
        return 1 + self.decoder.dim, int(way.products == "differences")

    # ------------------------------------------------------------------ block by block

    def at(self, z_MD: Tensor, target_M: Tensor, steering: Steering | None, krylov: int = 0) -> Linearized:
        """All rows, `(M, R, D)` held for a block at a time. Raises `OutOfMemoryError` where one column does not fit."""
        decoder, (forward, backward) = self.decoder, self.cost(krylov)
        width = krylov or min(decoder.dim, self.way.residuals)
        parts: list[Linearized] = []
        start, n = 0, len(z_MD)
        while start < n:
            room = decoder.block_rows * _BLOCKS if decoder.block_rows > 1 else 1
            most = max(1, min(room // width, decoder.block_rows))
            stop = start + math.ceil((n - start) / math.ceil((n - start) / most))  # equal blocks
            rows = slice(start, stop)
            at_once = max(1, min(width, room // (stop - start)))
            counted = decoder.rows.forward, decoder.rows.backward
            try:
                some = None if steering is None else steering.take(rows)
                parts.append(self._block(z_MD[rows].detach(), target_M[rows], some, at_once, krylov))
            except (RuntimeError, MemoryError) as error:
                if not outputs.is_out_of_memory(error):
                    raise
                decoder.rows.forward, decoder.rows.backward = counted
                if room == 1:
                    raise OutOfMemoryError(outputs.no_room(decoder.name, 1, error)) from error
                decoder.halve_block(min(decoder.block_rows, (stop - start) * at_once))
                continue
            decoder.rows.forward = counted[0] + forward * (stop - start)
            decoder.rows.backward = counted[1] + backward * (stop - start)
            start = stop
        return _join(parts)

    def _block(self, z: Tensor, target: Tensor, steering: Steering | None, at_once: int, krylov: int) -> Linearized:
        scale_D = self.decoder.space.std(z)
        twice = self.way.products != "differences" and not self.by_rows(krylov)
        attention = _plain_attention() if twice else nullcontext()
        at, r, evaluation = self._with_graph(z, target, steering, attention)
        if krylov:
            (gradient,) = torch.autograd.grad(r, at, 2 * r.detach(), retain_graph=True)
            push = self._pusher(at, r, target, steering, 1)
            tangents = Tangents(self.project, z, gradient, scale_D)
            return Linearized(evaluation, gradient, *_krylov_space(at, r, push, tangents, scale_D, gradient, krylov))
        jacobian_MRD, gradient = self._jacobian(at, r, target, steering, at_once)
        gram_MDD = jacobian_MRD.mT @ jacobian_MRD
        own_DMD = scale_D.diag()[:, None].expand(-1, *z.shape)
        basis_DMD, bend_DMD = Tangents(self.project, z, gradient, scale_D).push(own_DMD)
        basis_MDD = basis_DMD.transpose(0, 1)
        bend_MDD = own_DMD.transpose(0, 1) @ bend_DMD.permute(1, 2, 0)
        return Linearized(evaluation, gradient, basis_MDD, basis_MDD @ gram_MDD @ basis_MDD.mT, bend_MDD)

    def _jacobian(
        self, at: Tensor, r: Tensor, target: Tensor, steering: Steering | None, at_once: int
    ) -> tuple[Tensor, Tensor]:
        """The Jacobian `(m, R, D)` and the merit's gradient `(m, D)`."""
        if self.by_rows(0):
            rows = [torch.autograd.grad(r[:, i].sum(), at, retain_graph=True)[0] for i in range(r.shape[1])]
            jacobian_MRD = torch.stack(rows, dim=1)
        else:
            push = self._pusher(at, r, target, steering, at_once)
            identity = torch.eye(at.shape[1], dtype=at.dtype, device=at.device)
            jacobian_MRD = push(identity[:, None].expand(-1, *at.shape)).permute(1, 2, 0)
            if self.way.products == "differences":  # good enough for curvature; the gradient says where to go
                return jacobian_MRD, torch.autograd.grad(r, at, 2 * r.detach())[0]
        return jacobian_MRD, 2 * (jacobian_MRD.mT @ r.detach()[:, :, None])[:, :, 0]

    # ------------------------------------------------------------------ derivatives

    def _with_graph(
        self, z: Tensor, target: Tensor, steering: Steering | None, attention: AbstractContextManager[None]
    ) -> tuple[Tensor, Tensor, Evaluation]:
        """Rows that want a gradient, their residuals, and their evaluation without one, from one decode."""
        at = z.detach().requires_grad_(True)
        with torch.enable_grad(), attention:
            r, designs = self.residuals(at, target, steering)
        with torch.no_grad():
            return at, r, self.evaluate(Candidates(z.detach(), designs.detach(), target), steering)

    def _pusher(
        self, at: Tensor, r: Tensor, target: Tensor, steering: Steering | None, at_once: int
    ) -> Callable[[Tensor], Tensor]:
        """v `(C, m, D)` to J v `(C, m, R)`, at most `at_once` directions in one go."""
        if self.way.products == "differences":
            z, held = at.detach(), r.detach()
            return lambda v: torch.cat([self._differences(z, target, steering, held, c) for c in v.split(at_once)])
        jacobian = _Jacobian(at, r, self.way.products == "batched" and at_once > 1)
        return lambda v: torch.cat([jacobian.push(c) for c in v.split(at_once)])

    def _differences(self, z: Tensor, target: Tensor, steering: Steering | None, r: Tensor, v_CMD: Tensor) -> Tensor:
        """J v `(C, m, R)` by forward differences.

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


class _Jacobian:
    """J v as the derivative along v of J^T u, which is linear in u: a backward pass through a backward pass.

    Modules need neither forward rules nor batch rules, and dense layers take less time than by `torch.func.jvp`.
    """

    def __init__(self, at: Tensor, r: Tensor, batched: bool) -> None:
        self.batched = batched
        self.u_MR = torch.zeros_like(r, requires_grad=True)
        with torch.enable_grad():
            (self.pulled_MD,) = torch.autograd.grad(r, at, self.u_MR, create_graph=True)

    def push(self, v_CMD: Tensor) -> Tensor:
        """J v, `(C, m, R)`."""
        if self.batched:
            return torch.autograd.grad(self.pulled_MD, self.u_MR, v_CMD, retain_graph=True, is_grads_batched=True)[0]
        return torch.stack([torch.autograd.grad(self.pulled_MD, self.u_MR, v, retain_graph=True)[0] for v in v_CMD])


def _convolves(decoder: Decoder) -> bool:
    """Whether the decoder convolves: differences are then several times as fast, and lead to the same ends
    (docs/performance.md)."""
    return any(isinstance(part, _ConvNd) for module in modules.modules_of(decoder.module) for part in module.modules())


def _plain_attention() -> AbstractContextManager[None]:
    """Fused attention has no second derivative."""
    return sdpa_kernel(SDPBackend.MATH)


def _krylov_space(
    at: Tensor,
    r: Tensor,
    push: Callable[[Tensor], Tensor],
    tangents: Tangents,
    scale_D: Tensor,
    gradient: Tensor,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Basis, gram and bend on the space of g, A g, A^2 g, ..., A being the Gauss-Newton matrix in the prior's deviations.

    Lanczos with all directions made orthogonal twice. A damped step in this space is what as many conjugate-gradient
    iterations give, for every damping at once (Golub and Van Loan 2013, section 11.3; Frommer and Maass 1999).
    """
    units: list[Tensor] = []
    basis, bends, images = [], [], []
    w_MD = tangents.pull(gradient) * scale_D
    for k in range(count):
        units.append(_orthogonal(w_MD, units))
        direction_1MD, bend_1MD = tangents.push((units[-1] * scale_D)[None])
        basis.append(direction_1MD[0])
        bends.append(bend_1MD[0] * scale_D)
        images.append(push(direction_1MD)[0])
        if k + 1 < count:
            (pulled_MD,) = torch.autograd.grad(r, at, images[-1], retain_graph=True)
            w_MD = tangents.pull(pulled_MD) * scale_D + bends[-1]
    images_MKR = torch.stack(images, dim=1)
    bend_MKK = torch.stack(units, dim=1) @ torch.stack(bends, dim=2)
    return torch.stack(basis, dim=1), images_MKR @ images_MKR.mT, bend_MKK


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

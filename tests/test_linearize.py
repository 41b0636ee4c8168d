"""Linearized residuals: against explicit Jacobians, by every way of taking derivatives; rows, blocks, memory, borders."""

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt import rng
from latentopt.goals import Bound
from latentopt.interfaces import Candidates
from latentopt.problem import Problem
from latentopt.regions import Ball, Box, Free, Shell, Sphere
from latentopt.steering import Steering
from latentopt.tangents import Tangents
from latentopt.terms import Term
from latentopt.testing import NoHostSync, ToyImages, toy_decoders


class Distance:
    """Mean squared difference from T targets, as residuals."""

    def __init__(self, target_T, weight=1.0):
        self.target_T, self.root = target_T, weight**0.5

    def residuals(self, c: Candidates):
        difference = (c.designs - self.target_T[c.target_index]).flatten(1)
        return self.root * difference / difference.shape[1] ** 0.5

    def __call__(self, c: Candidates):
        return self.residuals(c).square().sum(1)


class Few(Distance):
    """The first two values of a design alone: fewer residuals than latent values."""

    def residuals(self, c: Candidates):
        return super().residuals(c)[:, :2]


class Once(torch.autograd.Function):
    """A tanh that can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x.tanh())
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0].square())


class NoVmap(torch.autograd.Function):
    """A tanh that can be differentiated twice, but not for several directions at once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return Slope.apply(grad, x)


class Slope(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grad, x):
        ctx.save_for_backward(x)
        return grad * (1 - x.tanh().square())

    @staticmethod
    def backward(ctx, grad):
        float(grad.sum())  # refused for several directions at once
        (x,) = ctx.saved_tensors
        return grad * (1 - x.tanh().square()), None


class Odd(nn.Module):
    """A small network through one of the functions above."""

    def __init__(self, function):
        super().__init__()
        self.function, self.net = function, ToyImages(4, (1, 8, 8))

    def forward(self, z):
        return torch.sigmoid(self.net.second(self.function.apply(self.net.first(z))).view(-1, 1, 8, 8))


def a_problem(decoder=None, objective=Distance, **options):
    decoder = decoder or toy_decoders()["image"]
    targets = toy_decoders()["image"].decode(decoder.space.draw(3, rng.generator(8)))
    terms = options.pop("terms", [Term("distance", objective(targets))])
    return Problem(decoder, terms, targets=3, **options)


def rows(problem, n=7):
    z = problem.project(1.3 * problem.space.draw(n, rng.generator(1)).to(problem.decoder.latent_dtype))
    return z, torch.arange(n) % 3


def explicit(problem, z, target, steering=None):
    """The Jacobian of each row by itself, `(M, R, D)`, by torch.func."""
    found = []
    for i in range(len(z)):
        one = None if steering is None else steering.take(slice(i, i + 1))
        found.append(
            torch.func.jacrev(lambda v: problem.residuals(v[None], target[i : i + 1], one)[0])(z[i])  # noqa: B023
        )
    return torch.stack(found).detach()


def agrees(problem, found, z, target, steering=None, tolerance=1e-5):
    evaluation, gradient = problem.value_and_grad(z, target, steering)
    jacobian = explicit(problem, z, target, steering)
    image = jacobian @ found.basis_MKD.mT
    assert torch.allclose(found.evaluation.merit_M, evaluation.merit_M, rtol=1e-5, atol=1e-8)
    assert (found.gradient_MD - gradient).abs().max() < 1e-5 * gradient.abs().max()
    scale = float((image.mT @ image).abs().amax())
    assert float((found.gram_MKK - image.mT @ image).abs().amax()) < tolerance * scale


@pytest.mark.parametrize("krylov", [0, 3, 4])
@pytest.mark.parametrize("objective", [Distance, Few])
@pytest.mark.parametrize("block", [None, 1, 3])
def test_it_equals_an_explicit_jacobian(krylov, objective, block):
    decoder = lo.Decoder(ToyImages(4, (1, 8, 8)), (4,), prior="normal", block_rows=block)
    problem = a_problem(decoder, objective)
    z, target = rows(problem)
    found = problem.linearize(z, target, krylov=krylov)
    agrees(problem, found, z, target)
    assert found.basis_MKD.shape == (7, krylov or 4, 4)
    assert not found.bend_MKK.any()
    assert not any(part.requires_grad for part in found[1:])


def test_bounds_weights_and_steered_constraints_are_residuals_too():
    decoder = toy_decoders()["image"]
    targets = decoder.decode(decoder.space.draw(3, rng.generator(8)))
    terms = [
        Term("distance", Distance(targets), weight=3.0),
        Term("ink", lambda c: c.designs.flatten(1).mean(1), Bound(at_most=0.3), 2.0),
    ]
    constraints = [
        Term("left", lambda c: c.designs[..., :4].flatten(1).mean(1), Bound(at_least=0.6)),
        Term("length", lambda c: c.latents.square().sum(1), Bound(equals=3.0)),
    ]
    problem = Problem(decoder, terms, constraints=constraints, targets=3)
    z, target = rows(problem)
    agrees(problem, problem.linearize(z, target), z, target)
    steering = Steering(torch.linspace(-1, 2, 14).view(7, 2), torch.linspace(1, 9, 14).view(7, 2))
    for krylov in (0, 4):
        agrees(problem, problem.linearize(z, target, steering, krylov), z, target, steering)
    towards = Steering(*steering[:2], torch.ones(7, 2), torch.zeros(7, 2))
    assert problem.linearize(z, target, towards) is None


@pytest.mark.parametrize(
    ("function", "products", "said"),
    [(Once, "differences", "has no second derivative"), (NoVmap, "single", "")],
)
@pytest.mark.parametrize("krylov", [0, 4])
def test_what_a_module_lacks_is_made_up_for(function, products, said, krylov):
    problem = a_problem(lo.Decoder(Odd(function), (4,), prior="normal"))
    assert problem.linearizer.way.products == products
    assert said in problem.linearizer.way.note
    assert bool(problem.linearizer.way.note) == bool(said)
    z, target = rows(problem)
    found = problem.linearize(z, target, krylov=krylov)
    _, gradient = problem.value_and_grad(z, target)
    assert torch.allclose(found.gradient_MD, gradient, atol=1e-5), "the gradient is exact whatever the curvature"
    plain = a_problem()
    agrees(plain, found, z, target, tolerance=5e-3 if said else 1e-5)


@pytest.mark.parametrize("krylov", [0, 4])
def test_decoders_that_convolve_take_differences_without_a_word(krylov):
    net = nn.Sequential(
        nn.Linear(4, 32), nn.Tanh(), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 1, 4, 2, 1), nn.Sigmoid()
    )
    with torch.no_grad():
        for number, weight in enumerate(net.parameters()):
            weight.copy_(rng.randn(1, weight.numel(), rng.generator(number)).view_as(weight) / 2)
    problem = a_problem(lo.Decoder(net, (4,), prior="normal"))
    assert problem.linearizer.way[1:] == ("differences", "")
    z, target = rows(problem)
    agrees(problem, problem.linearize(z, target, krylov=krylov), z, target, tolerance=5e-3)


def test_fused_attention_is_taken_apart():
    class Attends(nn.Module):
        def forward(self, z):
            x = z.view(-1, 1, 8, 1).expand(-1, 1, 8, 4) * torch.arange(1.0, 5)
            return nn.functional.scaled_dot_product_attention(x, x, x).flatten(1)

    decoder = lo.Decoder(Attends(), (8,), prior="normal")
    problem = Problem(decoder, [Term("distance", Distance(torch.zeros(3, 32)))], targets=3)
    assert problem.linearizer.way.products != "differences"
    z, target = rows(problem, 3)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        agrees(problem, problem.linearize(z, target), z, target)


@pytest.mark.parametrize(
    ("objective", "krylov", "module", "cost"),
    [
        (Distance, 0, None, (5, 0)),
        (Distance, 3, None, (4, 3)),
        (Few, 0, None, (1, 2)),
        (Distance, 0, Once, (5, 1)),
        (Distance, 3, Once, (4, 3)),
    ],
)
def test_rows_are_counted_exactly(objective, krylov, module, cost):
    decoder = toy_decoders()["image"] if module is None else lo.Decoder(Odd(module), (4,), prior="normal")
    problem = a_problem(decoder, objective)
    before = decoder.rows.forward + decoder.rows.backward
    assert problem.linearizer.cost(krylov) == cost
    assert decoder.rows.forward + decoder.rows.backward - before == 2, "the look at how derivatives are had"
    before = decoder.rows.forward, decoder.rows.backward
    problem.linearize(*rows(problem, 9), krylov=krylov)
    assert (decoder.rows.forward - before[0], decoder.rows.backward - before[1]) == (9 * cost[0], 9 * cost[1])


@pytest.mark.parametrize("krylov", [0, 3])
def test_out_of_memory_halves_the_block_and_counts_what_was_done(krylov):
    class Small(ToyImages):
        def forward(self, z):
            if len(z) > 5:
                raise RuntimeError("CUDA out of memory. Tried to allocate 3 GiB")
            return super().forward(z)

    decoder = lo.Decoder(Small(4, (1, 8, 8)), (4,), prior="normal", block_rows=64)
    problem = a_problem(decoder)
    z, target = rows(problem, 40)
    before = decoder.rows.forward
    found = problem.linearize(z, target, krylov=krylov)
    assert decoder.rows.forward - before == 2 + 40 * problem.linearizer.cost(krylov)[0]
    agrees(problem, found, z, target)
    assert decoder.block_rows < 64
    assert "out of memory" in decoder.notes[0]


def test_a_row_that_does_not_fit_says_so():
    class None_(ToyImages):  # noqa: N801
        fits = True

        def forward(self, z):
            if not self.fits:
                raise RuntimeError("out of memory")
            return super().forward(z)

    net = None_(4, (1, 8, 8))
    problem = a_problem(lo.Decoder(net, (4,), prior="normal"))
    assert problem.linearizer.way.products == "batched"
    net.fits = False
    with pytest.raises(lo.OutOfMemoryError, match="one row of decoder 'None_' does not fit"):
        problem.linearize(*rows(problem))


def test_a_nan_row_stays_alone_and_nothing_is_read_on_the_host():
    region = Ball(radius=0.8).resolve(toy_decoders()["image"].space)
    for krylov in (0, 3):
        problem = a_problem(region=region)
        z, target = rows(problem)
        sane = problem.linearize(z, target, krylov=krylov)
        z[2] = torch.nan
        with NoHostSync():
            hurt = problem.linearize(z, target, krylov=krylov)
        others = [0, 1, 3, 4, 5, 6]
        for one, other in zip(sane[1:], hurt[1:], strict=True):
            assert torch.equal(one[others], other[others])


REGIONS = {
    "ball": Ball(radius=0.8),
    "box": Box(low=-0.5, high=0.5),
    "shell": Shell(low=2.5, high=3.0),
    "sphere": Sphere(radius=1.5),
}


@pytest.mark.parametrize("name", REGIONS)
@pytest.mark.parametrize("krylov", [0, 4])
def test_the_model_holds_along_the_border_of_a_region(name, krylov):
    """Against second differences of the merit along the border; the exact Hessian where residuals are small."""
    decoder = lo.Decoder(ToyImages(4, (1, 8, 8)).double(), (4,), prior="normal")
    region = REGIONS[name].resolve(decoder.space)
    z, target = rows(a_problem(decoder, region=region), 12)
    aim = torch.stack([z[i] * (1.3 if i % 2 else 0.9) for i in range(12)])  # beyond the border, and inside
    problem = Problem(decoder, [Term("d", Distance(decoder.decode(aim)))], region=region, targets=12)
    target = torch.arange(12)
    found = problem.linearize(z, target, krylov=krylov)
    slope = (found.basis_MKD @ found.gradient_MD[:, :, None])[:, :, 0]
    curvature = found.gram_MKK + found.bend_MKK
    generator = rng.generator(4)
    for _ in range(4):
        y = 1e-4 * rng.randn(12, curvature.shape[1], generator).double()
        y = torch.where((slope * y).sum(1, keepdim=True) > 0, -y, y)
        straight = z + (y[:, None] @ found.basis_MKD)[:, 0]
        there = problem.project(straight)
        bent = found.bend_MKK.flatten(1).any(1)
        known = bent | (
            (there - straight).abs().amax(1) < 1e-12
        )  # the others step out of a border that they sought to leave
        change = problem.value(there, target).merit_M - found.evaluation.merit_M
        model = (slope * y).sum(1) + (y * (curvature @ y[:, :, None])[:, :, 0]).sum(1)
        assert (change - model)[known].abs().max() < 1e-3 * change.abs().max()
        assert known.sum() >= 3
        assert bent.any() == (name != "box")


@pytest.mark.parametrize("name", ["free", *REGIONS])
def test_tangents_are_the_derivatives_of_the_projection(name):
    decoder = toy_decoders()["image"]
    region = {**REGIONS, "free": Free()}[name].resolve(decoder.space)
    z = region.project(3 * decoder.space.draw(6, rng.generator(2))).double()
    gradient, scale = rng.randn(6, 4, rng.generator(3)).double(), torch.ones(4, dtype=torch.float64)
    tangents = Tangents(region.project, z, gradient, scale)
    at = z - 1e-3 * gradient / gradient.norm(dim=1, keepdim=True)
    leaves = (region.project(at) != at).any(1)
    v = rng.randn(6, 4, rng.generator(5)).double()
    pushed, bend = tangents.push(v[None])
    pulled = tangents.pull(v)
    for i in range(6):
        jacobian, hessian = torch.eye(4).double(), torch.zeros(4, 4).double()
        if leaves[i]:
            jacobian = torch.func.jacrev(lambda p: region.project(p[None])[0])(at[i])
            along = lambda p: (region.project(p[None])[0] * gradient[i]).sum()  # noqa: B023, E731
            hessian = torch.func.jacrev(torch.func.jacrev(along))(at[i])
        assert torch.allclose(pushed[0, i], jacobian @ v[i], atol=1e-6)
        assert torch.allclose(bend[0, i], hessian @ v[i] / 2, atol=1e-6)
        assert torch.allclose(pulled[i], v[i] @ jacobian, atol=1e-6)
    assert name == "free" or leaves.any()


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ([Term("loud", lambda c: c.designs.flatten(1).mean(1))], "no residuals of 'loud': use this or that"),
        ([Term("d", Distance(torch.zeros(3, 1, 8, 8)), "maximize")], "no residuals of 'd'"),
        ([], "no residuals of no objective at all"),
        (
            [Term("crowd", lambda c: c.latents.sum(1), Bound(at_most=0.0), across_rows=True)],
            "'crowd' looks across rows: use this or that",
        ),
    ],
)
def test_what_is_no_sum_of_squares_of_each_row_is_refused(terms, text):
    problem = a_problem(terms=terms)
    assert problem.linearize(*rows(problem)) is None
    with pytest.raises(lo.ConfigError, match=text):
        problem.require_residuals("some", ("this", "that"))

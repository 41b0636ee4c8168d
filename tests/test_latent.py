"""The latent space: shapes in and out, draws, and the words for its evidence."""

import pytest
import torch
from spaces import priors

import latentopt as lo
from latentopt import rng

SHAPES = [(1,), (5,), (4, 3), (4, 8, 8), (2, 1, 2, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_and_latents_are_the_same_numbers(shape):
    space = lo.LatentSpace(shape)
    z = torch.randn(6, *shape, generator=rng.generator(0))
    rows = space.flatten(z)
    assert rows.shape == (6, space.dim)
    assert torch.equal(space.unflatten(rows), z)
    assert torch.equal(space.flatten(rows), rows)
    assert torch.equal(space.flatten(z[0]), rows[:1])
    assert torch.equal(space.flatten(rows[0]), rows[:1])
    assert space.flatten(z[:0]).shape == (0, space.dim)
    assert space.unflatten(rows[:0]).shape == (0, *shape)


def test_as_many_rows_as_a_latent_has_sides_are_still_rows():
    """Latents whose number equals their own first side: (4, 4, 4) is four latents of (4, 4), not one."""
    z = torch.randn(4, 4, 4, generator=rng.generator(0))
    assert torch.equal(lo.LatentSpace((4, 4)).flatten(z), z.reshape(4, 16))
    assert lo.LatentSpace((4, 4)).flatten(z[0]).shape == (1, 16)


@pytest.mark.parametrize("shape", [(3, 4), (2, 4, 8), (2, 4, 8, 4), (32, 8), (255,), ()])
def test_other_shapes_are_refused(shape):
    with pytest.raises(lo.ShapeError, match=r"latents of shape .* do not fit this decoder: give \(N, 4, 8, 8\)"):
        lo.LatentSpace((4, 8, 8)).flatten(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (0,), (-1,), (4, 0), (2.5,)])
def test_shapes_that_cannot_be(shape):
    with pytest.raises(lo.ShapeError, match=r"latent_shape must be positive whole numbers, for example \(64,\), got"):
        lo.LatentSpace(shape)


def test_the_prior_is_checked_against_the_shape():
    with pytest.raises(lo.ConfigError, match="mean has 2 numbers, the latent has 12"):
        lo.LatentSpace((3, 4), lo.Normal(mean=(0.0, 1.0)))


@pytest.mark.parametrize("draw", ["draw", "normal", "uniform"])
@pytest.mark.parametrize("name", list(priors()))
def test_draws_are_rows_and_the_first_are_those_of_fewer(draw, name):
    space = lo.LatentSpace((2, 2), priors()[name])
    many = getattr(space, draw)(21, rng.generator(0))
    assert many.shape == (21, 4)
    assert many.dtype == torch.float32
    for n in (1, 3, 8, 20):
        assert torch.equal(getattr(space, draw)(n, rng.generator(0)), many[:n])


def test_draws_come_from_the_prior():
    space = lo.LatentSpace((2, 2), lo.Uniform(low=5.0, high=6.0))
    z = space.draw(100, rng.generator(0))
    assert 5 <= z.min() < 5.1
    assert 5.9 < z.max() <= 6
    assert space.mean(z).tolist() == [5.5] * 4
    assert space.std(z).tolist() == pytest.approx([12**-0.5] * 4)
    assert space.mean(z.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        (lo.Evidence("assumed"), "assumed, unchecked"),
        (lo.Evidence("given"), "given with the decoder, unchecked"),
        (lo.Evidence("fitted", 40), "fitted to 40 encodings"),
        (lo.Evidence("given", 40, "agrees with 40 encodings"), "given with the decoder; agrees with 40 encodings"),
    ],
)
def test_evidence_in_words(evidence, text):
    assert str(evidence) == text


def test_another_prior_leaves_the_space_as_it_was():
    space = lo.LatentSpace((4,))
    other = space.with_prior(lo.Normal(std=2.0), lo.Evidence("fitted", 3))
    assert (other.shape, other.prior, other.evidence.encodings) == ((4,), lo.Normal(std=2.0), 3)
    assert space.prior == lo.Normal()
    assert space.evidence.source == "assumed"
    with pytest.raises(lo.ConfigError, match="mean has 3 numbers"):
        space.with_prior(lo.Normal(mean=(0.0,) * 3), lo.Evidence("given"))

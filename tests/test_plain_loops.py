"""The three plain loops that latentopt replaces, side by side with it on the same decoder and the same start."""

import pytest
import torch
from torch import nn

import latentopt as lo
from latentopt_std import Adam


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 784), nn.Sigmoid())


@pytest.fixture
def decoder(net):
    return lo.Decoder(net, (20,), prior="normal")


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_adam(net, target, z, steps):
    """One start, torch's Adam at 0.01."""
    z = z.clone().requires_grad_(True)
    adam = torch.optim.Adam([z], lr=0.01)
    losses = []
    for _ in range(steps):
        adam.zero_grad()
        loss = nn.functional.mse_loss(net(z), target)
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return z.detach(), losses


def engine(decoder, target, starts, steps):
    search = Adam(lr=0.01, schedule="constant", steps=steps)
    return lo.optimize(decoder, target=target, starts=starts, region="free", search=search)


def test_a_random_draw_reshaped_to_an_image(net, decoder):
    draws = lo.sample(decoder, 3, seed=5)
    plain = net(draws.latents).detach().reshape(3, 28, 28)
    assert torch.allclose(draws.designs.reshape(3, 28, 28), plain, atol=1e-6)
    assert draws.latents.shape == (3, 20)


def test_the_midpoint_of_two_latents(net, decoder):
    keys = normals(2, 20)
    path = lo.interpolate(decoder, keys, steps=3, interpolator="lerp")
    plain = net(((keys[0] + keys[1]) / 2)[None]).detach()
    assert torch.allclose(path.designs[1], plain[0], atol=1e-6)
    assert torch.equal(path.latents[[0, 2]], keys)


def test_twenty_steps_of_adam_give_the_same_latent(net, decoder):
    target, start = torch.rand(784, generator=torch.Generator().manual_seed(1)), normals(1, 20)
    plain, losses = plain_adam(net, target[None], start, 20)
    found = engine(decoder, target, start, 20)
    assert losses[-1] < losses[0]
    assert torch.allclose(found.latents, plain, atol=1e-4)
    assert found.history[0]["best_T"][0] == pytest.approx(losses[0], rel=1e-5)


def test_a_thousand_steps_end_where_the_plain_loop_ends(net, decoder):
    target, start = torch.rand(784, generator=torch.Generator().manual_seed(1)), normals(1, 20)
    plain, _ = plain_adam(net, target[None], start, 1000)
    end = float(nn.functional.mse_loss(net(plain), target[None]).detach())
    found = engine(decoder, target, start, 1000)
    assert found.best.loss <= end * 1.001


def test_sixteen_starts_at_once_give_what_each_gives_alone(decoder):
    target, starts = torch.rand(784, generator=torch.Generator().manual_seed(1)), normals(16, 20)
    together = engine(decoder, target, starts, 20)
    alone = [engine(decoder, target, starts[i : i + 1], 20) for i in range(16)]
    losses = torch.stack([one.losses[0] for one in alone])
    order = losses.argsort()
    assert torch.allclose(together.losses, losses[order], atol=1e-6)
    assert torch.allclose(together.latents, torch.cat([alone[i].latents for i in order.tolist()]), atol=1e-4)


def test_the_scale_of_the_loss_does_not_couple_rows(decoder):
    target, starts = torch.rand(784, generator=torch.Generator().manual_seed(1)), normals(16, 20)

    def run(z):
        tiny = {"kind": "mse", "weight": 1e-6}
        search = Adam(lr=0.01, schedule="constant", steps=100)
        return lo.optimize(decoder, target=target, objectives=tiny, starts=z, region="free", search=search)

    together, alone = run(starts), run(starts[:1])
    nearest = (together.latents - alone.latents).abs().amax(1).min()
    assert nearest < 1e-4, "with a mean over rows in place of a sum this is above 1"

"""The baseline: the best of many draws from the prior."""

import pytest
import torch
from torch import Generator

import latentopt as lo
from latentopt import rng
from latentopt.asktell import Told
from latentopt.problem import Problem
from latentopt.terms import Term
from latentopt.testing import SearchConformance, toy_decoders
from latentopt_std import RandomSearch
from latentopt_std.random_search import PriorDraws


class TestRandomSearch(SearchConformance):
    config = RandomSearch(evaluations=80, batch=10)
    rows_move_alone = False


@pytest.mark.parametrize(("evaluations", "batch"), [(1, 1), (64, 64), (65, 32), (200, 50), (1000, 62)])
def test_chooses_a_batch_that_leaves_little_out(evaluations, batch):
    search = RandomSearch(evaluations=evaluations).build(toy_decoders()["vector"])
    assert search.batch == batch
    assert search.n_steps * batch <= evaluations < search.n_steps * batch + search.n_steps


def test_it_asks_for_the_priors_own_draws():
    prior = {"kind": "uniform", "low": -2.0, "high": 1.0}
    decoder = lo.Decoder(lambda z: z, latent_shape=(3,), prior=prior, device="cpu", dtype=torch.float32)
    asked = PriorDraws(decoder.space).ask(7, 123)
    assert torch.equal(torch.from_numpy(asked).float(), decoder.space.draw(7, Generator().manual_seed(123)))
    problem = Problem(decoder, [Term("sum", lambda c: c.designs.sum(1))], targets=2)
    search = RandomSearch(evaluations=20, batch=5).build(decoder)
    noise = rng.RowNoise(3, 1, 2)
    state = search.init(problem, torch.zeros(2, 3), torch.arange(2), noise)
    search.step(problem, state)
    for target in range(2):
        drawn = decoder.space.draw(5, Generator().manual_seed(noise.seed_for(1, target)))
        mine = state.z_ND[state.target_N == target]
        assert torch.equal(mine.sort(0).values, drawn.sort(0).values)


def test_more_draws_are_no_worse_and_learn_nothing():
    decoder = toy_decoders()["image"]
    target = decoder.decode(decoder.space.draw(1, rng.generator(2)))
    few, many = (
        lo.optimize(decoder, target=target, starts="mean", search=RandomSearch(evaluations=n, batch=10), seed=3)
        for n in (20, 200)
    )
    assert many.losses[0] < few.losses[0]
    assert many.cost.forward_rows == 200 + len(many.losses)
    draws = PriorDraws(decoder.space)
    before = draws.ask(3, 0)
    draws.tell(Told(before, before[:, 0], before[:, 0], None))
    assert (draws.ask(3, 0) == before).all()

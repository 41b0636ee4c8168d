"""What a seed promises: the same bits in every process; across threads and blocks the same numbers, nearly."""

import hashlib
import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from soak import figure

import latentopt as lo
from latentopt.testing import ToyImages

PROCESSES = figure(3, 20)
# Every kind of search in one chain, some of which go through sets, dicts and libraries that hash.
SCRIPT = """
import hashlib, json, torch, latentopt as lo
from latentopt.testing import toy_decoders
decoder = toy_decoders()["image"]
target = decoder.decode(decoder.space.draw(2, torch.Generator().manual_seed(5)))
searches = [{"kind": "adam", "steps": 10, "noise": 0.01}, {"kind": "lbfgs", "steps": 5}]
searches += [{"kind": "langevin", "steps": 5, "temperature": 1e-3}, {"kind": "levenberg_marquardt", "steps": 2}]
searches += [{"kind": "optuna", "sampler": name, "evaluations": 16, "batch": 4} for name in ("tpe", "cmaes", "nsgaii")]
searches += [{"kind": "cmaes", "evaluations": 30}, {"kind": "random", "evaluations": 20}]
sums = hashlib.sha256()
for search in searches:
    found = lo.optimize(decoder, target=target, search=search, starts=["mean", {"kind": "prior", "n": 3}], seed=4)
    for value in (found.latents, found.designs, found.losses, found.terms["mse"]):
        sums.update(value.numpy().tobytes())
    sums.update(json.dumps([{**one, "seconds": 0} for one in found.history]).encode())
print(sums.hexdigest())
"""


def test_one_seed_gives_the_same_bits_in_every_process():
    def run(number):
        said = {**os.environ, "PYTHONHASHSEED": str(number * 1_000_003)}
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=said, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, range(PROCESSES)))
    assert len(found) == PROCESSES
    assert len(found[0]) == len(hashlib.sha256().hexdigest())
    assert set(found) == {found[0]}


@pytest.fixture
def threads():
    """Sets the number of torch's threads; it is as before at the end."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("reached", [True, False], ids=["reached", "out of reach"])
def test_threads_and_blocks_change_nothing_but_the_last_digits(reached, threads):
    """200 steps in float32. In the long form a block of all starts is large enough for torch to share it among threads.

    Around a least loss that is not zero, steps differ by rounding alone, and which of them is the best is chance: only
    losses are compared there.
    """
    starts, side = figure((8, 8), (64, 32))

    def run(count, block):
        threads(count)
        decoder = lo.Decoder(ToyImages(4, (1, side, side)), 4, prior="normal", name="image", block_rows=block)
        generator = torch.Generator().manual_seed(5)
        away = torch.rand(1, 1, side, side, generator=generator)
        target = decoder.decode(decoder.space.draw(1, generator)) if reached else away
        given = {"search": {"kind": "adam", "steps": 200}, "starts": {"kind": "prior", "n": starts}}
        return lo.optimize(decoder, target=target, seed=4, **given)

    first, *others = [run(count, block) for count, block in itertools.product((1, 2), (1, 7, 64))]
    assert first.latents.dtype == torch.float32
    assert len(first.latents) == starts
    for other in others:
        if reached:
            assert (other.best.latent - first.best.latent).abs().max() <= 1e-5
        else:
            assert abs(other.best.loss - first.best.loss) <= 1e-4 * first.best.loss

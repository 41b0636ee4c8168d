"""The benchmark beside other libraries: whoever is installed runs, within its evaluations and the box."""

import optuna
import pytest
import torch

import latentopt as lo
from benchmarks import peer_loops, peers
from benchmarks.peer_loops import PEERS, SPAN, Match, Peer

EVALUATIONS = 48
NAMES = {"optuna", "cmaes", "evotorch", "ribs", "nevergrad", "botorch"}


class Watched(torch.nn.Module):
    """A decoder of 20 values that remembers the latents that it was given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(20, 5, generator=torch.Generator().manual_seed(0)))
        self.seen = []

    def forward(self, z):
        self.seen.append(z.detach().clone())
        return z @ self.weight


@pytest.fixture(autouse=True)
def quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def test_every_library_is_among_the_peers():
    assert {peer.package for peer in PEERS} == NAMES


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: f"{peer.name}, {peer.evaluations}")
def test_a_peer_keeps_to_its_evaluations_and_to_the_box(peer):
    if not peer.installed():
        pytest.skip(f"{peer.package} is not installed")
    evaluations = 22 if peer.evaluations == peer_loops.FEW else EVALUATIONS
    net, target = Watched(), torch.ones(5)
    match = Match(net, target, 20)
    peer.run(match, evaluations, 0)
    z = torch.cat(net.seen)
    assert len(z) == match.rows
    assert evaluations - 12 < match.rows <= evaluations
    assert float(z.abs().max()) <= SPAN
    assert match.least == pytest.approx(float(((z @ net.weight.detach() - target) ** 2).mean(1).min()))


def test_a_function_moves_latents_outside_to_the_border():
    match = Match(torch.nn.Identity(), torch.zeros(2), 2)
    assert match(torch.tensor([[9.0, 0.0], [1.0, 1.0]])).tolist() == [SPAN**2 / 2, 1.0]
    assert (match.rows, match.least) == (2, 1.0)


def test_the_table_names_what_is_not_installed(monkeypatch):
    def never(match, evaluations, seed):
        raise AssertionError("called without its package")

    monkeypatch.setattr(peers, "PEERS", (Peer("Elsewhere", "no_such_package", never), PEERS[1]))
    monkeypatch.setattr(peers, "OURS", peers.OURS[1:2])
    rows = peers.rows_of("digits", lo.load_decoder("digits"), lo.examples.digits()[:2], many=True, scale=0.02)
    assert [row[1] for row in rows] == [peers.OURS[0].name, "Elsewhere", PEERS[1].name]
    assert rows[1][2:] == ("not installed", "", "", "")
    for row in (rows[0], rows[2]):
        assert 0 < int(row[2]) <= 0.02 * peer_loops.MANY
        assert float(row[3]) > 0
        assert 1 <= float(row[4]) <= float(row[5])

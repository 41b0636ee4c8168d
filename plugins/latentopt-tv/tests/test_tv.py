import torch

from latentopt import Candidates
from latentopt.testing import ObjectiveConformance
from latentopt_tv import TotalVariation


class TestTV(ObjectiveConformance):
    config = TotalVariation()


def test_counts_steps_between_neighbours():
    designs = torch.tensor([[[[0.0, 1.0, 1.0], [0.0, 0.0, 0.5]]]])
    rows = Candidates(torch.zeros(1, 2), designs, torch.zeros(1, dtype=torch.long))
    assert TotalVariation().build(None)(rows).tolist() == [0.375]

import torch
from tokenred_template import MutualNearestConfig, MutualNearestCoupler

from tokenred.testing import parametrize_checks


@parametrize_checks(MutualNearestCoupler)
def test_contract(check):
    check()


def test_pairs_that_are_too_dear_stay_apart():
    cost = torch.tensor([[0.1, 0.9], [0.2, 0.6]])
    mass = torch.full((2,), 0.5)
    both = MutualNearestCoupler().couple(cost, mass, mass).plan
    near = MutualNearestCoupler(MutualNearestConfig(max_cost=0.05)).couple(cost, mass, mass).plan
    assert both.tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert not near.any()

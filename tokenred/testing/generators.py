"""Transport problems whose answer is known in closed form.

A second solver is a second opinion; these are answers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class KnownProblem:
    """A coupling problem with its answer, in float64.

    Attributes
    ----------
    name : what kind of problem it is
    cost : (sources, anchors)
    source_mass, anchor_mass : (sources,) and (anchors,), each with total 1
    value : cost of the cheapest plan
    exact_plan : the cheapest plan, None where there are several
    entropic_plan : epsilon -> the plan of entropic transport, None where it has no closed form
    """

    name: str
    cost: Float[Tensor, "sources anchors"]
    source_mass: Float[Tensor, "sources"]
    anchor_mass: Float[Tensor, "anchors"]
    value: float
    exact_plan: Float[Tensor, "sources anchors"] | None = None
    entropic_plan: Callable[[float], Float[Tensor, "sources anchors"]] | None = None


def uniform(n: int) -> Float[Tensor, "n"]:
    """Return ``n`` equal masses with total 1, in float64."""
    return torch.full((n,), 1.0 / n, dtype=torch.float64)


def dirac(cost: Float[Tensor, "sources"]) -> KnownProblem:
    """One anchor: it receives everything, whatever that costs."""
    cost = cost.double()
    mass = uniform(len(cost))
    plan = mass[:, None].clone()
    return KnownProblem(
        "dirac", cost[:, None], mass, uniform(1), float(mass @ cost), plan, lambda _: plan
    )


def permutation(order: Int[Tensor, "n"]) -> KnownProblem:
    """Source ``i`` lies on anchor ``order[i]`` and at distance one from all others.

    The cheapest plan is that permutation. The entropic plan mixes it with the uniform plan: an
    entry on the permutation is ``exp(1 / epsilon)`` times one beside it.
    """
    n = len(order)
    hit = torch.nn.functional.one_hot(order.long(), n).double()

    def entropic(epsilon: float) -> Tensor:
        kernel = torch.exp(-(1 - hit) / epsilon)
        return kernel / kernel.sum()

    return KnownProblem("permutation", 1 - hit, uniform(n), uniform(n), 0.0, hit / n, entropic)


def sorted_line(
    sources: Float[Tensor, "n"], anchors: Float[Tensor, "n"], power: float = 2.0
) -> KnownProblem:
    """Points on a line, cost ``|x - y| ** power``: the cheapest plan pairs them in order.

    Needs ``power > 1``, so that crossing pairs cost more.
    """
    if power <= 1:
        raise ValueError("crossing pairs cost more only with power > 1")
    left, right = sources.double(), anchors.double()
    n = len(left)
    cost = (left[:, None] - right[None, :]).abs() ** power
    plan = torch.zeros(n, n, dtype=torch.float64)
    plan[left.argsort(), right.argsort()] = 1 / n
    return KnownProblem(
        "sorted line", cost, uniform(n), uniform(n), float((plan * cost).sum()), plan
    )


def constant_cost(
    source_mass: Float[Tensor, "sources"], anchor_mass: Float[Tensor, "anchors"], cost: float = 1.0
) -> KnownProblem:
    """All pairs cost the same: every plan is cheapest, the entropic one is the outer product."""
    left, right = source_mass.double(), anchor_mass.double()
    outer = left[:, None] * right[None, :]
    matrix = torch.full_like(outer, cost)
    return KnownProblem(
        "constant cost", matrix, left, right, cost * float(left.sum()), None, lambda _: outer
    )


def two_by_two(gap: float) -> KnownProblem:
    """Two sources on two anchors that are ``gap`` apart.

    The entropic plan has ``1 / (2 (1 + exp(-gap / epsilon)))`` on the diagonal.
    """
    cost = torch.tensor([[0.0, gap], [gap, 0.0]], dtype=torch.float64)

    def entropic(epsilon: float) -> Tensor:
        same = torch.sigmoid(torch.tensor(gap / epsilon, dtype=torch.float64)) / 2
        return torch.stack([torch.stack([same, 0.5 - same]), torch.stack([0.5 - same, same])])

    plan = torch.eye(2, dtype=torch.float64) / 2
    return KnownProblem("two by two", cost, uniform(2), uniform(2), 0.0, plan, entropic)


def known_problems() -> list[KnownProblem]:
    """Return one problem of every kind."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    masses = draw(5) + 0.1, draw(3) + 0.1
    return [
        dirac(draw(6)),
        permutation(torch.randperm(5, generator=generator)),
        sorted_line(draw(7), draw(7)),
        constant_cost(masses[0] / masses[0].sum(), masses[1] / masses[1].sum()),
        two_by_two(0.7),
    ]

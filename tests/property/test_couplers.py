"""What optimal transport has to satisfy beyond the contract of a coupler."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import examples
from torch import Tensor

from property.cases import make
from tokenred.kernels.sinkhorn import sinkhorn
from tokenred.testing.generators import KnownProblem, known_problems
from tokenred.testing.strategies import CouplingProblem, coupling_problems

PROBLEMS = coupling_problems(kinds=("distinct",))
STOPS = ("none", "residual", "scaling", "scaling-batch")
known = pytest.mark.parametrize("problem", known_problems(), ids=lambda problem: problem.name)


def double(problem: CouplingProblem) -> tuple[Tensor, Tensor, Tensor]:
    """Return the problem in float64, with masses that total one to its precision."""
    cost, source, anchor = (part.double() for part in problem)
    return cost, source / source.sum(-1, keepdim=True), anchor / anchor.sum(-1, keepdim=True)


def solved(problem: KnownProblem, **changes: object) -> Tensor:
    """Solve until nothing moves and return the plan."""
    given_ = problem.cost, problem.source_mass, problem.anchor_mass
    options = {"epsilon": 0.1, "max_iter": 5000, "tolerance": 1e-12, **changes}
    return sinkhorn(*given_, **options).plan  # type: ignore[arg-type]


def exact_value(cost: Tensor, source: Tensor, anchor: Tensor) -> float:
    """Return what the cheapest plan costs, by POT."""
    plan = make("coupler", "exact").couple(cost, source, anchor).plan
    return float((plan * cost).sum())


@pytest.mark.parametrize(
    "problem",
    [problem for problem in known_problems() if problem.entropic_plan],
    ids=lambda problem: problem.name,
)
@pytest.mark.parametrize("epsilon", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("domain", ["kernel", "log"])
def test_sinkhorn_meets_closed_forms(problem: KnownProblem, epsilon: float, domain: str) -> None:
    assert problem.entropic_plan
    plan = solved(problem, epsilon=epsilon, domain=domain)
    torch.testing.assert_close(plan, problem.entropic_plan(epsilon), atol=1e-9, rtol=0)


@known
def test_exact_meets_closed_forms(problem: KnownProblem) -> None:
    given_ = problem.cost, problem.source_mass, problem.anchor_mass
    plan = make("coupler", "exact").couple(*given_).plan
    assert float((plan * problem.cost).sum()) == pytest.approx(problem.value, abs=1e-12)
    if problem.exact_plan is not None:
        torch.testing.assert_close(plan, problem.exact_plan, atol=1e-12, rtol=0)


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=examples(15))
def test_exact_is_the_best_permutation(seed: int, n: int) -> None:
    cost = torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mass = torch.full((n,), 1 / n, dtype=torch.float64)
    best = min(
        sum(float(cost[i, j]) for i, j in enumerate(order)) / n
        for order in itertools.permutations(range(n))
    )
    assert exact_value(cost, mass, mass) == pytest.approx(best, abs=1e-12)


@known
def test_small_epsilon_approaches_the_exact_value_from_above(problem: KnownProblem) -> None:
    gaps = []
    for epsilon in (0.5, 0.1, 0.02):
        plan = solved(problem, epsilon=epsilon, domain="log")
        gaps.append(float((plan * problem.cost).sum()) - problem.value)
    assert all(gap >= -1e-9 for gap in gaps)
    assert gaps[0] >= gaps[1] - 1e-12 >= gaps[2] - 2e-12
    assert gaps[2] <= 0.02 * torch.tensor(float(problem.cost.numel())).log() + 1e-9


@given(PROBLEMS)
@settings(max_examples=examples(15))
def test_sinkhorn_never_undercuts_the_exact_plan(problem: CouplingProblem) -> None:
    cost, source, anchor = double(problem)
    wanted = exact_value(cost, source, anchor)
    gaps = []
    for epsilon in (1.0, 0.2, 0.04):
        found = sinkhorn(cost, source, anchor, epsilon=epsilon, max_iter=400, tolerance=1e-8)
        # A marginal that is off by the residual saves at most the dearest entry that often.
        slack = float(found.residual) * sum(cost.shape) * float(cost.max()) + 1e-9
        gaps.append(float((found.plan * cost).sum()) - wanted + slack)
    assert min(gaps) >= 0
    assert gaps[2] <= gaps[0] + 1e-9


@given(PROBLEMS, st.floats(0.01, 100), st.sampled_from(("kernel", "log")))
@settings(max_examples=examples(20))
def test_scaling_cost_and_epsilon_together_changes_nothing(
    problem: CouplingProblem, factor: float, domain: str
) -> None:
    cost, source, anchor = double(problem)
    options = {"max_iter": 20, "stop": "none", "domain": domain}
    plain = sinkhorn(cost, source, anchor, epsilon=0.2, **options)  # type: ignore[arg-type]
    scaled = sinkhorn(factor * cost, source, anchor, epsilon=0.2 * factor, **options)  # type: ignore[arg-type]
    torch.testing.assert_close(scaled.plan, plain.plan, atol=1e-10, rtol=0)


@given(PROBLEMS, st.floats(-3, 3))
@settings(max_examples=examples(15))
def test_adding_a_constant_to_the_cost_changes_nothing(
    problem: CouplingProblem, shift: float
) -> None:
    cost, source, anchor = double(problem)
    plain = sinkhorn(cost, source, anchor, epsilon=0.2, max_iter=20, stop="none")
    moved = sinkhorn(cost + shift, source, anchor, epsilon=0.2, max_iter=20, stop="none")
    torch.testing.assert_close(moved.plan, plain.plan, atol=1e-10, rtol=0)


@given(
    PROBLEMS,
    st.sampled_from((0.05, 0.1, 1.0)),
    st.sampled_from(("source", "anchor")),
    st.sampled_from(STOPS),
)
@settings(max_examples=examples(30))
def test_kernel_and_log_domain_agree(
    problem: CouplingProblem, epsilon: float, last: str, stop: str
) -> None:
    options = {"epsilon": epsilon, "last": last, "stop": stop, "tolerance": 1e-3}
    kernel = sinkhorn(*double(problem), domain="kernel", **options)  # type: ignore[arg-type]
    log = sinkhorn(*double(problem), domain="log", **options)  # type: ignore[arg-type]
    assert kernel.n_iter == log.n_iter
    torch.testing.assert_close(kernel.plan, log.plan, atol=1e-10, rtol=0)


@given(PROBLEMS)
@settings(max_examples=examples(10))
def test_a_large_epsilon_gives_the_outer_product(problem: CouplingProblem) -> None:
    cost, source, anchor = double(problem)
    plan = sinkhorn(cost, source, anchor, epsilon=1e6).plan
    torch.testing.assert_close(plan, source[:, None] * anchor, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1e3, 1e6])
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_huge_range_gives_no_nan(scale: float, stop: str, sign: int) -> None:
    cost = sign * scale * torch.rand(7, 4, generator=torch.Generator().manual_seed(0))
    coupling = make("coupler", "sinkhorn", epsilon=0.1, stop=stop).couple(
        cost, torch.full((7,), 1 / 7), torch.full((4,), 1 / 4)
    )
    assert bool(torch.isfinite(coupling.plan).all())
    # Costs of a million epsilons leave float32 no digits behind the comma.
    rounding = scale / 0.1 * torch.finfo(torch.float32).eps / 4
    torch.testing.assert_close(coupling.plan.sum(-2), coupling.anchor_mass, atol=rounding, rtol=0)
    worst = max(
        float((coupling.plan.sum(-1) - 1 / 7).abs().max()),
        float((coupling.plan.sum(-2) - 1 / 4).abs().max()),
    )
    assert float(coupling.residual) == pytest.approx(worst, abs=1e-6)


@pytest.mark.parametrize("last", ["source", "anchor"])
@pytest.mark.parametrize("domain", ["kernel", "log"])
def test_the_side_updated_last_is_exact(last: str, domain: str) -> None:
    cost = torch.rand(9, 4, generator=torch.Generator().manual_seed(0))
    found = make("coupler", "sinkhorn", last=last, domain=domain, max_iter=1, stop="none").couple(
        cost, torch.full((9,), 1 / 9), torch.full((4,), 1 / 4)
    )
    rows = (found.plan.sum(-1) - 1 / 9).abs().max()
    columns = (found.plan.sum(-2) - 1 / 4).abs().max()
    exact, free = (rows, columns) if last == "source" else (columns, rows)
    assert float(exact) < 1e-6 < float(free)
    assert float(found.residual) == pytest.approx(float(free), abs=1e-7)


def test_residual_rule_stops_as_soon_as_the_tolerance_is_met() -> None:
    cost = torch.rand(20, 6, generator=torch.Generator().manual_seed(0))
    masses = torch.full((20,), 1 / 20), torch.full((6,), 1 / 6)
    counts = []
    for tolerance in (1e-1, 1e-2, 1e-4):
        found = make("coupler", "sinkhorn", tolerance=tolerance).couple(cost, *masses)
        assert bool(found.converged)
        assert float(found.residual) < tolerance / 20
        counts.append(found.n_iter)
        one_less = make("coupler", "sinkhorn", tolerance=tolerance, max_iter=found.n_iter - 1)
        if found.n_iter > 1:
            assert not bool(one_less.couple(cost, *masses).converged)
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_frozen_problems_do_not_move_while_others_go_on() -> None:
    generator = torch.Generator().manual_seed(0)
    easy, hard = torch.zeros(1, 8, 3), 2 * torch.rand(1, 8, 3, generator=generator)
    masses = torch.full((2, 8), 1 / 8), torch.full((2, 3), 1 / 3)
    coupler = make("coupler", "sinkhorn", epsilon=0.05)
    together = coupler.couple(torch.cat([easy, hard]), *masses)
    alone = coupler.couple(easy, masses[0][:1], masses[1][:1])
    assert alone.n_iter < together.n_iter
    assert torch.equal(together.plan[:1], alone.plan)


def test_scaling_batch_couples_the_problems_of_a_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.cat([torch.zeros(5, 8, 3), 2 * torch.rand(1, 8, 3, generator=generator)])
    masses = torch.full((6, 8), 1 / 8), torch.full((6, 3), 1 / 3)
    differences = {}
    for stop in ("scaling", "scaling-batch"):
        coupler = make("coupler", "sinkhorn", epsilon=0.1, stop=stop, tolerance=0.01)
        together = coupler.couple(cost, *masses)
        alone = [coupler.couple(cost[i], masses[0][i], masses[1][i]) for i in range(6)]
        assert alone[0].n_iter < alone[5].n_iter
        differences[stop] = max(
            float((together.plan[i] - alone[i].plan).abs().max()) for i in range(6)
        )
    assert differences["scaling"] < 1e-7 < 1e-6 < differences["scaling-batch"]


@pytest.mark.parametrize("name", ["sinkhorn", "cosine", "nearest", "exact", "none"])
@pytest.mark.parametrize("side", ["source", "anchor"])
def test_a_problem_of_padding_alone_has_an_empty_plan(name: str, side: str) -> None:
    """A frame without sources may stand in a batch with frames that have some."""
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(2, 5, 3, generator=generator)
    masses = {"source": torch.full((2, 5), 1 / 5), "anchor": torch.full((2, 3), 1 / 3)}
    masses[side][1] = 0
    if side == "anchor":
        masses["source"][1] = 0  # nothing can be sent where nobody receives
    coupler = make("coupler", name)
    coupling = coupler.couple(cost, masses["source"], masses["anchor"])
    alone = coupler.couple(cost[0], masses["source"][0], masses["anchor"][0])
    assert not bool(coupling.plan[1].any())
    torch.testing.assert_close(coupling.plan[0], alone.plan, atol=1e-7, rtol=0)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("domain", ["kernel", "log"])
@pytest.mark.parametrize("last", ["source", "anchor"])
def test_padding_changes_no_sweep(stop: str, domain: str, last: str) -> None:
    """Every sweep, not only the solution, is that of the problem without padding."""
    cost = torch.rand(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    source, anchor = torch.full((6,), 1 / 6).double(), torch.full((4,), 1 / 4).double()
    options = {"epsilon": 0.1, "max_iter": 3, "stop": stop, "domain": domain, "last": last}
    pad = torch.nn.functional.pad
    for filler in (0.0, 50.0, -1e9):
        wide = pad(cost, (0, 2, 0, 3), value=filler)
        padded = sinkhorn(wide, pad(source, (0, 3)), pad(anchor, (0, 2)), **options)  # type: ignore[arg-type]
        plain = sinkhorn(cost, source, anchor, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(padded.plan[:6, :4], plain.plan, atol=1e-14, rtol=0)
        assert not bool(padded.plan[6:].any() | padded.plan[:, 4:].any().any())
        assert padded.n_iter == plain.n_iter


@pytest.mark.parametrize("stop", ["none", "residual", "scaling"])
@pytest.mark.parametrize("domain", ["kernel", "log"])
@pytest.mark.parametrize("padded", [False, True])
def test_plan_has_the_right_gradient(stop: str, domain: str, padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    source, anchor = torch.full((2, 5), 1 / 5).double(), torch.full((2, 3), 1 / 3).double()
    if padded:
        source[1], anchor[1] = torch.tensor([0.5, 0.5, 0, 0, 0]), torch.tensor([0.5, 0.5, 0])
    direction = torch.rand(2, 5, 3, generator=generator, dtype=torch.float64)

    def value(cost: Tensor) -> Tensor:
        found = sinkhorn(
            cost,
            source,
            anchor,
            epsilon=0.3,
            max_iter=15,
            stop=stop,
            domain=domain,  # type: ignore[arg-type]
        )
        return (found.plan * direction).sum((-2, -1))

    assert torch.autograd.gradcheck(value, (cost,))


def algorithm_1(cost: Tensor, epsilon: float, sweeps: int, threshold: float) -> tuple[Tensor, int]:
    """Sinkhorn as in Algorithm 1 of AOT (section 6): v <- v / K'u, u <- u / K v, from u = 1."""
    n, m = cost.shape
    kernel = torch.exp(-cost / epsilon)
    rows, columns = torch.ones(n, dtype=cost.dtype), torch.ones(m, dtype=cost.dtype)
    for sweep in range(1, sweeps + 1):  # noqa: B007 - the count is returned
        before = rows
        columns = (1 / m) / (kernel.T @ rows)
        rows = (1 / n) / (kernel @ columns)
        if (rows - before).abs().mean() < threshold:
            break
    return rows[:, None] * kernel * columns[None, :], sweep


@given(
    st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 6), st.sampled_from((0.05, 0.1, 0.5))
)
@settings(max_examples=examples(20))
def test_scaling_rule_is_algorithm_1_of_the_paper(
    seed: int, n: int, m: int, epsilon: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(n, m, generator=generator, dtype=torch.float64)
    wanted, sweeps = algorithm_1(cost, epsilon, 100, 0.01)
    coupler = make(
        "coupler", "sinkhorn", epsilon=epsilon, stop="scaling", tolerance=0.01, last="source"
    )
    found = coupler.couple(
        cost,
        torch.full((n,), 1 / n, dtype=torch.float64),
        torch.full((m,), 1 / m, dtype=torch.float64),
    )
    assert found.n_iter == sweeps
    torch.testing.assert_close(found.plan, wanted, atol=1e-12, rtol=0)

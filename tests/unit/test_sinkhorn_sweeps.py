"""Sinkhorn in plain torch: domains, acceleration, batches, and convergence."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenred.kernels import paths
from tokenred.kernels.sinkhorn import Scaling, sinkhorn
from tokenred.kernels.sinkhorn.chebyshev import PLAIN_SWEEPS, factors
from tokenred.kernels.sinkhorn.fold import fold
from tokenred.kernels.sinkhorn.monitor import PATIENCE, DeviceMonitor, Monitor
from tokenred.kernels.sinkhorn.paths import CACHE
from tokenred.kernels.sinkhorn.paths import solve as solve_by_rules
from tokenred.kernels.sinkhorn.problem import Problems, Rules

EPSILONS = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001)
SIDES = ("anchor", "source")


@pytest.fixture(autouse=True)
def _plain_torch() -> Iterator[None]:
    with paths.use("torch"):
        yield


def draw(*batch: int, n: int = 40, m: int = 12, seed: int = 0, uniform: bool = True) -> Any:
    """Return costs in [0, 2] and masses."""
    generator = torch.Generator().manual_seed(seed)
    cost = 2 * torch.rand(*batch, n, m, generator=generator)
    masses = [torch.ones(*batch, size) for size in (n, m)]
    if not uniform:
        masses = [0.2 + torch.rand(*batch, size, generator=generator) for size in (n, m)]
    return cost, *(mass / mass.sum(-1, keepdim=True) for mass in masses)


def features(kind: str, frames: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return 1 - cosine between tokens of synthetic frames: smooth fields with noise, 27 x 27."""
    generator = torch.Generator().manual_seed(0)

    def field(cells: int) -> Tensor:
        coarse = torch.randn(frames * 32, 1, cells, cells, generator=generator)
        fine = torch.nn.functional.interpolate(coarse, (27, 27), mode="bicubic")
        return fine.view(frames, 32, 729).mT

    noise = torch.randn(frames, 729, 32, generator=generator)
    common = torch.randn(32, generator=generator) if kind == "smooth" else torch.zeros(32)
    tokens = field(4) + 0.5 * field(9) + (0.3 if kind == "smooth" else 0.6) * noise + common
    tokens = torch.nn.functional.normalize(tokens, dim=-1)
    order = torch.randperm(729, generator=generator)
    cost = 1 - tokens[:, order[126:]] @ tokens[:, order[:126]].mT
    return cost, torch.full((frames, 603), 1 / 603), torch.full((frames, 126), 1 / 126)


def solve(problem: Any, **options: Any) -> Scaling:
    return sinkhorn(*problem, **options)


def double(problem: Any) -> tuple[Tensor, ...]:
    return tuple(part.double() for part in problem)


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("last", SIDES)
@pytest.mark.parametrize("uniform", [True, False])
def test_every_epsilon_is_right(epsilon: float, last: str, uniform: bool) -> None:
    """Float32, in the domain that ``auto`` takes, makes the sweeps of the log domain in float64."""
    problem = draw(3, uniform=uniform)
    options = {"epsilon": epsilon, "last": last, "stop": "none", "max_iter": 60}
    found = solve(problem, **options)
    wanted = solve(double(problem), domain="log", **options)
    rounding = 2 / epsilon * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.plan, wanted.plan.float(), atol=rounding / 12, rtol=0)
    exact = found.plan.sum(-2 if last == "anchor" else -1), problem[2 if last == "anchor" else 1]
    torch.testing.assert_close(*exact, atol=3e-7, rtol=0)


@pytest.mark.parametrize("acceleration", ["none", "chebyshev"])
@pytest.mark.parametrize("last", SIDES)
@pytest.mark.parametrize("epsilon", [0.1, 0.01, 0.001])
def test_domains_agree(acceleration: str, last: str, epsilon: float) -> None:
    problem = double(draw(3, uniform=False))
    options = {"epsilon": epsilon, "acceleration": acceleration, "last": last, "tolerance": 1e-4}
    log = solve(problem, domain="log", **options)
    absorbed = solve(problem, domain="absorbed", **options)
    assert absorbed.n_iter == log.n_iter
    torch.testing.assert_close(absorbed.plan, log.plan, atol=1e-10, rtol=0)
    if epsilon == 0.1:
        kernel = solve(problem, domain="kernel", **options)
        assert kernel.n_iter == log.n_iter
        torch.testing.assert_close(kernel.plan, log.plan, atol=1e-10, rtol=0)


def test_absorbed_sums_that_float32_lost_are_formed_again() -> None:
    """A cost so wide that a sweep moves scalings by thousands, in float32."""
    problem = draw(2, n=30, m=6, uniform=False)
    problem = (3000 * problem[0], *problem[1:])
    options = {"epsilon": 1.0, "stop": "none", "max_iter": 40}
    found = solve(problem, domain="absorbed", **options)
    wanted = solve(double(problem), domain="log", **options)
    torch.testing.assert_close(found.plan, wanted.plan.float(), atol=1e-3, rtol=0)
    assert bool(torch.isfinite(found.plan).all())


@pytest.mark.parametrize("kind", ["smooth", "contrast"])
def test_chebyshev_is_fast_on_features(kind: str) -> None:
    """1e-3 of all mass in 12 sweeps and 1e-6 in 24, at epsilon 0.1, as the schedule promises."""
    problem = double(features(kind, frames=2))

    def off(sweeps: int, acceleration: str) -> float:
        options = {"epsilon": 0.1, "stop": "none", "max_iter": sweeps}
        plan = solve(problem, acceleration=acceleration, **options).plan
        return float((plan.sum(-1) - problem[1]).abs().sum(-1).max())

    assert off(12, "chebyshev") < 1e-3
    assert off(24, "chebyshev") < 1e-6
    if kind == "contrast":  # on the smooth ones plain sweeps are there as soon
        assert off(12, "chebyshev") < off(12, "none") / 100


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.05, 0.02])
@pytest.mark.parametrize("last", SIDES)
@pytest.mark.parametrize("seed", range(2))
def test_chebyshev_comes_to_the_same_solution(epsilon: float, last: str, seed: int) -> None:
    problem = double(draw(4, n=25, m=7, seed=seed, uniform=False))
    options = {"epsilon": epsilon, "last": last, "tolerance": 1e-7, "max_iter": 3000}
    plain = solve(problem, acceleration="none", **options)
    fast = solve(problem, acceleration="chebyshev", **options)
    assert bool(plain.converged.all() & fast.converged.all())
    torch.testing.assert_close(fast.plan, plain.plan, atol=1e-6, rtol=0)
    assert fast.n_iter <= max(plain.n_iter, 24)  # rho costs an easy problem some sweeps


@pytest.mark.parametrize("last", SIDES)
def test_what_stops_accelerated_sweeps_bounds_the_residual(last: str) -> None:
    problem = draw(6, uniform=False)
    mass = problem[1] if last == "anchor" else problem[2]
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4):
        found = solve(problem, epsilon=0.1, last=last, tolerance=tolerance)
        assert bool(found.converged.all())
        assert bool((found.residual < tolerance * mass.amax(-1) + 1e-8).all())


def test_the_first_sweeps_are_plain() -> None:
    problem = draw()
    for sweeps in range(1, PLAIN_SWEEPS + 3):
        options = {"epsilon": 0.1, "stop": "none", "max_iter": sweeps}
        plain = solve(problem, acceleration="none", **options).plan
        fast = solve(problem, acceleration="chebyshev", **options).plan
        # What the last sweep moves is closed with a plain step.
        assert torch.equal(plain, fast) == (sweeps <= PLAIN_SWEEPS + 1)


def test_factors_are_those_of_the_textbook() -> None:
    """Momentum and step give the same points as w (y - g_before) + g_before."""
    generator = torch.Generator().manual_seed(0)
    eigenvalues = torch.rand(5, generator=generator, dtype=torch.float64) * 0.8
    rho = 0.8
    alpha, gamma = 2 / (2 - rho), rho / (2 - rho)
    g = before = torch.ones(5, dtype=torch.float64)
    here, move, weight = g.clone(), torch.zeros_like(g), 1.0
    for k, (momentum, step) in zip(range(1, 12), factors(rho)):
        move = momentum * move + step * (eigenvalues - 1) * here
        here = here + move
        if k > 1:
            weight = 1 / (1 - gamma**2 * (weight / 4 if k > 2 else 0.5))
        y = g + alpha * (eigenvalues - 1) * g
        g, before = weight * (y - before) + before if k > 1 else y, g
        torch.testing.assert_close(here, g, atol=1e-13, rtol=0)


@pytest.mark.parametrize("stop", ["scaling", "scaling-batch"])
def test_chebyshev_does_not_go_with_rules_about_scalings(stop: str) -> None:
    with pytest.raises(ValueError, match=f"stop: {stop}"):
        solve(draw(), epsilon=0.1, stop=stop, acceleration="chebyshev")
    auto = solve(draw(), epsilon=0.1, stop=stop)
    plain = solve(draw(), epsilon=0.1, stop=stop, acceleration="none")
    assert torch.equal(auto.plan, plain.plan)


@pytest.mark.parametrize("stop", ["none", "residual", "scaling"])
@pytest.mark.parametrize("last", SIDES)
@pytest.mark.parametrize("domain", ["kernel", "absorbed", "log"])
def test_a_batch_is_a_loop(stop: str, last: str, domain: str) -> None:
    """Easy and hard problems, padded ones and one of padding alone, over several chunks."""
    count, n, m = 5, 400, 160
    assert count * n * m * 4 > CACHE > n * m * 4
    cost, source, anchor = draw(count, n=n, m=m, uniform=False)
    cost = cost * torch.linspace(0.1, 1, count)[:, None, None]
    source[2, 200:], anchor[3, 100:], source[4] = 0, 0, 0
    source, anchor = (t / t.sum(-1, keepdim=True).clamp_min(1e-9) for t in (source, anchor))
    options = {"epsilon": 0.2, "stop": stop, "last": last, "domain": domain, "max_iter": 12}
    together = solve((cost, source, anchor), **options)
    counts = set()
    for i in range(count):
        alone = solve((cost[i], source[i], anchor[i]), **options)
        counts.add(alone.n_iter)
        torch.testing.assert_close(together.plan[i], alone.plan, atol=1e-8, rtol=1e-5)
        assert together.converged[i] == alone.converged
    assert together.n_iter == max(counts)
    assert (len(counts) > 1) == (stop != "none")


def test_layout_of_the_cost_changes_nothing_and_is_that_of_the_plan() -> None:
    cost, source, anchor = draw(3)
    lying = cost.mT.contiguous().mT
    options = {"epsilon": 0.1, "stop": "none", "max_iter": 9}
    plain, turned = (solve((c, source, anchor), **options).plan for c in (cost, lying))
    assert torch.equal(plain, turned)
    assert plain.stride() == cost.stride()
    assert turned.stride() == lying.stride()


@pytest.mark.parametrize("domain", ["kernel", "absorbed", "log"])
@pytest.mark.parametrize("m", [2, 3, 7, 30, 126])
def test_equal_sources_are_equal_wherever_they_stand(domain: str, m: int) -> None:
    cost, source, anchor = draw(2, n=131, m=m)
    same = torch.tensor([0, 1, 3, 16, 17, 64, 100, 129, 130])
    cost[:, same] = cost[:, :1]
    for lying in (cost, cost.mT.contiguous().mT):
        plan = solve((lying, source, anchor), epsilon=0.1, domain=domain).plan
        assert torch.equal(plan[:, same], plan[:, :1].expand(-1, len(same), -1))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 126])
def test_fold_sums(rows: int) -> None:
    terms = torch.rand(2, rows, 5, dtype=torch.float64)
    torch.testing.assert_close(fold(terms.clone()), terms.sum(1), atol=1e-12, rtol=0)


def test_problems_without_entries() -> None:
    for shape in ((0, 4, 3), (2, 0, 3), (2, 4, 0)):
        masses = torch.ones(shape[:2]), torch.ones(shape[0], shape[2])
        found = sinkhorn(torch.zeros(shape), *masses, epsilon=0.1)
        assert found.plan.shape == shape
        assert found.converged.shape == shape[:1]


class TestMonitor:
    """Both monitors, on the same made-up errors: the one for accelerators runs here too."""

    @pytest.fixture(params=[Monitor, DeviceMonitor])
    def monitor(self, request: pytest.FixtureRequest) -> Any:
        problems = Problems.of(torch.rand(3, 4, 2), torch.ones(3, 4) / 4, torch.ones(3, 2) / 2, 0.1)
        return request.param(problems, Rules(500, "residual", 0.1, "anchor", 0.8))

    def test_a_problem_that_is_done_keeps_its_scalings(self, monitor: Any) -> None:
        for sweep in range(1, 9):
            errors = torch.tensor([0.0 if sweep >= at else 1.0 for at in (3, 5, 99)])
            assert not monitor.update(
                sweep, errors, "residual", torch.full((3, 1, 2), float(sweep))
            )
        kept = monitor.close(8, torch.full((3, 1, 2), 8.5))
        assert kept[:, 0, 0].tolist() == [3, 5, 8.5]
        assert monitor.run().n_iter.tolist() == [3, 5, 8]
        assert monitor.run().done.tolist() == [True, True, False]

    def test_all_done(self, monitor: Any) -> None:
        assert monitor.update(8, torch.zeros(3), "defect", torch.ones(3, 2))

    def test_a_problem_that_diverges_starts_again(self, monitor: Any) -> None:
        monitor.guard(3, torch.tensor([1.0, 1.0, 1.0]))
        again = monitor.guard(4, torch.tensor([1.9, 2.1, torch.nan]))
        assert again.tolist() == [False, True, True]
        assert monitor.on.tolist() == [True, False, False]
        again = monitor.guard(5, torch.tensor([1.9, 2.1, torch.nan]))
        assert again is None or not bool(again.any())
        assert monitor.run().fell.tolist() == [0, 4, 4]
        assert monitor.run().restarted.tolist() == [False, True, True]

    def test_a_problem_that_circles_goes_on_plainly(self, monitor: Any) -> None:
        for sweep in range(1, PATIENCE + 1):
            again = monitor.guard(sweep, torch.tensor([1.0, 0.9**sweep, 1.1 - 0.1 * (sweep % 2)]))
            assert again is None or not bool(again.any())
        assert monitor.on.tolist() == [False, True, False]
        assert not bool(monitor.run().restarted.any())


def test_a_device_monitor_gives_the_same_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenred.kernels.sinkhorn import sweeps

    problem = draw(5, uniform=False)
    for options in ({}, {"last": "source"}, {"stop": "scaling", "tolerance": 1e-2}):
        wanted = solve(problem, epsilon=0.1, **options)
        with monkeypatch.context() as patch:
            patch.setattr(sweeps, "new_monitor", DeviceMonitor)
            found = solve(problem, epsilon=0.1, **options)
        torch.testing.assert_close(found.plan, wanted.plan, atol=1e-7, rtol=0)
        assert found.n_iter == wanted.n_iter
        assert torch.equal(found.converged, wanted.converged)


@pytest.mark.parametrize("last", SIDES)
@pytest.mark.parametrize(("scale", "rho", "restarts"), [(25, 0.999, True), (6, 0.99999, False)])
def test_acceleration_is_given_up_alike_in_every_domain_and_by_either_monitor(
    scale: float, rho: float, restarts: bool, last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost, source, anchor = draw(4, n=40, m=30, uniform=False)
    problems = Problems.of(*double((scale * cost, source, anchor)), 1.0)
    rules = Rules(400, "residual", 1e-3, last, rho)
    wanted, run = solve_by_rules(problems, rules, "log")
    assert bool(run.fell.all())
    assert run.restarted.tolist() == [restarts] * 4
    assert bool(run.done.all())
    for monitor in (Monitor, DeviceMonitor):
        monkeypatch.setattr("tokenred.kernels.sinkhorn.sweeps.new_monitor", monitor)
        for domain in ("kernel", "absorbed", "log"):
            plan, found = solve_by_rules(problems, rules, domain)
            for field in ("n_iter", "done", "fell", "restarted"):
                assert torch.equal(getattr(found, field), getattr(run, field)), field
            torch.testing.assert_close(plan, wanted, atol=1e-10, rtol=0)

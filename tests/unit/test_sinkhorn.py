"""The Sinkhorn kernel by example: sweeps, stop rules, reports. Properties: tests/property."""

import pytest
import torch

from tokenred.kernels.sinkhorn import sinkhorn

SOURCE, ANCHOR = torch.full((6,), 1 / 6), torch.full((3,), 1 / 3)


def cost(*batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*batch, 6, 3, generator=torch.Generator().manual_seed(seed))


def test_one_sweep_by_hand() -> None:
    """K = 1/2 on a pair that costs ln 2 at epsilon 1: rows first, then columns."""
    matrix = torch.tensor([[0.0, 0.0], [0.0, 2.0]]).mul(0.5 * torch.tensor(2.0).log())
    half = torch.full((2,), 0.5)
    found = sinkhorn(matrix, half, half, epsilon=1.0, max_iter=1, stop="none")
    rows = torch.tensor([0.25, 1 / 3])  # 0.5 / 2 and 0.5 / 1.5
    columns = torch.tensor([0.5 / (7 / 12), 0.5 / (5 / 12)])
    kernel = torch.tensor([[1.0, 1.0], [1.0, 0.5]])
    torch.testing.assert_close(found.plan, rows[:, None] * kernel * columns)
    assert found.n_iter == 1


def test_report_of_a_solution_that_needs_one_sweep() -> None:
    found = sinkhorn(torch.zeros(2, 6, 3), SOURCE.expand(2, 6), ANCHOR.expand(2, 3), epsilon=0.1)
    assert found.n_iter == 1
    assert found.converged.tolist() == [True, True]
    assert float(found.residual.max()) < 1e-7


def test_report_of_a_solution_that_runs_out_of_sweeps() -> None:
    found = sinkhorn(cost(), SOURCE, ANCHOR, epsilon=0.01, max_iter=2, tolerance=1e-6)
    assert found.n_iter == 2
    assert not bool(found.converged)
    assert float(found.residual) > 1e-3


def test_whoever_makes_all_sweeps_has_converged_if_the_plan_has() -> None:
    for max_iter, converged in ((2, False), (200, True)):
        options = {"epsilon": 0.05, "max_iter": max_iter, "stop": "none"}
        assert bool(sinkhorn(cost(), SOURCE, ANCHOR, **options).converged) == converged  # type: ignore[arg-type]


@pytest.mark.parametrize("stop", ["none", "residual", "scaling", "scaling-batch"])
def test_max_iter_is_a_ceiling(stop: str) -> None:
    found = sinkhorn(cost(), SOURCE, ANCHOR, epsilon=0.02, max_iter=7, stop=stop, tolerance=1e-9)  # type: ignore[arg-type]
    assert found.n_iter == 7


def test_auto_takes_the_kernel_only_where_float32_holds_it() -> None:
    for scale, same in ((60.0, "kernel"), (70.0, "absorbed"), (1e5, "log")):
        options = {"epsilon": 1.0, "max_iter": 5, "stop": "none"}
        wide = scale * cost() / cost().max()
        auto = sinkhorn(wide, SOURCE, ANCHOR, **options)  # type: ignore[arg-type]
        wanted = sinkhorn(wide, SOURCE, ANCHOR, domain=same, **options)  # type: ignore[arg-type]
        assert torch.equal(auto.plan, wanted.plan)


def test_kernel_domain_is_not_right_for_every_range() -> None:
    found = sinkhorn(1e4 * cost(), SOURCE, ANCHOR, epsilon=1.0, domain="kernel")
    assert not bool(torch.isfinite(found.plan).all())


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtype_of_the_plan(given: torch.dtype, computed: torch.dtype) -> None:
    found = sinkhorn(cost().to(given), SOURCE.to(given), ANCHOR.to(given), epsilon=0.1)
    assert found.plan.dtype == computed


def test_several_axes_of_problems() -> None:
    stacked = sinkhorn(cost(2, 4), SOURCE.expand(2, 4, 6), ANCHOR.expand(2, 4, 3), epsilon=0.1)
    assert stacked.plan.shape == (2, 4, 6, 3)
    assert stacked.residual.shape == stacked.converged.shape == (2, 4)
    one = sinkhorn(cost(2, 4)[1, 2], SOURCE, ANCHOR, epsilon=0.1)
    torch.testing.assert_close(stacked.plan[1, 2], one.plan, atol=1e-7, rtol=0)


def test_equal_sources_get_equal_rows_to_the_last_bit() -> None:
    """Duplicates must not straddle a quantile of their own scores."""
    matrix = cost(seed=1)
    matrix[4] = matrix[1]
    for domain in ("kernel", "log"):
        plan = sinkhorn(matrix, SOURCE, ANCHOR, epsilon=0.1, domain=domain).plan  # type: ignore[arg-type]
        assert torch.equal(plan[4], plan[1])


def test_the_stop_decision_carries_no_gradient() -> None:
    matrix = cost().requires_grad_()
    found = sinkhorn(matrix, SOURCE, ANCHOR, epsilon=0.1)
    assert found.plan.requires_grad
    assert not found.residual.requires_grad
    assert not found.converged.requires_grad

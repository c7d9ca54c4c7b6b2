"""Checks of the Triton kernels, for the interpreter on the CPU and for a GPU alike.

``test_triton.py`` runs this file in a process of its own with the interpreter on;
``tests/gpu`` runs it on the device.
"""

import pytest
import torch
from host_reads import host_reads
from profiles import combinations, thorough
from torch import Tensor

from tokenred.kernels.triton import available, interpreted, merge, similarity, sinkhorn
from tokenred.kernels.triton.frames import Sweeps, merge_frames, merge_segments

HALVES = [torch.bfloat16, torch.float16]
DTYPES = [torch.float32, *HALVES]


@pytest.fixture
def device() -> str:
    if not available(torch.empty(0, device="cuda" if torch.cuda.is_available() else "cpu")):
        pytest.skip("neither a CUDA device nor Triton's interpreter is here")
    return "cpu" if interpreted() else "cuda"


def reference(
    scaled: Tensor,
    source: Tensor,
    anchor: Tensor,
    max_iter: int,
    stop: str,
    tolerance: float,
    last: str,
    rho: float | None,
) -> tuple[Tensor, list[int], list[bool]]:
    """Solve problem by problem in float64, without padding."""
    plans, sweeps, dones = [], [], []
    for cost, mass_u, mass_v in zip(scaled.double(), source.double(), anchor.double()):
        real = (mass_u > 0)[:, None] & (mass_v > 0)
        u, v = mass_u[mass_u > 0], mass_v[mass_v > 0]
        kernel = torch.exp(-cost)[mass_u > 0][:, mass_v > 0]
        plan, n_iter, done = _one(kernel, u, v, max_iter, stop, tolerance, last, rho)
        plans.append(torch.zeros_like(cost).masked_scatter(real, plan))
        sweeps.append(n_iter)
        dones.append(done)
    return torch.stack(plans), sweeps, dones


def _one(kernel, u, v, max_iter, stop, tolerance, last, rho):
    alpha, gamma = (2 / (2 - rho), rho / (2 - rho)) if rho else (1.0, 0.0)
    row = torch.ones_like(u)
    column = torch.ones_like(v) if last == "anchor" else v / kernel.sum(0)
    before, weight = column.log(), 1.0
    for sweep in range(1, max_iter + 1):
        old, row = row, u / (kernel @ column)
        image = v / (kernel.T @ row)
        plan = row[:, None] * kernel * (image if last == "anchor" else column)
        error = (plan.sum(1) - u, u) if last == "anchor" else (plan.sum(0) - v, v)
        step = sweep - 2 if last == "anchor" else sweep - 1
        fast = rho is not None and step > 0
        met = bool(error[0].abs().max() < tolerance * error[1].max())
        if fast and last == "anchor":  # a bound on what the closing sweep leaves
            met = float((image / column).log().abs().max().expm1()) < tolerance
        change = float((row - old).abs().mean())
        done = {"none": False, "residual": met, "scaling": change < tolerance}[stop]
        if done:
            break
        if not fast:
            column = image
            continue
        now = column.log()
        relaxed = now + alpha * (image.log() - now)
        weight = {1: 1.0, 2: 1 / (1 - gamma**2 / 2)}.get(step, 1 / (1 - gamma**2 * weight / 4))
        following = relaxed if step == 1 else weight * (relaxed - before) + before
        before, column = now, following.exp()
    return plan, sweep, done


def problems(
    device: str, batch: int = 2, n: int = 37, m: int = 10
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scaled costs and ragged marginals; rows 3 and 4 are equal."""
    generator = torch.Generator().manual_seed(1)
    scaled = 8 * torch.rand(batch, n, m, generator=generator)
    scaled[:, 4] = scaled[:, 3]
    source, anchor = torch.ones(batch, n), torch.ones(batch, m)
    source[1, 5:19] = 0
    anchor[-1, 7:] = 0
    masses = (mass / mass.sum(1, keepdim=True) for mass in (source, anchor))
    return (scaled.to(device), *(mass.to(device) for mass in masses))


def far(plan: Tensor, expected: Tensor) -> float:
    """Return the largest L1 distance of two plans of a batch; total mass is one."""
    return float((plan.double() - expected).abs().sum((-2, -1)).max())


FRAME = (170, 70) if interpreted() and not thorough() else (603, 126)


@pytest.mark.parametrize(
    ("stop_at", "last", "rho"),
    combinations(
        [("none", 0.0), ("residual", 2e-3), ("scaling", 1e-3)], ["anchor", "source"], [0.8, None]
    ),
)
def test_solve_takes_the_same_way(device, stop_at, last, rho) -> None:
    stop, tolerance = stop_at
    inputs = problems(device)
    rules = {"max_iter": 10, "stop": stop, "tolerance": tolerance, "last": last, "rho": rho}
    solved = sinkhorn.solve(*inputs, **rules, resident=False)
    plan, sweeps, done = reference(*(t.cpu() for t in inputs), *rules.values())
    assert far(solved.plan.cpu(), plan) < 1e-6
    assert solved.n_iter.tolist() == sweeps
    assert solved.done.tolist() == done


@pytest.mark.parametrize("last", ["anchor", "source"])
def test_marginals_of_accelerated_solve(device, last) -> None:
    scaled, source, anchor = problems(device)
    solved = sinkhorn.solve(
        *(scaled, source, anchor),
        **{"max_iter": 70, "stop": "residual", "tolerance": 1e-4, "last": last, "rho": 0.8},
    )
    rows = (solved.plan.sum(2) - source).abs() / source.amax(1, keepdim=True)
    columns = (solved.plan.sum(1) - anchor).abs() / anchor.amax(1, keepdim=True)
    exact, free = (columns, rows) if last == "anchor" else (rows, columns)
    assert exact.max() < 1e-6
    assert free.max() < 1e-4


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")
@pytest.mark.parametrize(
    ("problem", "last"), combinations([(50, 0.9999), (12, 0.99999)], ["anchor", "source"])
)
def test_acceleration_is_given_up_where_it_makes_things_worse(device, problem, last) -> None:
    scale, rho = problem  # the error grows, or does not shrink
    generator = torch.Generator().manual_seed(0)
    scaled = scale * torch.rand(1, 40, 30, generator=generator).to(device)
    masses = (torch.full((1, n), 1 / n, device=device) for n in (40, 30))
    inputs, rules = (scaled, *masses), {"max_iter": 70, "stop": "none", "tolerance": 0.0}
    solved = sinkhorn.solve(*inputs, **rules, last=last, rho=rho, resident=False)
    on_cpu = [tensor.cpu() for tensor in inputs]
    solution, *_ = reference(*on_cpu, 2000, "none", 0.0, last, None)
    unguarded, *_ = reference(*on_cpu, 70, "none", 0.0, last, rho)
    assert not far(unguarded, solution) < 0.005
    assert far(solved.plan.cpu(), solution) < 0.0005


def test_scalings_make_the_plan_and_padding_is_empty(device) -> None:
    scaled, source, anchor = problems(device)
    rules = {"max_iter": 5, "stop": "none", "tolerance": 0.0, "last": "anchor", "rho": None}
    solved = sinkhorn.solve(scaled, source, anchor, **rules)
    plan = solved.source_scaling[..., None] * torch.exp(-scaled) * solved.anchor_scaling[:, None]
    torch.testing.assert_close(solved.plan, plan, rtol=1e-5, atol=0)
    assert not solved.plan[source == 0].any()
    assert not solved.plan.mT[anchor == 0].any()


@pytest.mark.parametrize("stop", ["none", "residual"])
def test_equal_rows_get_equal_scalings(device, stop) -> None:
    rules = {"max_iter": 10, "stop": stop, "tolerance": 1e-4, "last": "anchor", "rho": 0.8}
    solved = sinkhorn.solve(*problems(device), **rules, resident=True)
    assert torch.equal(solved.source_scaling[:, 3], solved.source_scaling[:, 4])
    assert torch.equal(solved.plan[:, 3], solved.plan[:, 4])


@pytest.mark.parametrize(("rho", "last"), combinations([None, 0.8], ["anchor", "source"]))
def test_resident_matrix_ends_in_float32(device, last, rho) -> None:
    inputs = problems(device)
    rules = {
        "max_iter": 10 if rho else 18,
        "stop": "none",
        "tolerance": 0.0,
        "last": last,
        "rho": rho,
    }
    plan, *_ = reference(*(t.cpu() for t in inputs), *rules.values())
    solved = sinkhorn.solve(*inputs, **rules, resident=True)
    assert far(solved.plan.cpu(), plan) < 2e-6
    assert solved.n_iter.tolist() == [rules["max_iter"]] * 2


def test_resident_solve_meets_its_rule(device) -> None:
    scaled, source, anchor = problems(device)
    rules = {"max_iter": 70, "stop": "residual", "tolerance": 1e-5, "last": "anchor", "rho": 0.8}
    solved = sinkhorn.solve(scaled, source, anchor, **rules, resident=True)
    assert solved.done.all()
    assert bool(((solved.plan.sum(2) - source).abs() < 1e-5 * source.amax(1)[:, None]).all())


def test_problem_of_padding_alone_ships_nothing(device) -> None:
    scaled, source, anchor = problems(device)
    source[0], anchor[1] = 0, 0
    rules = {"max_iter": 4, "stop": "residual", "tolerance": 1e-3, "last": "anchor", "rho": None}
    solved = sinkhorn.solve(scaled, source, anchor, **rules)
    assert not solved.plan.any()


@pytest.mark.parametrize("layout", ["rows", "columns", "expanded"])
def test_strides_do_not_matter(device, layout) -> None:
    scaled, source, anchor = problems(device)
    if layout == "columns":
        scaled = scaled.mT.contiguous().mT
    if layout == "expanded":
        source, anchor = source[:1].expand_as(source), anchor[:1].expand_as(anchor)
    rules = {"max_iter": 3, "stop": "none", "tolerance": 0.0, "last": "anchor", "rho": None}
    solved = sinkhorn.solve(scaled, source, anchor, **rules)
    plan, *_ = reference(scaled.cpu(), source.cpu(), anchor.cpu(), *rules.values())
    assert far(solved.plan.cpu(), plan) < 1e-6


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (1, 3), FRAME])
def test_solve_of_any_size(device, n, m) -> None:
    generator = torch.Generator().manual_seed(2)
    scaled = (10 * torch.rand(1, n, m, generator=generator)).to(device)
    source = torch.full((1, n), 1 / n, device=device)
    anchor = torch.full((1, m), 1 / m, device=device)
    rules = {"max_iter": 3, "stop": "residual", "tolerance": 1e-6, "last": "anchor", "rho": None}
    solved = sinkhorn.solve(scaled, source, anchor, **rules)
    plan, *_ = reference(scaled.cpu(), source.cpu(), anchor.cpu(), *rules.values())
    assert far(solved.plan.cpu(), plan) < 1e-6


def test_resident_solve_of_a_frame(device) -> None:
    generator = torch.Generator().manual_seed(2)
    scaled = (10 * torch.rand(1, *FRAME, generator=generator)).to(device)
    source, anchor = (torch.full((1, n), 1 / n) for n in FRAME)
    rules = {"max_iter": 10, "stop": "none", "tolerance": 0.0, "last": "anchor", "rho": 0.8}
    solved = sinkhorn.solve(scaled, source.to(device), anchor.to(device), **rules, resident=True)
    plan, *_ = reference(scaled.cpu(), source, anchor, *rules.values())
    assert far(solved.plan.cpu(), plan) < 2e-6


def test_solve_leaves_what_it_cannot_do() -> None:
    rules = {"max_iter": 3, "tolerance": 1e-3, "last": "anchor", "rho": None}
    scaled, source, anchor = problems("cpu")
    assert sinkhorn.solve(scaled, source, anchor, stop="scaling-batch", **rules) is None
    assert sinkhorn.solve(scaled.double(), source, anchor, stop="none", **rules) is None


def tokens_of(dtype: torch.dtype, device: str, n: int = 45, m: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, n, 40, generator=generator) * torch.rand(2, n, 1, generator=generator)
    index = torch.stack([torch.randperm(n, generator=generator)[:m] for _ in range(2)])
    return x.to(device, dtype), index.to(device)


def picked(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


@pytest.mark.parametrize(("dtype", "indexed"), combinations(DTYPES, [False, True]))
def test_cost(device, dtype, indexed) -> None:
    x, index = tokens_of(dtype, device)
    x[0, 0] = 0
    x[0, 2] = x[0, 1]
    cost = similarity.cosine_cost(x, index if indexed else picked(x, index), epsilon=0.5)
    unit = torch.nn.functional.normalize(x.double(), dim=-1, eps=1e-8)
    torch.testing.assert_close(
        cost.double(), (1 - unit @ picked(unit, index).mT) / 0.5, rtol=0, atol=2e-6
    )
    assert torch.equal(cost[0, 1], cost[0, 2])
    assert cost.dtype == torch.float32
    assert cost.is_contiguous()


@pytest.mark.parametrize(("dtype", "indexed"), combinations(DTYPES, [True, False]))
def test_weights(device, dtype, indexed) -> None:
    x, index = tokens_of(dtype, device)
    generator = torch.Generator().manual_seed(4)
    weights = torch.rand(2, 45, 12, generator=generator).to(device)
    own = torch.rand(2, 12, generator=generator).to(device)
    anchors = picked(x, index)
    out = merge.apply_weights(x, index if indexed else anchors, weights, own)
    exact = own[..., None].double() * anchors.double() + weights.mT.double() @ x.double()
    assert out.dtype == dtype
    # Rounded once: as near as the dtype allows, but for the float32 sums before.
    torch.testing.assert_close(out.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_average_with_weights_of_sources(device) -> None:
    x, index = tokens_of(torch.float32, device)
    generator = torch.Generator().manual_seed(4)
    plan = torch.rand(2, 45, 12, generator=generator).to(device)
    factor, own = (torch.rand(2, n, generator=generator).to(device) for n in (45, 12))
    own[0, 0], plan[0, :, 0] = 0, 0
    out = merge.average_plan(x, index, plan, own=own, source_weight=factor, strength=2.0)
    share = 2.0 * (plan * factor[..., None]).double()
    total = own.double() + share.sum(1)
    keeps, total = own.double().where(total > 0, 1.0), total.where(total > 0, 1.0)
    exact = (keeps[..., None] * picked(x, index).double() + share.mT @ x.double()) / total[
        ..., None
    ]
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-6)
    assert torch.equal(out[0, 0], x[0, index[0, 0]])


SWEEPS = Sweeps(max_iter=6, stop="none", tolerance=0.0)


@pytest.mark.parametrize(
    ("dtype", "mass"), combinations([torch.float32, torch.bfloat16], ["plan", "unit"])
)
def test_frames_are_merged_as_by_gathering(device, dtype, mass) -> None:
    x, index = tokens_of(dtype, device)
    real = torch.ones_like(index, dtype=torch.bool)
    real[1, 9:] = False
    padded = index.where(real, index[:, :1])
    merged = merge_frames(x, padded, sweeps=SWEEPS, anchor_real=real, mass=mass)
    for frame in range(2):
        chosen = index[frame][real[frame]]
        rest = torch.ones(45, dtype=torch.bool, device=device)
        rest[chosen] = False
        wide = x[frame].double().cpu()
        anchors, sources = wide[chosen.cpu()], wide[rest.cpu()]
        plan = _couple(sources, anchors)
        share = plan if mass == "plan" else plan * len(sources)
        exact = (anchors + share.T @ sources) / (1 + share.sum(0))[:, None]
        torch.testing.assert_close(
            merged.anchors[frame, : len(chosen)].double().cpu(),
            exact,
            rtol=torch.finfo(dtype).eps,
            atol=1e-5,
        )


def _couple(sources: Tensor, anchors: Tensor) -> Tensor:
    left, right = (torch.nn.functional.normalize(x, dim=-1) for x in (sources, anchors))
    masses = (torch.full((1, len(x)), 1 / len(x)) for x in (sources, anchors))
    scaled = (1 - left @ right.T)[None] / SWEEPS.epsilon
    plan, *_ = reference(scaled, *masses, 6, "none", 0.0, "anchor", SWEEPS.rho)
    return plan[0]


def test_segments_are_merged_frame_by_frame(device) -> None:
    generator = torch.Generator().manual_seed(5)
    anchors = torch.randn(2, 9, 24, generator=generator).to(device)
    sources = torch.randn(2, 2, 13, 24, generator=generator).to(device)
    real = torch.ones(2, 2, 13, dtype=torch.bool, device=device)
    real[0, 1, 8:] = False
    real[1, 1] = False  # the second segment is a frame shorter
    n_keep = torch.tensor([[4, 0], [3, 0]], device=device)
    merged = merge_segments(
        anchors, sources, sweeps=SWEEPS, n_keep=n_keep, source_real=real, strength=0.5
    )
    for segment in range(2):
        expected = anchors[segment].double().cpu()
        for later in range(2 - segment):
            tokens = sources[segment, later][real[segment, later]].double().cpu()
            plan = _couple(tokens, expected)
            share = plan / plan.sum(1, keepdim=True)
            stays = torch.zeros(len(tokens), dtype=torch.bool)
            stays[share.amax(1).argsort(stable=True)[: n_keep[segment, later]]] = True
            assert merged.stays[segment, later, : len(tokens)].tolist() == stays.tolist()
            share = 0.5 * share * ~stays[:, None]
            expected = (expected + share.T @ tokens) / (1 + share.sum(0))[:, None]
        torch.testing.assert_close(
            merged.anchors[segment].double().cpu(), expected, rtol=1e-5, atol=1e-5
        )
    assert not merged.stays[1, 1].any()


ADAPTIVE = Sweeps(max_iter=60, stop="residual", tolerance=1e-5)


@pytest.mark.parametrize("sweeps", [SWEEPS, ADAPTIVE], ids=["fixed", "adaptive"])
def test_frames_are_merged_without_a_look_at_them(device, sweeps) -> None:
    inputs = tokens_of(torch.float32, device)
    with host_reads() as found:
        assert merge_frames(*inputs, sweeps=sweeps, mass="unit") is not None
    assert found == []


@pytest.mark.parametrize("sweeps", [SWEEPS, ADAPTIVE], ids=["fixed", "adaptive"])
def test_segments_are_merged_without_a_look_at_them(device, sweeps) -> None:
    anchors, sources = (
        torch.randn(3, 9, 24, device=device),
        torch.randn(3, 2, 13, 24, device=device),
    )
    n_keep = torch.full((3, 2), 4, device=device)
    with host_reads() as found:
        assert merge_segments(anchors, sources, sweeps=sweeps, n_keep=n_keep) is not None
    assert found == []

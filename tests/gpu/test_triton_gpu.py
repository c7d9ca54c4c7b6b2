"""The kernels on a GPU: the checks of the interpreter, no host synchronisation, CUDA graphs."""

from collections.abc import Iterator

import pytest
import torch
from golden.algorithms import ALGORITHMS
from golden.compare import check
from golden.index import Case, find_cases
from triton_cases import *  # noqa: F403 - the checks themselves
from triton_cases import SWEEPS, problems, tokens_of

from tokenred.kernels import paths
from tokenred.kernels.triton import sinkhorn
from tokenred.kernels.triton.frames import CapturedGraph, Sweeps, merge_frames, merge_segments

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]

GOLDEN = [case for case in find_cases() if case.algorithm in ALGORITHMS]
ADAPTIVE = Sweeps(max_iter=60, stop="residual", tolerance=1e-5)


@pytest.fixture
def no_synchronisation() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_never_wait_for_the_host(dtype, request) -> None:
    inputs = tokens_of(dtype, "cuda")
    merge_frames(*inputs, sweeps=ADAPTIVE)  # compiled before
    request.getfixturevalue("no_synchronisation")
    assert merge_frames(*inputs, sweeps=ADAPTIVE) is not None


def test_segments_never_wait_for_the_host(request) -> None:
    inputs = _segments()
    _merge(*inputs)
    request.getfixturevalue("no_synchronisation")
    assert _merge(*inputs) is not None


def _segments() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.randn(3, 9, 64, device="cuda"),
        torch.randn(3, 2, 21, 64, device="cuda"),
        torch.full((3, 2), 4, device="cuda"),
    )


def _merge(anchors, sources, n_keep):
    return merge_segments(anchors, sources, sweeps=ADAPTIVE, n_keep=n_keep)


def test_captured_frames_equal_eager_ones() -> None:
    captured = CapturedGraph(lambda x, i: merge_frames(x, i, sweeps=SWEEPS), tokens_of_size(0))
    for seed in (1, 2):
        inputs = tokens_of_size(seed)
        replayed = captured(*inputs)
        eager = merge_frames(*inputs, sweeps=SWEEPS)
        assert torch.equal(replayed.anchors, eager.anchors)
        assert torch.equal(replayed.solved.plan, eager.solved.plan)


def tokens_of_size(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    x = torch.randn(4, 729, 256, device="cuda", dtype=torch.bfloat16, generator=generator)
    index = torch.rand(4, 729, device="cuda", generator=generator).argsort(1)[:, :126]
    return x, index


def test_captured_segments_equal_eager_ones() -> None:
    captured = CapturedGraph(_merge, _segments())
    inputs = _segments()
    replayed, eager = captured(*inputs), _merge(*inputs)
    assert torch.equal(replayed.anchors, eager.anchors)
    assert torch.equal(replayed.stays, eager.stays)


@pytest.mark.parametrize("m", [34, 108, 126, 144, 205, 512])
@pytest.mark.parametrize("resident", [False, True])
def test_full_size_against_float64(m, resident) -> None:
    scaled = 20 * torch.rand(4, 729 - min(m, 205), m, device="cuda")
    u, v = (torch.full((4, n), 1 / n, device="cuda") for n in scaled.shape[1:])
    rules = {"max_iter": 40, "stop": "none", "tolerance": 0.0, "last": "anchor", "rho": 0.8}
    solved = sinkhorn.solve(scaled, u, v, **rules, resident=resident)
    plan, *_ = reference(scaled, u, v, *rules.values())  # noqa: F405
    assert far(solved.plan, plan) < 3e-6  # noqa: F405


def test_result_is_the_same_every_time() -> None:
    inputs = problems("cuda", batch=200, n=603, m=126)
    rules = {"max_iter": 60, "stop": "residual", "tolerance": 1e-5, "last": "anchor", "rho": 0.8}
    first, *others = (sinkhorn.solve(*inputs, **rules) for _ in range(5))
    assert all(torch.equal(first.plan, other.plan) for other in others)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case.id)
def test_golden_case(case: Case) -> None:
    inputs, expected = case.tensors()
    if case.expects_error:
        pytest.skip("the case is an error")
    moved = {name: value.cuda() for name, value in inputs.items()}
    with paths.use("triton"), torch.device("cuda"):
        found = ALGORITHMS[case.algorithm](moved, case.params)
    check(case, {name: value.cpu() for name, value in found.items()}, expected)

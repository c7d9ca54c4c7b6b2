"""Times of the reducer on a CUDA device: ``python -m benchmarks.speed.gpu``.

CUDA events around single calls, ten warm-ups, medians of fifty; four sets of inputs in turn, so
that the second-level cache does not hold what a call reads; eager and replayed from a CUDA graph.
The merged tokens of Triton and torch are compared with float64. The bounds beside the times
are measured on the same device in the same run: bytes that must move over the speed of a copy,
multiplications over the speed of a large product. Without a CUDA device it says so and measures
nothing.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed import released
from tokenred.kernels.triton import available
from tokenred.kernels.triton.frames import CapturedGraph, Sweeps, merge_frames, merge_segments
from tokenred.kernels.triton.sinkhorn import solve

TOKENS, DIM = 729, 3584
FRAMES = (32, 64, 128)
ANCHORS = (108, 126, 144, 198, 205)
SEGMENT_FRAMES = 4
KEEP_RATIO = 0.3
SETS, WARM_UP, CALLS, SLOW_CALLS = 4, 10, 50, 3
SLOW_MS = 20.0
"""Calls that take longer are repeated a few times only."""

EQUAL = Sweeps(max_iter=100, stop="none", tolerance=0.0)
NEAR = Sweeps(max_iter=100, stop="residual", tolerance=1e-3)
TIGHT = Sweeps(max_iter=100, stop="residual", tolerance=1e-6)
SCHEDULES = {"100 sweeps": EQUAL, "1e-3": NEAR, "1e-6": TIGHT}
TOLERANCE = 2e-2
"""Largest relative distance from float64 of a contender that is ranked; bfloat16 has 4e-3."""

Call = Callable[..., Any]


@dataclass(frozen=True)
class Peaks:
    """What the device reaches: bytes/s of a copy, FLOP/s of a bfloat16 product."""

    bytes_per_s: float
    flops: float

    @classmethod
    def measured(cls) -> "Peaks":
        """Copy 1 GiB, multiply 8192^3."""
        source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_()
        target = torch.empty_like(source)
        left, right = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
        copy = timed(lambda: target.copy_(source), [()])
        product = timed(lambda: left @ right, [()])
        return cls(2 * source.numel() / copy * 1e3, 2 * 8192**3 / product * 1e3)

    def bound_ms(self, n_bytes: float, flops: float) -> float:
        """Return the larger of the two times."""
        return 1e3 * max(n_bytes / self.bytes_per_s, flops / self.flops)


def timed(call: Call, inputs: Sequence[tuple[Tensor, ...]]) -> float:
    """Return the median time of one call in ms; the inputs take turns."""
    for i in range(WARM_UP):
        elapsed = _once(call, inputs[i % len(inputs)])
        if elapsed > SLOW_MS:
            break
    calls = SLOW_CALLS if elapsed > SLOW_MS else CALLS
    return statistics.median(_once(call, inputs[i % len(inputs)]) for i in range(calls))


def _once(call: Call, given: tuple[Tensor, ...]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call(*given)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def frames_of(seed: int, frames: int, anchors: int) -> tuple[Tensor, Tensor]:
    """Return features, with something common to all as encoders have it, and anchor indices."""
    generator = torch.Generator("cuda").manual_seed(seed)
    normal = partial(torch.randn, device="cuda", generator=generator)
    x = (normal(frames, TOKENS, DIM) + normal(frames, 1, DIM)).bfloat16()
    order = torch.rand(frames, TOKENS, device="cuda", generator=generator).argsort(1)
    return x, order[:, :anchors].contiguous()


def scaled_of(x: Tensor, index: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return cost / epsilon with a plain product of normalised copies."""
    unit = F.normalize(x.to(dtype), dim=-1)
    chosen = unit.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
    return (1 - unit @ chosen.mT) / EQUAL.epsilon


def torch_frames(x: Tensor, index: Tensor, *, sweeps: int, dtype: torch.dtype) -> Tensor:
    """Merge frames in plain torch: the same maths, one operation after the other."""
    kernel = torch.exp(-scaled_of(x, index, dtype))
    source = torch.ones_like(kernel[..., 0]).scatter(1, index, 0.0)
    source = source / source.sum(1, keepdim=True)
    c = torch.ones_like(kernel[:, 0])
    for _ in range(sweeps):
        r = source / torch.bmm(c[:, None], kernel.mT)[:, 0]
        c = 1 / c.shape[1] / torch.bmm(r[:, None], kernel)[:, 0]
    plan = r[..., None] * kernel * c[:, None]
    anchors = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1])).to(dtype)
    merged = (anchors + plan.mT @ x.to(dtype)) / (1 + plan.sum(1))[..., None]
    return merged.to(x.dtype)


def released_frames(x: Tensor, index: Tensor) -> Tensor:
    """Merge frames as released, with its stop after a few sweeps and its 10 % of nearest tokens."""
    mask = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, index, True)
    return released.merge(x.float(), mask)[0]


def intra(frames: int, anchors: int, peaks: Peaks, *, slow: bool) -> dict[str, Any]:
    """Time the frame stage without the choice of anchors."""
    inputs = [frames_of(seed, frames, anchors) for seed in range(SETS)]
    exact = torch_frames(inputs[0][0][:2], inputs[0][1][:2], sweeps=100, dtype=torch.float64)
    run = {name: partial(_frames, sweeps=sweeps) for name, sweeps in SCHEDULES.items()}
    contenders: dict[str, Call] = {f"triton, {name}": call for name, call in run.items()}
    plain = partial(torch_frames, sweeps=100, dtype=torch.float32)
    contenders["torch, 100 sweeps"] = plain
    for name in list(contenders):
        contenders[f"{name}, graph"] = CapturedGraph(contenders[name], inputs[0])
    rows = {name: _row(call, inputs, exact) for name, call in contenders.items()}
    if slow:
        rows["released"] = {"ms": timed(released_frames, inputs), "ranked": False}
    values = frames * DIM
    n_bytes = 2 * values * (2 * TOKENS + anchors) + 3 * 4 * frames * TOKENS * anchors
    bound = peaks.bound_ms(n_bytes, 2 * 2 * values * TOKENS * anchors)
    return _with_bound(rows, bound)


def _frames(x: Tensor, index: Tensor, *, sweeps: Sweeps) -> Tensor:
    merged = merge_frames(x, index, sweeps=sweeps)
    assert merged is not None
    return merged.anchors


def _row(call: Call, inputs: Sequence[tuple[Tensor, ...]], exact: Tensor) -> dict[str, Any]:
    found = call(*inputs[0])[: len(exact)]
    off = float((found.double() - exact).norm() / exact.norm())
    return {"ms": timed(call, inputs), "off": off, "ranked": off < TOLERANCE}


def _with_bound(rows: dict[str, Any], bound: float) -> dict[str, Any]:
    for row in rows.values():
        row["of_bound"] = bound / row["ms"]
    return {"bound_ms": bound, "rows": rows}


def transport(frames: int, anchors: int) -> dict[str, Any]:
    """Time Sinkhorn alone; both Triton kernels, and the released sweeps without their stop."""
    inputs = []
    for seed in range(SETS):
        x, index = frames_of(seed, frames, anchors)
        scaled = scaled_of(x, index)
        source = torch.ones_like(scaled[..., 0]).scatter(1, index, 0.0)
        source = source / source.sum(1, keepdim=True)
        inputs.append((scaled, source, torch.full_like(scaled[:, 0], 1 / anchors)))
        del x
    rows = {}
    for name, sweeps in SCHEDULES.items():
        for resident in (False, True):
            call = partial(_solve, sweeps=sweeps, resident=resident)
            label = f"triton {'resident' if resident else 'exact'}, {name}"
            solved = solve_of(inputs[0], sweeps, resident)
            row = (solved.plan.sum(2) - inputs[0][1]).abs().sum(1).max()
            rows[label] = {
                "ms": timed(call, inputs),
                "graph_ms": timed(CapturedGraph(call, inputs[0]), inputs),
                "row_violation": float(row),
                "sweeps": int(solved.n_iter.max()),
            }

    def loop(scaled: Tensor, source: Tensor, anchor: Tensor) -> Tensor:
        return released.sinkhorn(torch.exp(-scaled), source, anchor, tolerance=None)[0]

    rows["released, 100 sweeps"] = {"ms": timed(loop, inputs)}
    return rows


def solve_of(inputs: tuple[Tensor, ...], sweeps: Sweeps, resident: bool) -> Any:
    """Solve with one of the two kernels."""
    return solve(
        *inputs,
        max_iter=sweeps.max_iter,
        stop=sweeps.stop,
        tolerance=sweeps.tolerance,
        last=sweeps.last,
        rho=sweeps.rho,
        resident=resident,
    )


def _solve(*inputs: Tensor, sweeps: Sweeps, resident: bool) -> Tensor:
    return solve_of(inputs, sweeps, resident).plan


def inter(frames: int, anchors: int, peaks: Peaks) -> dict[str, Any]:
    """Time the segment stage: every segment at once, against one after the other as released."""
    segments, later = frames // SEGMENT_FRAMES, SEGMENT_FRAMES - 1
    keep = torch.full((segments, later), round(KEEP_RATIO * anchors), device="cuda")
    inputs = []
    for seed in range(SETS):
        generator = torch.Generator("cuda").manual_seed(seed)
        shape = (segments, SEGMENT_FRAMES, anchors, DIM)
        x = torch.randn(shape, device="cuda", generator=generator).bfloat16()
        inputs.append((x[:, 0].contiguous(), x[:, 1:].contiguous()))
    rows: dict[str, Any] = {}
    for name, sweeps in SCHEDULES.items():
        call = partial(_segments, keep=keep, sweeps=sweeps)
        rows[f"triton, {name}"] = {
            "ms": timed(call, inputs),
            "graph_ms": timed(CapturedGraph(call, inputs[0]), inputs),
        }

    def one_by_one(first: Tensor, others: Tensor) -> Tensor:
        video = torch.cat([first[:, None], others], 1).flatten(0, 1).float()
        return released.segment_stage(list(video), SEGMENT_FRAMES, KEEP_RATIO)

    rows["released"] = {"ms": timed(one_by_one, inputs)}
    values = segments * later * anchors * DIM
    n_bytes = 2 * values * 2 + 2 * 2 * values
    return _with_bound(rows, peaks.bound_ms(n_bytes, 2 * 2 * values * anchors))


def _segments(anchors: Tensor, sources: Tensor, *, keep: Tensor, sweeps: Sweeps) -> Tensor:
    merged = merge_segments(anchors, sources, sweeps=sweeps, n_keep=keep)
    assert merged is not None
    return merged.anchors


def whole(frames: int, anchors: int) -> dict[str, Any]:
    """Time both stages on the same tokens, in one graph."""
    segments = frames // SEGMENT_FRAMES
    keep = torch.full((segments, SEGMENT_FRAMES - 1), round(KEEP_RATIO * anchors), device="cuda")
    inputs = [frames_of(seed, frames, anchors) for seed in range(SETS)]

    def run(x: Tensor, index: Tensor, *, sweeps: Sweeps) -> Tensor:
        merged = _frames(x, index, sweeps=sweeps).view(segments, SEGMENT_FRAMES, anchors, DIM)
        return _segments(merged[:, 0], merged[:, 1:], keep=keep, sweeps=sweeps)

    rows = {}
    for name, sweeps in SCHEDULES.items():
        call = partial(run, sweeps=sweeps)
        rows[name] = {
            "ms": timed(call, inputs),
            "graph_ms": timed(CapturedGraph(call, inputs[0]), inputs),
        }
    return rows


def main() -> None:
    """Measure, print as it goes, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/speed/results/gpu.json"))
    parser.add_argument("--quick", action="store_true", help="32 frames and 126 anchors only")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device is here: nothing was measured")
    if not available(torch.empty(0, device="cuda")):
        sys.exit("triton is missing or the device is too old: nothing was measured")
    torch.backends.cuda.matmul.allow_tf32 = False
    sizes = [(b, m) for b in FRAMES for m in ANCHORS]
    if args.quick:
        sizes = [(32, 126)]
    peaks = Peaks.measured()
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_per_s": peaks.bytes_per_s,
        "bfloat16_flops": peaks.flops,
        "tokens": TOKENS,
        "dim": DIM,
        "sizes": [],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for frames, anchors in sizes:
        entry = {
            "frames": frames,
            "anchors": anchors,
            "intra": intra(frames, anchors, peaks, slow=(frames, anchors) == (32, 126)),
            "transport": transport(frames, anchors),
            "inter": inter(frames, anchors, peaks),
            "whole": whole(frames, anchors),
        }
        found["sizes"].append(entry)
        print(json.dumps(entry, indent=1), flush=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

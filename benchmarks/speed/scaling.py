"""How time and memory grow with frames, tokens, anchors and features.

Every point is measured in a process of its own, which makes its video, runs it once, and then takes
the median time and the peak of memory of a few more runs.
"""

import statistics
from time import process_time
from typing import Any

import torch

from benchmarks.speed import data
from benchmarks.speed.contenders import native_is_built
from benchmarks.speed.session import Session, fresh
from benchmarks.speed.stages import ANCHORS_OVERRIDE, DTYPES, frame_pipeline
from benchmarks.speed.statistics import slope
from tokenred.evaluation.bench.peak_memory import peak_memory
from tokenred.kernels import paths
from tokenred.pipeline import load_pipeline

COPIES = 2.5
"""Bytes at the peak over bytes of the features, an estimate: inputs, one copy, what is pooled."""


def curve(session: Session, axis: str) -> dict[str, Any]:
    """Return the curve of one axis, and the exponent of growth in time.

    Frames: the whole reducer ``aot-paper`` in bfloat16, as a model would run it. The others: its
    frame stage in float32. Nothing but the named axis changes along a curve.
    """
    values, points, left_out = session.sizes.curves[axis], [], []
    for value in values:
        arguments = _arguments(session, axis, value)
        size = torch.empty((), dtype=DTYPES[arguments["dtype"]]).element_size()
        features = arguments["frames"] * arguments["side"] ** 2 * arguments["dim"] * size
        if COPIES * features > session.sizes.memory_limit:
            left_out.append({"at": value, "estimated_bytes": COPIES * features})
            continue
        session.say(f"  {axis} {value}")
        points.append({"at": value, **fresh("benchmarks.speed.scaling:point", **arguments)})
    fixed = _arguments(session, axis, values[0])
    return {
        "points": points,
        "left_out": left_out,
        "fixed": {key: fixed[key] for key in ("frames", "side", "n_anchors", "dim", "dtype")},
        "exponent": slope([p["at"] for p in points], [p["median_ms"] for p in points]),
    }


def _arguments(session: Session, axis: str, value: int) -> dict[str, Any]:
    sizes = session.sizes
    given = {
        "frames": sizes.curve_frames,
        "side": data.GRID[0],
        "n_anchors": sizes.anchors,
        "dim": sizes.dim,
        "dtype": "float32",
        "whole": False,
        "path": "native" if native_is_built() else "torch",
    }
    if axis == "frames":
        return given | {"frames": value, "dtype": "bfloat16", "whole": True}
    if axis == "tokens":
        return given | {"side": int(value**0.5)}
    return given | {{"anchors": "n_anchors", "features": "dim"}[axis]: value}


def point(
    frames: int, side: int, n_anchors: int, dim: int, dtype: str, whole: bool, path: paths.Path
) -> dict[str, Any]:
    """Measure one point; to be called in a fresh process."""
    torch.set_num_threads(1)
    tokens = data.video(
        "smooth",
        frames=frames,
        grid=(side, side),
        dim=dim,
        dtype=DTYPES[dtype],
        native_pool="bilinear" if whole else "none",
    )
    if whole:
        pipeline = load_pipeline("aot-paper", {ANCHORS_OVERRIDE: n_anchors})
    else:
        pipeline = frame_pipeline("aot-paper", n_anchors)
    times: list[float] = []

    @torch.no_grad()
    def run() -> None:
        start = process_time()
        with paths.use(path):
            pipeline.run(tokens)
        times.append((process_time() - start) * 1e3)

    run()
    memory = peak_memory(run, torch.device("cpu"))
    return {
        "median_ms": statistics.median(times[1:]),
        "min_ms": min(times[1:]),
        "runs": len(times) - 1,
        "feature_bytes": tokens.features.numel() * tokens.features.element_size(),
        "extra_bytes": None if memory is None else memory.extra_bytes,
    }

"""End to end: the frame stage, the segment stage and the whole reducer, as users run them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.speed import contenders, data, released, statistics
from benchmarks.speed.session import Session, figures, fresh
from tokenred.evaluation.bench.peak_memory import peak_memory
from tokenred.kernels import paths
from tokenred.pipeline import Pipeline, load_pipeline
from tokenred.types import VisualTokens

Call = Callable[[], Any]
FRAME_ONLY = {
    "stages.pool": None,
    "stages.inter_frame": None,
    "budget.mode": "as-released",
}
PAPER, SAME = "tokenred, aot-paper", "tokenred, aot-released"
TEXTBOOK, GEMMS = "textbook torch: normalise, gather, bmm", "the two bare GEMMs"
RELEASED = "released formulation"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SEGMENTS_RELEASED = "released formulation, its stop"
SEGMENT_SIZES = ((8, 4, 34), (8, 4, 126))
"""Segments, frames of each, tokens of a frame."""

PLAIN_REPEATS = 4
"""Rounds without ``NO_TRIMMING``, in which the released formulation takes most of a minute."""
ANCHORS_OVERRIDE = "intra_frame.n_anchors"


def frame_pipeline(preset: str, n_anchors: int) -> Pipeline:
    """Return a preset with its frame stage alone."""
    return load_pipeline(preset, {**FRAME_ONLY, ANCHORS_OVERRIDE: n_anchors})


def textbook(
    features: Tensor, shallow: Tensor, deep: Tensor, n_anchors: int
) -> tuple[Tensor, Tensor]:
    """Return what the released formulation returns, with the cosine as one matrix product.

    The first thing to do about the released code: normalise, gather both sides, multiply. Its
    selection has no loop either. It makes the same two sweeps.
    """
    tokens = VisualTokens.of(features, data.GRID, cues=dict(zip(data.CUES, (shallow, deep))))
    mask = data.anchor_mask(tokens, n_anchors)
    frames, _, dim = features.shape
    unit = F.normalize(features, dim=-1)
    chosen, others = features[mask].view(frames, -1, dim), features[~mask].view(frames, -1, dim)
    cosine = torch.bmm(
        unit[~mask].view(frames, -1, dim), unit[mask].view(frames, -1, dim).transpose(1, 2)
    )
    line = torch.linspace(0, 1, data.GRID[0])
    places = torch.cartesian_prod(line, line)
    apart = torch.cdist(places, places)
    distance = torch.stack([apart[~own][:, own] for own in mask])
    cost = 1 - cosine.float() + released.SPATIAL_WEIGHT * distance
    kernel = torch.exp(-cost / released.EPSILON)
    uniform = [kernel.new_full((frames, size), 1 / size) for size in kernel.shape[1:]]
    plan, _ = released.sinkhorn(kernel, *uniform)
    plan = plan.to(features.dtype)
    load = plan.sum(1).clamp_min(1e-9)[..., None]
    moved = (chosen + torch.bmm(plan.transpose(1, 2), others)) / (1 + load)
    best = cosine.argmax(-1)
    total, count = chosen.clone(), torch.ones_like(chosen[..., :1])
    total.scatter_add_(1, best[..., None].expand_as(others), others)
    count.scatter_add_(1, best[..., None], torch.ones_like(others[..., :1]))
    share = released.NEAREST_SHARE
    return (1 - share) * moved + share * total / count, mask


def bare_gemms(features: Tensor, n_anchors: int) -> Call:
    """Return the two products that nobody can leave out: anchors x tokens, weights x tokens.

    Both at the size of the whole frame, in the orientation that is faster here.
    """
    frames, n, dim = features.shape
    anchors = features[:, :n_anchors].contiguous()
    weights = torch.rand(frames, n_anchors, n).to(features.dtype)
    gram = torch.empty(frames, n_anchors, n, dtype=features.dtype)
    out = torch.empty(frames, n_anchors, dim, dtype=features.dtype)

    def run() -> None:
        torch.bmm(anchors, features.mT, out=gram)
        torch.bmm(weights, features, out=out)

    return run


def frame_stage(session: Session) -> dict[str, Any]:
    """Time the whole frame stage, from features and attention to merged anchors."""
    sizes = session.sizes
    tokens = _tokens(sizes.frames, sizes.dim)
    calls = _frame_calls(tokens, sizes.released_frames, sizes.anchors, _paths())
    rounds = session.measure(calls, slow=True)
    right = _accuracy(tokens, sizes.anchors)
    rows = _frame_rows(rounds, sizes.frames / sizes.released_frames)
    answer: dict[str, Any] = {
        "shape": [sizes.frames, data.GRID[0] * data.GRID[1], sizes.dim],
        "anchors": sizes.anchors,
        "released_frames": sizes.released_frames,
        "rows": [{**row, **right.get(row["name"], {})} for row in rows],
    }
    if session.full:
        given = _inputs(tokens["float32"])
        once = _once_ms(lambda: released.frame_stage(*given, sizes.anchors))
        answer["released_whole"] = {"frames": sizes.frames, "ms": once}
    return answer


def default_malloc(session: Session) -> list[dict[str, Any]]:
    """Time the frame stage with default malloc, in a process of its own."""
    sizes = session.sizes
    rows: list[dict[str, Any]] = fresh(
        "benchmarks.speed.stages:frame_stage_on_default_malloc",
        frames=sizes.frames,
        released_frames=sizes.released_frames,
        dim=sizes.dim,
        n_anchors=sizes.anchors,
        repeats=min(PLAIN_REPEATS, sizes.slow_repeats),
        warmup=sizes.slow_warmup,
    )
    return rows


def frame_stage_on_default_malloc(
    frames: int, released_frames: int, dim: int, n_anchors: int, repeats: int, warmup: int
) -> list[dict[str, Any]]:
    """Return the rows of the frame stage; to be called in a fresh process."""
    torch.set_num_threads(1)
    calls = _frame_calls(_tokens(frames, dim), released_frames, n_anchors, _paths()[:1])
    rounds = statistics.measure(calls, repeats=repeats, warmup=warmup)
    return _frame_rows(rounds, frames / released_frames)


def _tokens(frames: int, dim: int) -> dict[str, VisualTokens]:
    wide = data.video("smooth", frames=frames, dim=dim)
    return {"float32": wide, "bfloat16": _as(wide, torch.bfloat16)}


def _frame_calls(
    tokens: Mapping[str, VisualTokens],
    released_frames: int,
    n_anchors: int,
    through: Sequence[paths.Path],
) -> dict[str, Call]:
    """Return everybody who does the work of the frame stage, and the GEMMs in it."""
    part = [each[:released_frames] for each in _inputs(tokens["float32"])]
    calls: dict[str, Call] = {RELEASED: lambda: released.frame_stage(*part, n_anchors)}
    for dtype, video in tokens.items():
        given = _inputs(video)
        calls[f"{TEXTBOOK}, {dtype}"] = partial(textbook, *given, n_anchors)
        for label, preset in ((PAPER, "aot-paper"), (SAME, "aot-released")):
            for path in through:
                run = _run_on(path, frame_pipeline(preset, n_anchors), video)
                calls[f"{label}, {path}, {dtype}"] = run
        calls[f"{GEMMS}, {dtype}"] = bare_gemms(given[0], n_anchors)
    return calls


def _frame_rows(rounds: statistics.Rounds, scale: float) -> list[dict[str, Any]]:
    """Return a row each; the released formulation had fewer frames by ``scale``."""
    rows = []
    for name in rounds.times_ms:
        timing = figures(rounds.timing(name))
        dtype = "float32" if name == RELEASED else name.rpartition(", ")[2]
        against = {}
        if name == RELEASED:
            timing |= {key: scale * timing[key] for key in ("median_ms", "mad_ms", "min_ms")}
        else:
            against[RELEASED] = scale * rounds.ratio(RELEASED, name)
        if name != RELEASED and GEMMS not in name:
            against[GEMMS] = 1 / rounds.ratio(f"{GEMMS}, {dtype}", name)
        rows.append({"name": name, "dtype": dtype, **timing, "against": against})
    return rows


def _paths() -> list[paths.Path]:
    return ["native", "torch"] if contenders.native_is_built() else ["torch"]


def _run_on(path: paths.Path, pipeline: Pipeline, tokens: VisualTokens) -> Call:
    @torch.no_grad()
    def run() -> Any:
        with paths.use(path):
            return pipeline.run(tokens)

    return run


def _as(tokens: VisualTokens, dtype: torch.dtype) -> VisualTokens:
    return VisualTokens.of(
        tokens.features.to(dtype),
        tokens.grid,
        cues=tokens.cues,
        native_pool=tokens.native_pool,
    )


def _inputs(tokens: VisualTokens) -> tuple[Tensor, Tensor, Tensor]:
    shallow, deep = (tokens.cues[name] for name in data.CUES)
    return tokens.features, shallow, deep


def _once_ms(call: Call) -> float:
    start = process_time()
    call()
    return (process_time() - start) * 1e3


def _accuracy(tokens: Mapping[str, VisualTokens], n_anchors: int) -> dict[str, dict[str, float]]:
    """Return for each row how far its features are from float64, relative, on two frames.

    Rows of the released kind are compared with the released formulation in float64, so this is
    also the check that they compute the same.
    """
    few = {
        name: VisualTokens.of(
            each.features[:2], each.grid, cues={k: v[:2] for k, v in each.cues.items()}
        )
        for name, each in tokens.items()
    }
    exact = _as(few["float32"], torch.float64)
    doubled = [each.double() for each in _inputs(exact)]
    same = released.frame_stage(*doubled, n_anchors)[0].flatten(0, 1)
    paper = frame_pipeline("aot-paper", n_anchors).run(exact).features
    found = {RELEASED: _off(released.frame_stage(*_inputs(few["float32"]), n_anchors)[0], same)}
    for dtype, given in few.items():
        found[f"{TEXTBOOK}, {dtype}"] = _off(textbook(*_inputs(given), n_anchors)[0], same)
        for path in _paths():
            for label, preset, wanted in (
                (PAPER, "aot-paper", paper),
                (SAME, "aot-released", same),
            ):
                reduced = _run_on(path, frame_pipeline(preset, n_anchors), given)()
                found[f"{label}, {path}, {dtype}"] = _off(reduced.features, wanted)
    return {name: {"relative_error": off} for name, off in found.items()}


def _off(values: Tensor, wanted: Tensor) -> float:
    return float((values.double().reshape(wanted.shape) - wanted).norm() / wanted.norm())


def frame_memory(session: Session) -> list[dict[str, Any]]:
    """Return what each row needs at its peak above its inputs, each in a process of its own."""
    sizes = session.sizes
    rows = []
    path = _paths()[0]
    wanted = [
        (RELEASED, "float32", sizes.released_frames),
        *((TEXTBOOK, dtype, sizes.frames) for dtype in DTYPES),
        *((PAPER, dtype, sizes.frames) for dtype in DTYPES),
        *((SAME, dtype, sizes.frames) for dtype in DTYPES),
    ]
    if not sizes.thorough:
        wanted = [wanted[0], wanted[3]]
    for name, dtype, frames in wanted:
        found = fresh(
            "benchmarks.speed.stages:peak",
            name=name,
            dtype=dtype,
            frames=frames,
            dim=sizes.dim,
            n_anchors=sizes.anchors,
            path=path,
        )
        rows.append({"name": name, "dtype": dtype, "frames": frames, "extra_bytes": found})
    return rows


def peak(
    name: str, dtype: str, frames: int, dim: int, n_anchors: int, path: paths.Path
) -> int | None:
    """Return the bytes that one row needs above its inputs; to be called in a fresh process."""
    torch.set_num_threads(1)
    tokens = data.video("smooth", frames=frames, dim=dim, dtype=DTYPES[dtype])
    call = _named(name, tokens, n_anchors, path)
    _named(name, data.video("smooth", frames=1, dim=8), n_anchors, path)()
    found = peak_memory(call, torch.device("cpu"))
    return None if found is None else found.extra_bytes


def _named(name: str, tokens: VisualTokens, n_anchors: int, path: paths.Path) -> Call:
    if name == RELEASED:
        return partial(released.frame_stage, *_inputs(tokens), n_anchors)
    if name == TEXTBOOK:
        return partial(textbook, *_inputs(tokens), n_anchors)
    preset = {PAPER: "aot-paper", SAME: "aot-released"}[name]
    return _run_on(path, frame_pipeline(preset, n_anchors), tokens)


def segment_stage(session: Session) -> list[dict[str, Any]]:
    """Time the segment stage, ours with all 100 sweeps against the release's own stop."""
    sizes = SEGMENT_SIZES if session.sizes.thorough else SEGMENT_SIZES[:1]
    return [row for size in sizes for row in _segments(session, *size)]


def _segments(
    session: Session, n_segments: int, segment_frames: int, n_tokens: int
) -> list[dict[str, Any]]:
    frames = n_segments * segment_frames
    video = data.video("smooth", frames=frames, grid=(14, 14), dim=session.sizes.dim)
    tokens = _thinned(video.features, n_tokens)
    stages = {
        "stages.intra_frame": None,
        "stages.pool": None,
        "inter_frame.segmenter.n_segments": n_segments,
    }
    own_stop = load_pipeline("aot-released", stages)
    all_sweeps = load_pipeline("aot-released", {**stages, "inter_frame.coupler.stop": "none"})
    frames_of = [frame[keep] for frame, keep in zip(tokens.features, tokens.keep)]
    calls: dict[str, Call] = {
        SEGMENTS_RELEASED: partial(released.segment_stage, frames_of, segment_frames)
    }
    for path in _paths():
        calls[f"tokenred, {path}, 100 sweeps"] = _run_on(path, all_sweeps, tokens)
        calls[f"tokenred, {path}, released stop"] = _run_on(path, own_stop, tokens)
    rounds = session.measure(calls)
    whole = released.segment_stage(frames_of, segment_frames, tolerance=None).double()
    stopped = calls[SEGMENTS_RELEASED]().double()
    rows = []
    for name, call in calls.items():
        wanted = whole if "100 sweeps" in name else stopped
        off = None if name == SEGMENTS_RELEASED else _off(call().features, wanted)
        rows.append(
            {
                "segments": n_segments,
                "segment_frames": segment_frames,
                "tokens": n_tokens,
                "name": name,
                **figures(rounds.timing(name)),
                "speedup": rounds.ratio(SEGMENTS_RELEASED, name),
                "relative_difference": off,
            }
        )
    return rows


def _thinned(features: Tensor, n_tokens: int) -> VisualTokens:
    tokens = VisualTokens.of(features, (14, 14))
    order = torch.rand(tokens.keep.shape, generator=torch.Generator().manual_seed(0)).argsort(-1)
    keep = torch.zeros_like(tokens.keep).scatter(-1, order[:, :n_tokens], True)
    return replace(tokens, keep=keep)


def whole_reducer(session: Session) -> list[dict[str, Any]]:
    """Time ``aot-paper`` with everything it does, and each of its stages (wall time)."""
    sizes = session.sizes
    rows = []
    float32 = data.video("smooth", frames=sizes.frames, dim=sizes.dim, native_pool="bilinear")
    pipeline = load_pipeline("aot-paper", {ANCHORS_OVERRIDE: sizes.anchors})
    for dtype, kind in DTYPES.items():
        tokens = _as(float32, kind)
        for path in _paths():
            run = _run_on(path, pipeline, tokens)
            stages: list[dict[str, float]] = []

            def noted(run: Call = run, stages: list[dict[str, float]] = stages) -> None:
                stages.append({stage.name: stage.ms for stage in run().realised.stages})

            rounds = session.measure({"all": noted}, slow=True)
            counted = stages[-rounds.timing("all").n :]
            middle = {
                name: sorted(each[name] for each in counted)[len(counted) // 2]
                for name in counted[0]
            }
            rows.append(
                {
                    "dtype": dtype,
                    "path": path,
                    **figures(rounds.timing("all")),
                    "stage_wall_ms": middle,
                }
            )
    return rows

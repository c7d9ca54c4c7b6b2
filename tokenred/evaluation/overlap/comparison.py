"""Run several pipelines on the same clips, and compare the tokens that they keep."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from tokenred.errors import InputError, TokenredError
from tokenred.evaluation.ablation import Row, expand_rows
from tokenred.evaluation.overlap.compared import ComparedPair, ComparedRow, Comparison, clip_mean
from tokenred.evaluation.overlap.encoders import Encoder
from tokenred.evaluation.overlap.kept import (
    KeptTokens,
    adjusted_iou,
    chance_iou,
    coverage,
    iou,
    kept_tokens,
    llm_grid,
    overlap_coefficient,
    rank_correlation,
)
from tokenred.evaluation.overlap.reconstruction import reconstruct
from tokenred.evaluation.worker import sample_generator
from tokenred.pipeline import Pipeline, load_config
from tokenred.pipeline.budget import frame_quota
from tokenred.pipeline.calibrate import calibrate
from tokenred.types import VisualTokens
from tokenred.video import VideoClip

CONTROLS = ("vanilla", "random", "downsample")
"""Presets that join every comparison: what pooling alone costs, and two that look at nothing."""
CALIBRATION_CLIPS = 8


@dataclass
class _Measurements:
    """Measurements of one row so far, one entry a clip."""

    n_tokens: list[int] = field(default_factory=list)
    retention_ratio: list[float] = field(default_factory=list)
    unequal: bool = False
    whole: bool = False
    kept: list[KeptTokens] = field(default_factory=list)
    measures: list[dict[str, float]] = field(default_factory=list)


def expand_pipelines(names: Sequence[str], retentions: Sequence[float]) -> list[Row]:
    """Return the pipelines at every budget, controls included; names are presets or YAML files.

    A pipeline that keeps everything before the LLM, such as ``vanilla``, has a budget of its own.
    """
    found: list[Row] = []
    for name in dict.fromkeys([*CONTROLS, *names]):
        label = Path(name).stem if name.endswith((".yaml", ".yml")) else name
        found += expand_rows(label, partial(load_config, name), {}, retentions)
    return found


def compare(
    rows: Sequence[Row],
    clips: Mapping[str, VideoClip],
    encoder: Encoder,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Encode every clip once, reduce it with every pipeline, and compare.

    A row that lacks a cue or cannot meet its budget on some clip is left out, with its reason. Rows
    with a calibrated budget are calibrated on the first clips compared: without labels there is
    nothing to overfit to.

    Parameters
    ----------
    on_progress : called with the number of clips done

    Raises
    ------
    InputError
        If there is no clip, or no row that can run.
    """
    if not clips:
        raise InputError("there is no clip to compare on")
    left_out: dict[str, str] = {}
    running = _runnable(rows, encoder, left_out)
    needs = frozenset().union(*(pipeline.needs for pipeline in running.values()))
    ready: dict[str, VisualTokens] = {}  # encoded for calibration

    def encode(name: str) -> VisualTokens:
        if name in ready:
            return ready.pop(name)
        return encoder.encode(clips[name].frames, clips[name].frame_times, needs)

    if any(_calibrated(row) for row in running):
        ready |= {name: encode(name) for name in list(clips)[:CALIBRATION_CLIPS]}
        _calibrate(running, list(ready.values()), left_out)
    seen = {row: _Measurements() for row in running}
    grids = {}
    for done, name in enumerate(clips, 1):
        tokens = encode(name)
        grids = {"grid": tokens.grid, "llm_grid": llm_grid(tokens)}
        for row, pipeline in list(running.items()):
            with _leaving_out(row, running, left_out):
                _measure(seen[row], row, pipeline, tokens, name)
        on_progress(done)
    if not running:
        raise InputError("no row can run: " + ": ".join(next(iter(left_out.items()))))
    chosen = {row: seen[row] for row in running}
    return Comparison(
        encoder=encoder.name,
        clips=tuple(clips),
        n_frames=max(len(clip.frames) for clip in clips.values()),
        rows=tuple(_row(row, running[row], each) for row, each in chosen.items()),
        pairs=tuple(_pairs(chosen)),
        left_out=left_out,
        **grids,
    )


def _runnable(
    rows: Sequence[Row], encoder: Encoder, left_out: dict[str, str]
) -> dict[Row, Pipeline]:
    """Build the pipelines whose cues the encoder can give."""
    running = {row: Pipeline(row.config) for row in rows}
    for row, pipeline in list(running.items()):
        with _leaving_out(row, running, left_out):
            encoder.check(pipeline.needs)
    return running


def _calibrate(
    running: dict[Row, Pipeline], videos: Sequence[VisualTokens], left_out: dict[str, str]
) -> None:
    """Solve the knobs of the rows with a calibrated budget."""
    for row in filter(_calibrated, list(running)):
        with _leaving_out(row, running, left_out):
            running[row] = Pipeline(calibrate(row.config, videos))


def _calibrated(row: Row) -> bool:
    return row.config.budget.mode == "calibrated"


@contextmanager
def _leaving_out(
    row: Row, running: dict[Row, Pipeline], left_out: dict[str, str]
) -> Iterator[None]:
    """Drop a row that fails, and note the reason."""
    try:
        yield
    except TokenredError as error:
        at = "" if row.retention is None else f" at {100 * row.retention:g} %"
        left_out[f"{row.label}{at}"] = str(error)
        del running[row]


def _measure(
    seen: _Measurements, row: Row, pipeline: Pipeline, tokens: VisualTokens, clip: str
) -> None:
    generator = sample_generator(row.config.seed, clip)
    reduced = pipeline.run(tokens, generator=generator, trace=True)
    frames, cells = len(tokens.keep), int(np.prod(llm_grid(tokens)))
    chosen = kept_tokens(reduced, tokens)
    seen.kept.append(chosen)
    seen.whole |= bool(chosen.places.all())
    seen.measures.append({**asdict(coverage(chosen)), **asdict(reconstruct(reduced, tokens))})
    seen.n_tokens.append(reduced.realised.n_tokens)
    seen.retention_ratio.append(reduced.realised.retention_ratio)
    budget = row.config.budget
    wanted = row.retention if row.retention is not None else budget.retention_ratio
    nominal = frames * frame_quota(cells, wanted, "ceil")
    seen.unequal |= reduced.realised.n_tokens != nominal


def _row(row: Row, pipeline: Pipeline, seen: _Measurements) -> ComparedRow:
    remarks = []
    if pipeline.inside_llm:
        remarks.append("its stages inside the LLM are not measured here")
    if _calibrated(row):
        remarks.append("calibrated on these clips, to meet the mean budget")
    return ComparedRow(
        label=row.label,
        retention=row.retention,
        n_tokens=float(np.mean(seen.n_tokens)),
        retention_ratio=float(np.mean(seen.retention_ratio)),
        unequal_budget=row.retention is None or seen.unequal,
        whole=seen.whole,
        measures={
            name: clip_mean([each[name] for each in seen.measures]) for name in seen.measures[0]
        },
        remarks=tuple(remarks),
    )


def _pairs(seen: Mapping[Row, _Measurements]) -> Iterator[ComparedPair]:
    """Yield all pairs of rows of one budget that drop tokens of every clip."""
    choosing = [row for row, each in seen.items() if not each.whole]
    for one, other in combinations(choosing, 2):
        if one.retention == other.retention:
            yield _pair(one, other, list(zip(seen[one].kept, seen[other].kept, strict=True)))


def _pair(one: Row, other: Row, kept: list[tuple[KeptTokens, KeptTokens]]) -> ComparedPair:
    places = [(a.places, b.places) for a, b in kept]
    adjusted = [adjusted_iou(a, b) for a, b in places]
    ranks = [rank_correlation(a.importance, b.importance) for a, b in kept]
    known = [value for value in ranks if value is not None]
    return ComparedPair(
        first=one.label,
        second=other.label,
        retention=one.retention,
        iou=clip_mean([iou(a, b) for a, b in places]),
        chance=float(
            np.mean([chance_iou(a.numel(), int(a.sum()), int(b.sum())) for a, b in places])
        ),
        adjusted_iou=clip_mean([value for value in adjusted if value is not None]),
        overlap=clip_mean([overlap_coefficient(a, b) for a, b in places]),
        rank_correlation=clip_mean(known) if known else None,
    )

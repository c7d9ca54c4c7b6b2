"""From stored answers to the figures of a table: one summary a row, compared fairly."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from tokenred.accounting import LlmShape, prefill_flops
from tokenred.errors import TokenredError
from tokenred.evaluation.ablation import Ablation
from tokenred.evaluation.model import EvaluatedModel
from tokenred.evaluation.runner import PlannedRow
from tokenred.evaluation.statistics import (
    Estimate,
    PairedDifference,
    holm,
    mean_with_interval,
    paired_difference,
)
from tokenred.evaluation.store import Record, Store
from tokenred.evaluation.task import Task

BUDGET_TOLERANCE = 0.01
"""Rows whose mean number of tokens differs by a larger share are no fair comparison."""

FLOPS_FORMULA = "paper"


@dataclass(frozen=True)
class RowSummary:
    """The figures of one row. Accuracies and differences are shares, not per cent.

    Attributes
    ----------
    retention : the nominal budget of the row's group; None for a row with its own
    difference : to the reference row of the same group; None for the reference itself
    p_adjusted : McNemar's p value after Holm over all comparisons of the table
    n_tokens, newline_tokens, retention_ratio : realised, mean over videos
    prefill_flops, flops_share : mean over videos, absolute and relative to vanilla
    reducer_ms : median over videos
    unequal_budget : the row keeps another number of tokens than the row it is compared with
    kinds : accuracy by kind of question
    """

    label: str
    retention: float | None
    config_id: str
    code_version: str
    frames: int | None
    control: bool
    n_videos: int
    n_questions: int
    accuracy: Estimate
    kinds: dict[str, Estimate]
    n_tokens: float
    newline_tokens: float
    retention_ratio: float
    prefill_flops: float
    flops_share: float
    reducer_ms: float
    worst_residual: float
    is_reference: bool = False
    difference: PairedDifference | None = None
    p_adjusted: float | None = None
    unequal_budget: bool = False
    published: float | None = None


@dataclass(frozen=True)
class Best:
    """The best of many rows at one budget: chosen on some videos, measured on the others.

    Attributes
    ----------
    retention : the budget of the group
    n_rows : how many rows it was chosen from
    accuracy : on the videos that played no part in the choice
    difference : to the reference row there; None if it is the reference
    n_close : rows whose paired difference to it there has an interval that reaches 0
    n_choosing, n_measuring : videos of either kind
    """

    retention: float
    label: str
    n_rows: int
    accuracy: Estimate
    difference: PairedDifference | None
    n_close: int
    n_choosing: int
    n_measuring: int


@dataclass(frozen=True)
class Summary:
    """Everything a table says; ``best`` is for sweeps over many rows."""

    name: str
    title: str
    question: str
    model: str
    model_revision: str
    task: str
    task_fingerprint: str
    code_version: str
    reference: str
    n_videos: int
    n_questions: int
    chance: dict[str, float]
    rows: tuple[RowSummary, ...]
    published_source: str | None = None
    best: tuple[Best, ...] = ()


def summarise(
    ablation: Ablation,
    planned: Sequence[PlannedRow],
    task: Task,
    model: EvaluatedModel,
    store: Store,
    n_samples: int,
) -> Summary:
    """Read the results of the first ``n_samples`` samples and compare every row with the reference.

    A row is compared inside its retention group; a row without a group with the reference of the
    only group there is.

    Raises
    ------
    TokenredError
        If results are missing, as after a run that was stopped.
    """
    ids = [task.sample_id(index) for index in range(n_samples)]
    records = [_records(cell, store, ids) for cell in planned]
    full_tokens = max(_vanilla_tokens(found) for found in records)
    rows = [
        _describe(cell, found, model.shape, full_tokens) for cell, found in zip(planned, records)
    ]
    rows = _compare(rows, records, ablation.reference)
    published = ablation.config.published
    if published is not None:
        rows = [replace(row, published=published.score(row.label, row.retention)) for row in rows]
    return Summary(
        name=ablation.config.name,
        title=ablation.config.title or ablation.config.name,
        question=ablation.config.question,
        model=model.name,
        model_revision=model.revision,
        task=task.name,
        task_fingerprint=task.fingerprint,
        code_version=planned[0].origin.code_version,
        reference=ablation.reference,
        n_videos=n_samples,
        n_questions=rows[0].n_questions,
        chance={kind: task.kinds[kind] for kind in task.kinds if kind in rows[0].kinds},
        rows=tuple(rows),
        published_source=None if published is None else published.source,
        best=_best(rows, records, ids, ablation.reference) if ablation.config.sweep else (),
    )


def _records(cell: PlannedRow, store: Store, ids: Sequence[str]) -> list[Record]:
    found = store.records(cell.origin, ids)
    missing = len(ids) - len({record.sample_id for record in found})
    if missing:
        raise TokenredError(
            f"row '{cell.row.label}' lacks {missing} of {len(ids)} videos; run again to resume"
        )
    return found


def _by_video(records: Sequence[Record]) -> dict[str, Record]:
    return {record.sample_id: record for record in records}


def _vanilla_tokens(records: Sequence[Record]) -> float:
    """Return how many tokens the LLM would read of these frames unreduced, mean over videos."""
    costs = [record.cost for record in _by_video(records).values()]
    return fmean(cost.n_tokens / cost.retention_ratio for cost in costs)


def _describe(
    cell: PlannedRow, records: Sequence[Record], shape: LlmShape, full_tokens: float
) -> RowSummary:
    costs = [record.cost for record in _by_video(records).values()]
    flops = fmean(record_flops(record, shape) for record in records)
    videos = [record.sample_id for record in records]
    correct = [record.answer.correct for record in records]
    return RowSummary(
        label=cell.row.label,
        retention=cell.row.retention,
        config_id=cell.origin.config_id,
        code_version=cell.origin.code_version,
        frames=cell.row.frames,
        control=cell.row.control,
        n_videos=len(costs),
        n_questions=len(records),
        accuracy=mean_with_interval(correct, videos),
        kinds=_by_kind(records),
        n_tokens=fmean(cost.n_tokens for cost in costs),
        newline_tokens=fmean(cost.newline_tokens for cost in costs),
        retention_ratio=fmean(cost.retention_ratio for cost in costs),
        prefill_flops=flops,
        flops_share=flops / _flops(round(full_tokens), shape),
        reducer_ms=median(cost.reducer_ms for cost in costs),
        worst_residual=max(cost.residual for cost in costs),
    )


def record_flops(record: Record, shape: LlmShape) -> int:
    """Return the prefill FLOPs of one answer, by what entered each layer."""
    return _flops(record.answer.layer_tokens or record.cost.n_tokens, shape)


def _flops(schedule: Sequence[int] | int, shape: LlmShape) -> int:
    return prefill_flops(schedule, shape, FLOPS_FORMULA).total


def _by_kind(records: Sequence[Record]) -> dict[str, Estimate]:
    kinds = sorted({record.answer.kind for record in records})
    chosen = {kind: [r for r in records if r.answer.kind == kind] for kind in kinds}
    return {
        kind: mean_with_interval([r.answer.correct for r in some], [r.sample_id for r in some])
        for kind, some in chosen.items()
    }


def _compare(
    rows: list[RowSummary], records: Sequence[Sequence[Record]], reference: str
) -> list[RowSummary]:
    found = {row.retention: i for i, row in enumerate(rows) if row.label == reference}
    only = next(iter(found.values())) if len(found) == 1 else None
    references = [rows[i] for i in found.values()]
    compared = []
    for row, mine in zip(rows, records):
        i = found.get(row.retention, only)
        if i is None:
            compared.append(replace(row, unequal_budget=_unequal(row, references)))
        elif row is rows[i]:
            compared.append(replace(row, is_reference=True))
        else:
            difference = paired_difference(*_paired(mine, records[i]))
            unequal = _unequal(row, [rows[i]])
            compared.append(replace(row, difference=difference, unequal_budget=unequal))
    differences = [row.difference for row in compared]
    adjusted = iter(holm([other.p_value for other in differences if other is not None]))
    return [
        row if row.difference is None else replace(row, p_adjusted=next(adjusted))
        for row in compared
    ]


def _best(
    rows: Sequence[RowSummary],
    records: Sequence[Sequence[Record]],
    ids: Sequence[str],
    reference: str,
) -> tuple[Best, ...]:
    """Choose the best row of every budget on every other video, and measure it on the rest.

    The best of many is partly luck; videos that had no say in the choice do not know of it.
    """
    if len(ids) < 2:
        return ()
    choosing, measuring = set(ids[::2]), set(ids[1::2])
    found = []
    for retention in sorted({row.retention for row in rows if row.retention is not None})[::-1]:
        group = [
            (row, list(mine))
            for row, mine in zip(rows, records)
            if row.retention == retention and not row.unequal_budget
        ]
        if not group:
            continue
        unseen = [[r for r in mine if r.sample_id in measuring] for _, mine in group]
        seen = [
            fmean(r.answer.correct for r in mine if r.sample_id in choosing) for _, mine in group
        ]
        first = max(range(len(group)), key=lambda i: seen[i])
        correct = [r.answer.correct for r in unseen[first]]
        others = [
            paired_difference(*_paired(mine, unseen[first]))
            for i, mine in enumerate(unseen)
            if i != first
        ]
        base = next((i for i, (row, _) in enumerate(group) if row.label == reference), first)
        found.append(
            Best(
                retention=retention,
                label=group[first][0].label,
                n_rows=len(group),
                accuracy=mean_with_interval(correct, [r.sample_id for r in unseen[first]]),
                difference=None
                if base == first
                else paired_difference(*_paired(unseen[first], unseen[base])),
                n_close=sum(not other.estimate.excludes_zero for other in others),
                n_choosing=len(choosing),
                n_measuring=len(measuring),
            )
        )
    return tuple(found)


def _unequal(row: RowSummary, references: Sequence[RowSummary]) -> bool:
    """Whether a row keeps another number of tokens than all of these."""
    return all(abs(row.n_tokens / other.n_tokens - 1) > BUDGET_TOLERANCE for other in references)


def _paired(
    mine: Sequence[Record], theirs: Sequence[Record]
) -> tuple[list[bool], list[bool], list[str]]:
    """Return both verdicts on every question that both answered, and its video."""
    other = {(r.sample_id, r.question_no): r.answer.correct for r in theirs}
    shared = [r for r in mine if (r.sample_id, r.question_no) in other]
    return (
        [r.answer.correct for r in shared],
        [other[r.sample_id, r.question_no] for r in shared],
        [r.sample_id for r in shared],
    )

"""From stored answers to the figures of a table: one summary a row, compared fairly."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import fmean, median
from typing import Literal, NamedTuple, TypeVar

from tokenred.accounting import LlmShape, prefill_flops
from tokenred.errors import TokenredError
from tokenred.evaluation.manifest import Run, RunRow
from tokenred.evaluation.statistics import (
    Estimate,
    PairedDifference,
    holm,
    mean_with_interval,
    paired_difference,
)
from tokenred.evaluation.store import MEASURED, Cost, Failure, Record, Store

_Row = TypeVar("_Row")

BUDGET_TOLERANCE = 0.01
"""Rows whose mean number of tokens differs by a larger share are no fair comparison."""

FLOPS_FORMULA = "paper"


@dataclass(frozen=True)
class RowSummary:
    """The figures of one row. Scores and differences are shares, not per cent.

    Attributes
    ----------
    retention : the nominal budget of the row's group; None for a row with its own
    difference : to the reference row of the same group; None for the reference itself
    p_adjusted : p value of the difference after Holm over all comparisons of the table
    n_tokens, newline_tokens, retention_ratio : realised, mean over videos
    prefill_flops, flops_share : mean over videos, absolute and relative to vanilla
    measured : what was measured of its answers and samples, pooled, by the names in ``MEASURED``
    agreement : share of answers that are those of the unreduced model
    unequal_budget : the row keeps another number of tokens than the row it is compared with
    kinds : score by kind of question
    code_versions : of the code that gave the results; several only if they were allowed to mix
    """

    label: str
    retention: float | None
    config_id: str
    code_versions: tuple[str, ...]
    frames: int | None
    control: bool
    n_samples: int
    n_questions: int
    score: Estimate
    kinds: dict[str, Estimate]
    n_tokens: float
    newline_tokens: float
    retention_ratio: float
    prefill_flops: float
    flops_share: float
    measured: dict[str, float | None]
    agreement: Estimate | None = None
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
    score : on the videos that played no part in the choice
    difference : to the reference row there; None if it is the reference
    n_close : rows whose paired difference to it there has an interval that reaches 0
    n_choosing, n_measuring : videos of either kind
    """

    retention: float
    label: str
    n_rows: int
    score: Estimate
    difference: PairedDifference | None
    n_close: int
    n_choosing: int
    n_measuring: int


Measure = Literal["accuracy", "score", "agreement"]
"""Share of right answers; mean of scores between 0 and 1; share of answers that vanilla gives."""


@dataclass(frozen=True)
class Summary:
    """Everything a table says.

    Attributes
    ----------
    measure : what the scores are; without labels, how often a row answers as ``vanilla`` does
    n_samples, n_questions : in every row; samples on which a row failed are left out of all
    failures : (row, sample, reason) of those
    best : for sweeps over many rows
    other_versions : of the code, that gave some of the results
    """

    name: str
    title: str
    question: str
    model: str
    model_revision: str
    task: str
    task_fingerprint: str
    code_version: str
    reference: str
    measure: Measure
    n_samples: int
    n_questions: int
    chance: dict[str, float]
    rows: tuple[RowSummary, ...]
    published_source: str | None = None
    best: tuple[Best, ...] = ()
    failures: tuple[tuple[str, str, str], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    other_versions: tuple[str, ...] = ()

    @property
    def mixed(self) -> bool:
        """Whether results of other versions of the code are among these."""
        return bool(self.other_versions)


def n_steps(run: Run) -> int:
    """Return how many steps ``summarise`` takes: every row is read, described and compared."""
    return 3 * len(run.rows)


def summarise(run: Run, store: Store, on_step: Callable[[], None] = lambda: None) -> Summary:
    """Read the results of a run and compare every row with the reference.

    A row is compared inside its retention group; a row without a group with the reference of the
    only group there is. Samples on which any row failed count in none.

    Parameters
    ----------
    on_step : called after each of ``n_steps(run)`` steps

    Raises
    ------
    TokenredError
        If results are missing, as after a run that was stopped, or every sample failed.
    """
    found = [
        store.records(row.origin, run.sample_ids, run.allow_mixed, option_scores=False)
        for row in _told(run.rows, on_step)
    ]
    failures = [store.failures(row.origin, run.sample_ids) for row in run.rows]
    ids = _complete(run, found, failures)
    records = [[record for record in each if record.sample_id in ids] for each in found]
    full_tokens = max(_vanilla_tokens(each) for each in records)
    measure = _measure(records)
    values = [_values(each, measure) for each in records]
    rows = [
        _describe(row, each, mine, run.shape, full_tokens)
        for row, each, mine in zip(_told(run.rows, on_step), records, values)
    ]
    rows = _compare(rows, values, run.reference, on_step)
    return Summary(
        name=run.name,
        title=run.title,
        question=run.question,
        model=run.model_name,
        model_revision=run.model_revision,
        task=run.task_name,
        task_fingerprint=run.task_fingerprint,
        code_version=run.rows[0].origin.code_version,
        reference=run.reference,
        measure=measure,
        n_samples=len(ids),
        n_questions=rows[0].n_questions,
        chance={kind: run.kinds[kind] for kind in run.kinds if kind in rows[0].kinds},
        rows=tuple(rows),
        published_source=run.published_source,
        best=_best(rows, values, sorted(ids), run.reference) if run.sweep else (),
        failures=tuple(
            (row.label, failure.sample_id, failure.message)
            for row, each in zip(run.rows, failures)
            for failure in each
        ),
        environment=dict(run.environment),
        other_versions=tuple(
            sorted(
                {
                    version
                    for row, summary in zip(run.rows, rows)
                    for version in summary.code_versions
                    if version != row.origin.code_version
                }
            )
        ),
    )


def _told(rows: Iterable[_Row], on_step: Callable[[], None]) -> Iterator[_Row]:
    """Yield the rows; call ``on_step`` when the work on one is done."""
    for row in rows:
        yield row
        on_step()


def _complete(
    run: Run, records: Sequence[Sequence[Record]], failures: Sequence[Sequence[Failure]]
) -> set[str]:
    """Return the samples that every row answered about; what is missing must have failed."""
    failed = {failure.sample_id for each in failures for failure in each}
    ids = set(run.sample_ids) - failed
    for row, each in zip(run.rows, records):
        missing = len(ids - {record.sample_id for record in each})
        if missing:
            raise TokenredError(
                f"row '{row.label}' lacks {missing} of {len(ids)} videos; run again to resume"
            )
    if not ids:
        reason = next(failure.message for each in failures for failure in each)
        raise TokenredError(f"no sample was answered under every row; the first reason: {reason}")
    return ids


class Value(NamedTuple):
    """What one answer counts; those of one cluster stand or fall together."""

    cluster: str
    sample_id: str
    question_no: int
    kind: str
    score: float


def _measure(records: Sequence[Sequence[Record]]) -> Measure:
    scores = {record.answer.score for each in records for record in each} - {None}
    if not scores:
        return "agreement"
    return "accuracy" if scores <= {0.0, 1.0} else "score"


def _values(records: Sequence[Record], measure: Measure) -> list[Value]:
    """Return what each answer counts; unlabelled questions count only where all are."""
    values = []
    for record in records:
        answer = record.answer
        score = answer.agrees if measure == "agreement" else answer.score
        if score is not None:
            cluster = answer.cluster or record.sample_id
            place = record.sample_id, record.question_no
            values.append(Value(cluster, *place, answer.kind, float(score)))
    if not values:
        raise TokenredError("no question has a label, and nothing was compared with vanilla")
    return values


def _by_video(records: Sequence[Record]) -> dict[str, Record]:
    return {record.sample_id: record for record in records}


def _vanilla_tokens(records: Sequence[Record]) -> float:
    """Return how many tokens the LLM would read of these frames unreduced, mean over videos."""
    costs = [record.cost for record in _by_video(records).values()]
    return fmean(cost.n_tokens / cost.retention_ratio for cost in costs)


def _describe(
    row: RunRow,
    records: Sequence[Record],
    values: Sequence[Value],
    shape: LlmShape,
    full_tokens: float,
) -> RowSummary:
    costs = [record.cost for record in _by_video(records).values()]
    flops = fmean(record_flops(record, shape) for record in records)
    agreeing = [r for r in records if r.answer.agrees is not None]
    return RowSummary(
        label=row.label,
        retention=row.retention,
        config_id=row.origin.config_id,
        code_versions=tuple(sorted({record.code_version for record in records})),
        frames=row.frames,
        control=row.control,
        n_samples=len(costs),
        n_questions=len(values),
        score=_mean(values),
        kinds=_by_kind(values),
        n_tokens=fmean(cost.n_tokens for cost in costs),
        newline_tokens=fmean(cost.newline_tokens for cost in costs),
        retention_ratio=fmean(cost.retention_ratio for cost in costs),
        prefill_flops=flops,
        flops_share=flops / _flops(round(full_tokens), shape),
        measured={name: _pooled(name, records, costs) for name in MEASURED},
        agreement=None
        if not agreeing
        else mean_with_interval(
            [float(bool(r.answer.agrees)) for r in agreeing],
            [r.answer.cluster or r.sample_id for r in agreeing],
        ),
        published=row.published,
    )


_POOLS: dict[str, Callable[[list[float]], float]] = {"mean": fmean, "median": median, "max": max}


def _pooled(name: str, records: Sequence[Record], costs: Sequence[Cost]) -> float | None:
    """Return the figure of a row from those of its answers or samples; None if nobody knows any."""
    holders = costs if hasattr(Cost, name) else [record.answer for record in records]
    known = [value for each in holders if (value := getattr(each, name)) is not None]
    return _POOLS[MEASURED[name].pool](known) if known else None


def record_flops(record: Record, shape: LlmShape) -> int:
    """Return the prefill FLOPs of one answer, by what entered each layer."""
    return _flops(record.answer.layer_tokens or record.cost.n_tokens, shape)


@lru_cache(maxsize=4096)
def _flops(schedule: tuple[int, ...] | int, shape: LlmShape) -> int:
    return prefill_flops(schedule, shape, FLOPS_FORMULA).total


def _mean(values: Sequence[Value]) -> Estimate:
    return mean_with_interval([v.score for v in values], [v.cluster for v in values])


def _by_kind(values: Sequence[Value]) -> dict[str, Estimate]:
    kinds = sorted({value.kind for value in values})
    return {kind: _mean([value for value in values if value.kind == kind]) for kind in kinds}


def _compare(
    rows: list[RowSummary],
    values: Sequence[Sequence[Value]],
    reference: str,
    on_step: Callable[[], None],
) -> list[RowSummary]:
    found = {row.retention: i for i, row in enumerate(rows) if row.label == reference}
    only = next(iter(found.values())) if len(found) == 1 else None
    references = [rows[i] for i in found.values()]
    compared = []
    for row, mine in zip(_told(rows, on_step), values):
        i = found.get(row.retention, only)
        if i is None:
            compared.append(replace(row, unequal_budget=_unequal(row, references)))
        elif row is rows[i]:
            compared.append(replace(row, is_reference=True))
        else:
            difference = paired_difference(*_paired(mine, values[i]))
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
    values: Sequence[Sequence[Value]],
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
            for row, mine in zip(rows, values)
            if row.retention == retention and not row.unequal_budget
        ]
        if not group:
            continue
        unseen = [[v for v in mine if v.sample_id in measuring] for _, mine in group]
        seen = [fmean(v.score for v in mine if v.sample_id in choosing) for _, mine in group]
        first = max(range(len(group)), key=lambda i: seen[i])
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
                score=_mean(unseen[first]),
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
    mine: Sequence[Value], theirs: Sequence[Value]
) -> tuple[list[float], list[float], list[str]]:
    """Return both scores of every question that both answered, and its video."""
    other = {(v.sample_id, v.question_no): v.score for v in theirs}
    shared = [v for v in mine if (v.sample_id, v.question_no) in other]
    return (
        [v.score for v in shared],
        [other[v.sample_id, v.question_no] for v in shared],
        [v.cluster for v in shared],
    )

"""Results of an overlap comparison: rows, pairs, and means over clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenred.errors import InputError


@dataclass(frozen=True)
class ClipMean:
    """A mean over clips with Student's 95 % interval, clips taken as a random sample.

    ``low`` and ``high`` are None for a single clip, which says nothing about its spread.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def half_width(self) -> float | None:
        """Half of the interval."""
        return None if self.low is None else self.value - self.low


def clip_mean(values: Sequence[float]) -> ClipMean:
    """Return the mean of one value a clip, with its interval.

    Raises
    ------
    InputError
        If there is no value.
    """
    if not values:
        raise InputError("a mean needs at least one clip")
    from scipy.special import stdtrit

    data = np.asarray(values, dtype=np.float64)
    mean = float(data.mean())
    if data.size == 1:
        return ClipMean(mean, None, None)
    half = float(stdtrit(data.size - 1, 0.975) * data.std(ddof=1) / np.sqrt(data.size))
    return ClipMean(mean, mean - half, mean + half)


@dataclass(frozen=True)
class ComparedRow:
    """Coverage and reconstruction error of one pipeline, mean over the clips.

    Attributes
    ----------
    n_tokens : mean number of output tokens of a clip
    retention_ratio : realised
    unequal_budget : on some clip, the number of tokens differs from the nominal budget
    whole : an output stands at every place of some clip, so that there is nothing to compare
    measures : names of the fields of ``Coverage`` and ``Reconstruction`` -> mean
    remarks : notes, one sentence each
    """

    label: str
    retention: float | None
    n_tokens: float
    retention_ratio: float
    unequal_budget: bool
    whole: bool
    measures: dict[str, ClipMean]
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparedPair:
    """Overlap of the tokens that two pipelines keep at one budget, mean over the clips; symmetric.

    Attributes
    ----------
    iou : of the kept places
    chance : what random sets of the same sizes would have
    adjusted_iou : 0 is chance, 1 the same set
    overlap : share of the smaller set that the larger one holds
    rank_correlation : Spearman's, of the importances of all encoder tokens; None where one of the
        two treats all tokens alike
    """

    first: str
    second: str
    retention: float | None
    iou: ClipMean
    chance: float
    adjusted_iou: ClipMean
    overlap: ClipMean
    rank_correlation: ClipMean | None


@dataclass(frozen=True)
class Comparison:
    """All rows and pairs, with means over clips.

    ``left_out`` names the rows that cannot run here, with the reason.
    """

    encoder: str
    clips: tuple[str, ...]
    n_frames: int
    grid: tuple[int, int]
    llm_grid: tuple[int, int]
    rows: tuple[ComparedRow, ...]
    pairs: tuple[ComparedPair, ...]
    left_out: dict[str, str]

    @property
    def retentions(self) -> list[float]:
        """Budgets that rows share."""
        return list(dict.fromkeys(r.retention for r in self.rows if r.retention is not None))

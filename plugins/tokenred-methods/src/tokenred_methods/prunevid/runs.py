"""From cluster labels of frames, which may alternate, to runs of frames."""

from collections.abc import Sequence
from itertools import groupby

UNASSIGNED = -1


def refine_runs(labels: Sequence[int]) -> list[int]:
    """Give the frames outside the longest runs of their label to a neighbouring run.

    A label keeps its longest run and those of the same length; one whose runs all have a single
    frame keeps none. Then, from left to right, every stretch of frames without a label joins the
    longer of the runs beside it, the left one if they are equal. Frames that have already joined
    count for the run on the left. If no label keeps a run, all frames get label 0.
    """
    runs = [(label, len(list(frames))) for label, frames in groupby(labels)]
    longest: dict[int, int] = {}
    for label, length in runs:
        longest[label] = max(length, longest.get(label, 0))
    kept = [
        (label if length == longest[label] > 1 else UNASSIGNED, length) for label, length in runs
    ]
    stretches = _joined(kept)
    refined: list[tuple[int, int]] = []
    for i, (label, length) in enumerate(stretches):
        if label == UNASSIGNED:
            left = refined[-1] if refined else (0, 0)
            right = stretches[i + 1] if i + 1 < len(stretches) else (0, 0)
            label = left[0] if left[1] >= right[1] else right[0]
        refined = _joined([*refined, (label, length)])
    return [label for label, length in refined for _ in range(length)]


def _joined(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join neighbouring runs of one label."""
    return [
        (label, sum(length for _, length in same))
        for label, same in groupby(runs, key=lambda run: run[0])
    ]

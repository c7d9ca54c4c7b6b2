"""Which frames of a video are taken: by index, by time, or at a rate."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

SAMPLINGS = ("round", "floor", "start")
BY = ("index", "time")
_APART = 0.1
"""Share of the duration by which both samplings may differ before somebody is told."""
_LATE = 1.5e-3
"""Seconds by which a frame may be late and still count as there: containers round to 1/1000."""


def sample_indices(n_source_frames: int, n_frames: int, sampling: str = "round") -> tuple[int, ...]:
    """Return ``n_frames`` indices, uniformly spread.

    Parameters
    ----------
    sampling : ``round`` and ``floor`` spread them from the first frame to the last, both included,
        and take the nearest whole numbers, or the next lower ones as LLaVA-NeXT does; ``start``
        takes the first frame of each of ``n_frames`` equal pieces, as transformers does
    """
    if sampling == "start":
        return tuple(int(index * n_source_frames / n_frames) for index in range(n_frames))
    spread = np.linspace(0, n_source_frames - 1, n_frames)
    return tuple(int(index) for index in (spread.round() if sampling == "round" else spread))


def sample_times(times: Sequence[float], n_frames: int, sampling: str = "round") -> tuple[int, ...]:
    """Return the indices of ``n_frames`` frames, uniformly spread in time.

    Parameters
    ----------
    times : seconds of every frame, which do not fall
    sampling : ``round`` takes the frames nearest to times that are spread from the first frame to
        the last, ``floor`` those on screen at these times, ``start`` those on screen when each of
        ``n_frames`` equal pieces begins
    """
    if sampling == "start":
        step = times[-1] / (len(times) - 1) if len(times) > 1 else 0.0
        wanted = np.arange(n_frames) * ((times[-1] + step) / n_frames)
    else:
        wanted = np.linspace(0, times[-1], n_frames)
    pick = _nearest if sampling == "round" else _on_screen
    return tuple(pick(times, float(each)) for each in wanted)


def rate_length(times: Sequence[float], fps: float | int) -> int:
    """Return how many frames ``sample_rate`` takes."""
    return int((times[-1] + _LATE) * fps) + 1


def sample_rate(times: Sequence[float], fps: float | int) -> tuple[int, ...]:
    """Return the indices of the frames on screen every ``1 / fps`` seconds, from the first one."""
    return tuple(_on_screen(times, n / fps) for n in range(rate_length(times, fps)))


def far_apart(times: Sequence[float], n_frames: int, sampling: str) -> str:
    """Say in a clause how sampling by index differs from that by time; empty if it does not."""
    by_index = sample_indices(len(times), n_frames, sampling)
    by_time = sample_times(times, n_frames, sampling)
    apart = max(abs(times[a] - times[b]) for a, b in zip(by_index, by_time))
    if not times[-1] or apart <= _APART * times[-1]:
        return ""
    half = bisect_right([times[each] for each in by_index], times[-1] / 2)
    return (
        f"frames do not come at a steady rate: {half} of {n_frames} samples lie in the first half "
        f"of {times[-1]:.1f} s, up to {apart:.1f} s from where sampling by time would take them"
    )


def _on_screen(times: Sequence[float], wanted: float) -> int:
    return max(bisect_right(times, wanted + _LATE) - 1, 0)


def _nearest(times: Sequence[float], wanted: float) -> int:
    after = min(bisect_left(times, wanted), len(times) - 1)
    before = max(after - 1, 0)
    return before if wanted - times[before] <= times[after] - wanted else after

"""Peak memory of a call."""

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

PROC = Path("/proc/self")
CALLS = 3
METHODS = {
    "cuda": "torch.cuda.max_memory_allocated, exact for what torch allocates",
    "cpu": "the largest resident set of this process (VmHWM in /proc/self/status, reset after "
    f"malloc_trim before the call), median of {CALLS} calls, good to a few MB",
}
"""Type of device -> how memory is measured there, and how well."""


@dataclass(frozen=True)
class PeakMemory:
    """Memory of one call.

    Attributes
    ----------
    peak_bytes : at the peak, weights included
    extra_bytes : at the peak, above what was there before the call
    """

    peak_bytes: int
    extra_bytes: int


def peak_memory(call: Callable[[], Any], device: torch.device) -> PeakMemory | None:
    """Make a call ``CALLS`` times; return the median of the peaks.

    The call should have been made before: a first call fills caches that stay. None where this
    cannot be measured (see ``METHODS``).
    """
    found = [_peak(call, device) for _ in range(CALLS)]
    known = sorted((each for each in found if each is not None), key=lambda peak: peak.extra_bytes)
    return known[len(known) // 2] if known else None


def _peak(call: Callable[[], Any], device: torch.device) -> PeakMemory | None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        peak = torch.cuda.max_memory_allocated(device)
    elif device.type == "cpu" and _trim() and _reset_peak():
        before = _resident("VmRSS")
        call()
        peak = _resident("VmHWM")
    else:
        return None
    return PeakMemory(peak, max(peak - before, 0))


def _trim() -> bool:
    """Trim malloc: freed memory that it keeps would hide growth."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # another libc, another system
        return False
    return True


def _reset_peak() -> bool:
    try:
        (PROC / "clear_refs").write_text("5")
        return _resident("VmHWM") > 0
    except OSError:
        return False


def _resident(name: str) -> int:
    """Return a line of ``/proc/self/status`` in bytes."""
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0

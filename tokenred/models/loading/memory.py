"""Free memory, and formatting of sizes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tokenred.errors import TokenredError

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def free_memory(device: torch.device) -> int | None:
    """Return the free bytes of a device, or None if unknown.

    On the CPU that is the available RAM, or less where the process may only use a part of it.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    known = [n for n in (_available(), _left_of_limit()) if n is not None]
    return min(known, default=None)


@contextmanager
def memory_errors(hint: str = "try fewer frames") -> Iterator[None]:
    """Turn out-of-memory errors of a device into one sentence with a hint."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TokenredError(f"out of memory; {hint}") from error


def size_text(n_bytes: int) -> str:
    """Return a size such as ``16.1 GB``, in powers of 1000."""
    for unit, power in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= power:
            return f"{n_bytes / power:.1f} {unit}"
    return f"{n_bytes / 1e3:.1f} kB"


def count_text(n_parameters: int) -> str:
    """Return a number of parameters such as ``8.03 B``."""
    unit, power = ("B", 1e9) if n_parameters >= 1e9 else ("M", 1e6)
    return f"{n_parameters / power:.2f} {unit}"


def _available() -> int | None:
    lines = MEMINFO.read_text().splitlines() if MEMINFO.is_file() else []
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _left_of_limit() -> int | None:
    """Return what is left of the limit of a container; cached files do not count as used."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    cached = int(facts.get("inactive_file", 0))
    return None if limit == "max" else max(int(limit) - used + cached, 0)

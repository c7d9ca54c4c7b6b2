"""Hardware, software and noise level of a measurement."""

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from tokenred.evaluation.provenance import package_version
from tokenred.kernels.native import kernels_in_use

CPUINFO = Path("/proc/cpuinfo")
MATMUL_SIZES = {"cpu": 1024, "cuda": 4096}
"""Type of device -> rows of the fixed square matmul, long enough to meet other work."""
MOST_SPREAD, MOST_DRIFT = 0.08, 0.10
"""A machine on which a fixed matmul varies by more is called noisy."""


@dataclass(frozen=True)
class Environment:
    """Hardware and software that a time depends on.

    ``kernels`` says whether Sinkhorn is plain torch or compiled, and from what, on a CPU.
    ``load_average`` is that of the last minute, at the start; None if unknown.
    """

    system: str
    cpu: str
    n_cores: int
    device: str
    dtype: str
    threads: int
    attention: str
    python: str
    torch: str
    transformers: str
    tokenred: str
    kernels: str
    load_average: float | None


def describe_environment(device: torch.device, dtype: torch.dtype, attention: str) -> Environment:
    """Return the environment of this process."""
    name = str(device)
    if device.type == "cuda":
        name = f"{name}, {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    return Environment(
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu(),
        n_cores=os.cpu_count() or 1,
        device=name,
        dtype=str(dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        attention=attention,
        python=platform.python_version(),
        torch=str(torch.__version__),
        transformers=_version("transformers"),
        tokenred=package_version(),
        kernels=kernels_in_use(),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


@dataclass(frozen=True)
class Noise:
    """Noise of the machine, from a fixed matmul timed between the answers.

    Attributes
    ----------
    median_ms : of the matmul
    spread : median absolute deviation / median
    drift : change of the median from the first half of the run to the second, as a share
    """

    median_ms: float
    spread: float
    drift: float

    @classmethod
    def of(cls, times_ms: Sequence[float]) -> "Noise":
        """Judge the times of the matmul, in order."""
        median = statistics.median(times_ms)
        spread = statistics.median(abs(ms - median) for ms in times_ms) / median
        half = (len(times_ms) + 1) // 2
        first, second = times_ms[:half], times_ms[-half:]
        drift = statistics.median(second) / statistics.median(first) - 1
        return cls(median, spread, drift)

    @property
    def noisy(self) -> bool:
        """Whether small differences should not be trusted."""
        return self.spread > MOST_SPREAD or abs(self.drift) > MOST_DRIFT

    def __str__(self) -> str:
        found = f"varied by {100 * self.spread:.0f} % and drifted by {100 * self.drift:+.0f} %"
        if self.noisy:
            return f"This machine was noisy: a fixed matmul {found}. Trust no small difference."
        return f"A fixed matmul between the answers was steady: it {found}."


def fixed_matmul(device: torch.device) -> Callable[[], None]:
    """Return a call that multiplies the same float32 matrices every time."""
    size = MATMUL_SIZES.get(device.type, min(MATMUL_SIZES.values()))
    left, right = torch.ones(2, size, size, device=device)
    out = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    return multiply


def _cpu() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"

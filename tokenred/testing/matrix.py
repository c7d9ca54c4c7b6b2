"""The conformance matrix: every model family against every check of an adapter."""

import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch

from tokenred.testing._adapters import CHECKS, adapter_checks
from tokenred.testing.models import TinyFamily


@dataclass(frozen=True)
class Result:
    """How one check of one family ended; ``fault`` is empty if it passed."""

    family: str
    check: str
    fault: str
    seconds: float


@dataclass(frozen=True)
class Matrix:
    """All results of one run, and where it ran."""

    results: tuple[Result, ...]
    transformers: str
    torch: str
    python: str
    device: str

    @property
    def passed(self) -> bool:
        """Whether every check of every family passed."""
        return not any(result.fault for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, head first: one row a check, one column a family."""
        families = list(dict.fromkeys(result.family for result in self.results))
        faults = {(result.family, result.check): result.fault for result in self.results}
        rows = [("check", *families)]
        for check in dict.fromkeys(result.check for result in self.results):
            cells = ("FAILED" if faults[family, check] else "ok" for family in families)
            rows.append((check.replace("_", " "), *cells))
        return rows


def run_matrix(
    families: Iterable[TinyFamily],
    *,
    device: str = "cpu",
    on_result: Callable[[Result], None] = lambda _: None,
) -> Matrix:
    """Run every check of every family; a fault of one stops none of the others."""
    results = []
    for family in families:
        for check in adapter_checks(family, device=device):
            start, fault = time.perf_counter(), ""
            try:
                check()
            except Exception as error:
                fault = (
                    f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
            result = Result(family.name, check.name, fault, time.perf_counter() - start)
            results.append(result)
            on_result(result)
    return Matrix(
        tuple(results),
        version("transformers"),
        torch.__version__,
        platform.python_version(),
        torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    )


def descriptions() -> Mapping[str, str]:
    """Return what each check holds, by its name."""
    return {check.__name__: (check.__doc__ or "").strip() for check in CHECKS}

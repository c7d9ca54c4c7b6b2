"""The conformance matrix: every model family against every check of an adapter."""

import json
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
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
    def place(self) -> tuple[str, ...]:
        """Versions and device, which tell one matrix from another."""
        return self.transformers, self.torch, self.device

    @property
    def passed(self) -> bool:
        """Whether every check of every family passed."""
        return not any(result.fault for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def faults(self) -> dict[tuple[str, str], str]:
        """Return (family, check) -> fault."""
        return {(result.family, result.check): result.fault for result in self.results}

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table, head first: one row a check, one column a family, - if not asked."""
        families = list(dict.fromkeys(result.family for result in self.results))
        faults = self.faults()
        rows = [("check", *families)]
        for check in dict.fromkeys(result.check for result in self.results):
            found = (faults.get((family, check)) for family in families)
            cells = ("-" if fault is None else "FAILED" if fault else "ok" for fault in found)
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
            result = Result(family.name, check.name, fault, round(time.perf_counter() - start, 1))
            results.append(result)
            on_result(result)
    return Matrix(
        tuple(results),
        version("transformers"),
        torch.__version__,
        platform.python_version(),
        torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
    )


def add_to(path: Path, matrix: Matrix) -> None:
    """Add a matrix to a JSON file; one of the same versions and device is replaced."""
    known = read(path) if path.exists() else []
    others = [each for each in known if each.place != matrix.place]
    data = [each.to_dict() for each in sorted([*others, matrix], key=lambda each: each.place)]
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> list[Matrix]:
    """Return the matrices in a JSON file."""
    return [
        Matrix(**{**each, "results": tuple(Result(**result) for result in each["results"])})
        for each in json.loads(path.read_text(encoding="utf-8"))
    ]


def descriptions() -> Mapping[str, str]:
    """Return what each check holds, by its name."""
    return {check.__name__: (check.__doc__ or "").strip() for check in CHECKS}

"""Reads golden directories: a ``cases.json`` beside safetensors files, in either index format."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

import golden


@dataclass(frozen=True)
class Tolerance:
    """How close a float output has to be; ``exact`` outputs must be equal."""

    rtol: float
    atol: float
    exact: bool = False


@dataclass(frozen=True)
class Case:
    """One golden case: inputs, parameters, expected outputs or the expected error."""

    id: str
    algorithm: str
    file: Path
    params: Mapping[str, Any]
    compare: Mapping[str, Any]
    expects_error: bool

    def tensors(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return inputs and expected outputs by their bare names."""
        stored = load_file(self.file)
        inputs = {n[3:]: t for n, t in stored.items() if n.startswith("in.")}
        outputs = {n[4:]: t for n, t in stored.items() if n.startswith("out.")}
        return inputs, outputs

    def tolerance(self, name: str, expected: Tensor) -> Tolerance:
        """Return what output ``name`` has to meet."""
        rule = self.compare
        exact = not expected.is_floating_point()
        for key in ("exact", "exact_values"):
            listed = rule.get(key, False)
            exact = exact or (listed is True if isinstance(listed, bool) else name in listed)
        own = rule.get(name, {})
        rtol = own.get("rtol", rule.get("rtol", 0.0))
        atol = own.get("atol", rule.get("atol", 1e-5))
        return Tolerance(rtol, atol, exact)


def find_cases(root: str | Path | None = None) -> list[Case]:
    """Return all cases of every ``cases.json`` at or below ``root``; all that are here if None."""
    roots = [Path(root)] if root else [Path(folder) / "data" for folder in golden.__path__]
    indexes = sorted(index for each in roots for index in each.rglob("cases.json"))
    if not indexes:
        raise FileNotFoundError(f"no cases.json in or below {root}")
    return [case for index in indexes for case in _read(index)]


def _read(index: Path) -> list[Case]:
    data = json.loads(index.read_text(encoding="utf-8"))
    algorithms = data.get("algorithms") or data["methods"]
    cases = []
    for entry in data["cases"]:
        # One index calls the algorithm "algorithm" and the paper's name "method"; the other calls
        # the algorithm "method" and states its tolerance with each case.
        algorithm = entry.get("algorithm") or entry["method"]
        compare = algorithms[algorithm].get("compare")
        if compare is None:
            moved = entry.get("max_abs_output_change_under_that") or 0.0
            compare = {"rtol": 0.0, "atol": max(1e-5, 20 * moved)}
        file = index.parent / entry["file"]
        error = entry.get("expected_error") is not None
        cases.append(Case(entry["id"], algorithm, file, entry["params"], compare, error))
    return cases

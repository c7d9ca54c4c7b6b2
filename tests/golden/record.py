"""Counts the golden cases that pass, by algorithm: ``python -m golden.record ROOT FILE``."""

import json
import sys
from collections import Counter
from pathlib import Path

from golden.algorithms import ALGORITHMS
from golden.compare import check
from golden.index import Case, find_cases
from tokenred import TokenredError


def record(root: Path) -> dict[str, dict[str, int]]:
    """Return algorithm -> how many cases there are below ``root``, and how many pass."""
    cases, passed = Counter(), Counter()
    for case in find_cases(root):
        cases[case.algorithm] += 1
        passed[case.algorithm] += passes(case)
    return {
        name: {"cases": cases[name], "passed": passed[name]}
        for name in sorted(cases)
        if name in ALGORITHMS
    }


def passes(case: Case) -> bool:
    """Return whether a case gives what the released code gave, errors among it."""
    if case.algorithm not in ALGORITHMS:
        return False
    inputs, expected = case.tensors()
    try:
        check(case, ALGORITHMS[case.algorithm](inputs, case.params), expected)
    except TokenredError:
        return case.expects_error
    except AssertionError as error:
        print(str(error).splitlines()[0], file=sys.stderr)
        return False
    return not case.expects_error


if __name__ == "__main__":
    found = record(Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, each in found.items():
        print(f"{name}: {each['passed']} of {each['cases']}")

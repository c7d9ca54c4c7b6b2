"""Every case of a golden directory; algorithms without a method here are skipped by name."""

import pytest

from golden.algorithms import ALGORITHMS
from golden.compare import check
from golden.index import Case, find_cases
from tokenred import TokenredError


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-root")
    cases = find_cases(root)
    implemented = [case for case in cases if case.algorithm in ALGORITHMS]
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", implemented, ids=[case.id for case in implemented])
    if "missing_algorithm" in metafunc.fixturenames:
        missing = sorted({case.algorithm for case in cases} - set(ALGORITHMS))
        metafunc.parametrize("missing_algorithm", missing)


def test_case_matches_released_code(case: Case) -> None:
    inputs, expected = case.tensors()
    run = ALGORITHMS[case.algorithm]
    if case.expects_error:
        with pytest.raises(TokenredError):
            run(inputs, case.params)
        return
    check(case, run(inputs, case.params), expected)


def test_algorithm_has_a_method(missing_algorithm: str) -> None:
    pytest.skip(f"no method implements {missing_algorithm} yet")

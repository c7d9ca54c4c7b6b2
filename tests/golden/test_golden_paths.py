"""No path changes a result: the cases with a Sinkhorn plan, by every implementation of it."""

from collections.abc import Iterator

import pytest

from golden.algorithms import ALGORITHMS
from golden.compare import check
from golden.index import Case, find_cases
from tokenred.kernels import paths
from tokenred.kernels.sinkhorn import paths as sinkhorn_paths

WITH_A_PLAN = (
    "aot_e2e",
    "aot_encode",
    "aot_ota_merge_step",
    "aot_sinkhorn",
    "aot_temporal_merge",
    "aot_token_merge",
)
NOTHING_TO_COUPLE = (
    "aot_encode/vtn729_keep_all",
    "aot_token_merge/keep_all",
    "aot_temporal_merge/one_frame",
)
PATHS = ("native",)
"""Each with a fixture, such as ``native_library``, that makes it run here or skips."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    root = metafunc.config.getoption("--golden-root")
    cases = find_cases(root)
    chosen = [
        case
        for case in cases
        if case.algorithm in WITH_A_PLAN
        and case.id not in NOTHING_TO_COUPLE
        and not case.expects_error
    ]
    metafunc.parametrize("case", chosen, ids=[case.id for case in chosen])


@pytest.fixture(params=PATHS)
def solved_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """Take one path; what it solved is in the list."""
    request.getfixturevalue(f"{request.param}_library")
    solved: list = []
    solve = sinkhorn_paths._foreign

    def watched(path: str, *args: object) -> object:
        found = solve(path, *args)
        if found is not None:
            solved.append(path)
        return found

    monkeypatch.setattr(sinkhorn_paths, "_foreign", watched)
    with paths.use(request.param):
        yield solved


def test_case_matches_released_code_by_every_path(case: Case, solved_by: list) -> None:
    inputs, expected = case.tensors()
    check(case, ALGORITHMS[case.algorithm](inputs, case.params), expected)
    assert set(solved_by) == {paths.wanted()}

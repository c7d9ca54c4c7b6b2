"""The golden runner itself: it must find everything, and a wrong number must fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from golden.algorithms import ALGORITHMS
from golden.compare import check
from golden.index import Case, find_cases

CASES = [case for case in find_cases() if case.algorithm in ALGORITHMS]
# The first case of each algorithm: NaN, which some later edge cases expect, cannot be corrupted.
ONE_EACH = {case.algorithm: case for case in reversed(CASES) if not case.expects_error}


def _corrupt(value: torch.Tensor, case: Case, name: str) -> torch.Tensor:
    flat = value.clone().flatten()
    if value.dtype == torch.bool:
        flat[0] = ~flat[0]
    elif value.is_floating_point():
        tolerance = case.tolerance(name, value)
        flat[0] += 3 * (tolerance.atol + tolerance.rtol * float(flat[0].abs())) + 1e-30
    else:
        flat[0] += 1
    return flat.view_as(value)


def test_every_aot_algorithm_of_the_data_is_implemented() -> None:
    named = {case.algorithm for case in find_cases() if case.algorithm.startswith("aot_")}
    assert named
    assert named <= set(ALGORITHMS)


def test_all_files_of_implemented_cases_are_there() -> None:
    assert [case.id for case in CASES if not case.file.is_file()] == []


@pytest.mark.parametrize("algorithm", sorted(ONE_EACH))
def test_any_corrupted_output_fails(algorithm: str) -> None:
    case = ONE_EACH[algorithm]
    inputs, expected = case.tensors()
    actual = ALGORITHMS[algorithm](inputs, case.params)
    check(case, actual, expected)
    for name, value in expected.items():
        if value.numel() == 0:
            continue
        wrong = {**expected, name: _corrupt(value, case, name)}
        with pytest.raises(AssertionError, match=name):
            check(case, actual, wrong)


def test_a_missing_output_fails() -> None:
    case = ONE_EACH["aot_sinkhorn"]
    _, expected = case.tensors()
    with pytest.raises(AssertionError, match="nothing computes"):
        check(case, {}, expected)


def test_another_directory_is_found_and_a_corrupted_file_fails(tmp_path: Path) -> None:
    case = ONE_EACH["aot_sinkhorn"]
    shutil.copytree(case.file.parent, tmp_path / "deep" / "set")
    broken = tmp_path / "deep" / "set" / case.file.name
    tensors = load_file(broken)
    tensors["out.T"] = tensors["out.T"] * 1.01
    save_file(tensors, broken)
    command = [sys.executable, "-m", "pytest", "tests/golden/test_golden.py"]
    command += ["--golden-root", str(tmp_path), "-q", "-rf", "-k", "aot_sinkhorn"]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout
    assert "1 failed" in result.stdout
    assert case.id in result.stdout
    assert "8 passed" in result.stdout

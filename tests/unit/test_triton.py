"""The Triton kernels in Triton's interpreter, in a process of its own.

The interpreter is chosen when a kernel is defined, and must not leak into other tests.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tokenred.kernels import triton as triton_path
from tokenred.kernels.triton import sinkhorn

TESTS = Path(__file__).parents[1]
EMPTY = torch.empty(1, 1, 1)
RULES = {"max_iter": 1, "stop": "none", "tolerance": 0.0, "last": "anchor"}


def test_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p"),
            *("no:xdist", "-W", "ignore::UserWarning:triton", str(TESTS / "triton_cases.py")),
            f"--hypothesis-profile={settings.get_current_profile_name()}",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout


def test_without_triton_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    triton_path._installed.cache_clear()
    try:
        assert not triton_path.available(EMPTY)
        assert sinkhorn.solve(EMPTY, EMPTY[0], EMPTY[0], **RULES) is None
    finally:
        triton_path._installed.cache_clear()


def test_tensors_of_the_cpu_are_left_to_torch() -> None:
    assert not triton_path.available(EMPTY)
    assert sinkhorn.solve(EMPTY, EMPTY[0], EMPTY[0], **RULES) is None

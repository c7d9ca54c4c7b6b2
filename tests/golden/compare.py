"""Compares what we computed with what the released code gave."""

from collections.abc import Mapping

import torch
from torch import Tensor

from golden.index import Case


def check(case: Case, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise AssertionError unless every expected output is there and close enough."""
    for name, wanted in expected.items():
        assert name in actual, f"{case.id}: nothing computes output '{name}'"
        got = actual[name]
        assert got.shape == wanted.shape, (
            f"{case.id}: {name} has shape {tuple(got.shape)}, expected {tuple(wanted.shape)}"
        )
        tolerance = case.tolerance(name, wanted)
        if tolerance.exact:
            assert torch.equal(got.to(wanted.dtype), wanted), f"{case.id}: {name} differs"
            continue
        torch.testing.assert_close(
            got.to(wanted.dtype),
            wanted,
            rtol=tolerance.rtol,
            atol=tolerance.atol,
            equal_nan=True,
            msg=lambda text, name=name: f"{case.id}: {name}: {text}",
        )

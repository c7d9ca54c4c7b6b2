"""Every family that tokenred serves meets the public contract of an adapter."""

import pytest

from tokenred.testing import adapter_checks
from tokenred.testing.models import FAMILIES

pytest.importorskip("transformers")

CASES = [
    pytest.param(check, id=f"{name}-{check.name}")
    for name, family in FAMILIES.items()
    for check in adapter_checks(family)
]


@pytest.mark.parametrize("check", CASES)
def test_family_meets_the_contract(check):
    check()

"""Every family that tokenred serves meets the public contract of an adapter."""

import pytest
from profiles import share

from tokenred.models.adapter import MINIMUM_TRANSFORMERS
from tokenred.testing import adapter_checks
from tokenred.testing.models import FAMILIES

transformers = pytest.importorskip("transformers")

# Half of the matrix on this transformers, the other half on the oldest one (`make test-floor`).
ON_FLOOR = transformers.__version__.startswith(f"{MINIMUM_TRANSFORMERS}.")
CASES = [
    pytest.param(check, id=f"{name}-{check.name}")
    for name, family in FAMILIES.items()
    for check in share(list(adapter_checks(family)), 2, list(FAMILIES).index(name) + ON_FLOOR)
]


@pytest.mark.parametrize("check", CASES)
def test_family_meets_the_contract(check):
    check()

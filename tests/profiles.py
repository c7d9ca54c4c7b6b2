"""How much a test tries: a part in `make test`, everything in `make test-thorough`."""

from collections.abc import Sequence
from itertools import product
from typing import Any

from hypothesis import settings

THOROUGH = "thorough"
SHARE, LEAST = 4, 4
"""One example in so many is tried by default, but no fewer than this."""


def thorough() -> bool:
    """Return whether the thorough profile is in force."""
    return settings.get_current_profile_name() == THOROUGH


def examples(n: int) -> int:
    """Return how many examples a test tries that tries ``n`` when thorough."""
    return n if thorough() else max(min(n, LEAST), n // SHARE)


def combinations(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return all combinations; by default only so many that every value of an axis occurs."""
    if thorough():
        return list(product(*axes))
    longest = max(map(len, axes))
    return [tuple(axis[n % len(axis)] for axis in axes) for n in range(longest)]


def share(values: Sequence[Any], parts: int, start: int = 0) -> list[Any]:
    """Return all values; by default one in ``parts`` of them."""
    return list(values) if thorough() else list(values[start % parts :: parts])

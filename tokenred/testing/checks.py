"""The conformance suite as pytest decorators: a plugin's test file is three lines.

::

    @parametrize_coupler_checks(NearestCoupler(NearestConfig()))
    def test_contract(check):
        check()
"""

from collections.abc import Iterable, Mapping
from typing import Any

from tokenred.interfaces import (
    Aggregator,
    AnchorSelector,
    CostTerm,
    Coupler,
    KeepDecision,
    KeepScore,
    TemporalSegmenter,
)
from tokenred.testing._aggregators import aggregator_checks
from tokenred.testing._costs import cost_term_checks
from tokenred.testing._couplers import coupler_checks
from tokenred.testing._keep import keep_checks
from tokenred.testing._run import Check
from tokenred.testing._segmenters import segmenter_checks
from tokenred.testing._selectors import selector_checks


def parametrize_coupler_checks(coupler: Coupler) -> Any:
    """Parametrise a test over the contract of a coupler."""
    return _parametrize(coupler_checks(coupler))


def parametrize_selector_checks(
    selector: AnchorSelector, *, exact: bool = True, cues: Mapping[str, int] | None = None
) -> Any:
    """Parametrise a test over the contract of a selector; see ``selector_checks``."""
    return _parametrize(selector_checks(selector, exact=exact, cues=cues))


def parametrize_aggregator_checks(aggregator: Aggregator, *, averages: bool = True) -> Any:
    """Parametrise a test over the contract of an aggregator; see ``aggregator_checks``."""
    return _parametrize(aggregator_checks(aggregator, averages=averages))


def parametrize_segmenter_checks(segmenter: TemporalSegmenter) -> Any:
    """Parametrise a test over the contract of a segmenter."""
    return _parametrize(segmenter_checks(segmenter))


def parametrize_cost_term_checks(term: CostTerm) -> Any:
    """Parametrise a test over the contract of a cost term."""
    return _parametrize(cost_term_checks(term))


def parametrize_keep_checks(strategy: KeepScore | KeepDecision) -> Any:
    """Parametrise a test over the contract of a keep score or a keep decision."""
    return _parametrize(keep_checks(strategy))


def _parametrize(checks: Iterable[Check]) -> Any:
    import pytest  # only where tests run

    found = list(checks)
    return pytest.mark.parametrize("check", found, ids=[check.name for check in found])

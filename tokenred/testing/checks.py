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
    CachePruner,
    CostTerm,
    Coupler,
    KeepDecision,
    KeepScore,
    LayerMerger,
    LayerReducer,
    TemporalSegmenter,
    TokenRanker,
)
from tokenred.testing._adapters import adapter_checks
from tokenred.testing._aggregators import aggregator_checks
from tokenred.testing._costs import cost_term_checks
from tokenred.testing._couplers import coupler_checks
from tokenred.testing._inside_ranking import merger_checks, ranker_checks
from tokenred.testing._inside_reducers import cache_pruner_checks, layer_reducer_checks
from tokenred.testing._keep import keep_checks
from tokenred.testing._run import Check
from tokenred.testing._segmenters import segmenter_checks
from tokenred.testing._selectors import selector_checks
from tokenred.testing.models import TinyFamily


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


def parametrize_ranker_checks(ranker: TokenRanker) -> Any:
    """Parametrise a test over the contract of a token ranker."""
    return _parametrize(ranker_checks(ranker))


def parametrize_merger_checks(merger: LayerMerger, *, averages: bool = True) -> Any:
    """Parametrise a test over the contract of a layer merger; see ``merger_checks``."""
    return _parametrize(merger_checks(merger, averages=averages))


def parametrize_layer_reducer_checks(reducer: LayerReducer) -> Any:
    """Parametrise a test over the contract of a layer reducer."""
    return _parametrize(layer_reducer_checks(reducer))


def parametrize_cache_pruner_checks(pruner: CachePruner) -> Any:
    """Parametrise a test over the contract of a cache pruner."""
    return _parametrize(cache_pruner_checks(pruner))


def parametrize_adapter_checks(family: TinyFamily, *, device: str = "cpu") -> Any:
    """Parametrise a test over the contract of a model family's adapter; see ``adapter_checks``."""
    return _parametrize(adapter_checks(family, device=device))


def _parametrize(checks: Iterable[Check]) -> Any:
    import pytest  # only where tests run

    found = list(checks)
    return pytest.mark.parametrize("check", found, ids=[check.name for check in found])

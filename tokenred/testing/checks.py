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
    BudgetAllocator,
    CachePruner,
    CostTerm,
    Coupler,
    FrameReference,
    KeepDecision,
    KeepScore,
    LayerMerger,
    LayerReducer,
    StaticRule,
    TemporalSegmenter,
    TokenGrouper,
    TokenRanker,
)
from tokenred.testing._adapters import adapter_checks
from tokenred.testing._aggregators import aggregator_checks
from tokenred.testing._allocators import allocator_checks
from tokenred.testing._costs import cost_term_checks
from tokenred.testing._couplers import coupler_checks
from tokenred.testing._groupers import grouper_checks
from tokenred.testing._inside_ranking import merger_checks, ranker_checks
from tokenred.testing._inside_reducers import cache_pruner_checks, layer_reducer_checks
from tokenred.testing._keep import keep_checks
from tokenred.testing._references import reference_checks
from tokenred.testing._run import Check
from tokenred.testing._segmenters import segmenter_checks
from tokenred.testing._selectors import selector_checks
from tokenred.testing._static_rules import static_rule_checks
from tokenred.testing.fields import Change, field_checks
from tokenred.testing.models import TinyFamily


def parametrize_coupler_checks(coupler: Coupler) -> Any:
    """Parametrise a test over the contract of a coupler."""
    return _parametrize(coupler_checks(coupler))


def parametrize_selector_checks(
    selector: AnchorSelector,
    *,
    exact: bool | None = None,
    least: float = 0.0,
    cues: Mapping[str, int] | None = None,
) -> Any:
    """Parametrise a test over the contract of a selector; see ``selector_checks``."""
    return _parametrize(selector_checks(selector, exact=exact, least=least, cues=cues))


def parametrize_aggregator_checks(aggregator: Aggregator, *, averages: bool | None = None) -> Any:
    """Parametrise a test over the contract of an aggregator; see ``aggregator_checks``."""
    return _parametrize(aggregator_checks(aggregator, averages=averages))


def parametrize_segmenter_checks(segmenter: TemporalSegmenter) -> Any:
    """Parametrise a test over the contract of a segmenter."""
    return _parametrize(segmenter_checks(segmenter))


def parametrize_cost_term_checks(term: CostTerm, *, cues: Mapping[str, int] | None = None) -> Any:
    """Parametrise a test over the contract of a cost term; see ``cost_term_checks``."""
    return _parametrize(cost_term_checks(term, cues=cues))


def parametrize_keep_checks(strategy: KeepScore | KeepDecision) -> Any:
    """Parametrise a test over the contract of a keep score or a keep decision."""
    return _parametrize(keep_checks(strategy))


def parametrize_reference_checks(reference: FrameReference, *, released: bool = False) -> Any:
    """Parametrise a test over the contract of a frame reference; see ``reference_checks``."""
    return _parametrize(reference_checks(reference, released=released))


def parametrize_static_rule_checks(rule: StaticRule) -> Any:
    """Parametrise a test over the contract of a static rule."""
    return _parametrize(static_rule_checks(rule))


def parametrize_allocator_checks(
    allocator: BudgetAllocator, *, cues: Mapping[str, int] | None = None
) -> Any:
    """Parametrise a test over the contract of a budget allocator; see ``allocator_checks``."""
    return _parametrize(allocator_checks(allocator, cues=cues))


def parametrize_grouper_checks(
    grouper: TokenGrouper,
    *,
    averages: bool | None = None,
    cues: Mapping[str, int] | None = None,
) -> Any:
    """Parametrise a test over the contract of a token grouper; see ``grouper_checks``."""
    return _parametrize(grouper_checks(grouper, averages=averages, cues=cues))


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


def parametrize_field_checks(changes: Mapping[str, Change], *, owner: str) -> Any:
    """Parametrise a test over the settings of a distribution's strategies; see ``field_checks``."""
    return _parametrize(field_checks(changes, owner=owner))


def _parametrize(checks: Iterable[Check]) -> Any:
    import pytest  # only where tests run

    found = list(checks)
    return pytest.mark.parametrize("check", found, ids=[check.name for check in found])

"""The conformance suite, and its pytest decorators: a plugin's test file is three lines.

::

    @parametrize_checks(NearestCoupler)
    def test_contract(check):
        check()
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from tokenred.strategy import Strategy
from tokenred.testing import (
    _aggregators,
    _allocators,
    _costs,
    _couplers,
    _groupers,
    _inside_ranking,
    _inside_reducers,
    _keep,
    _references,
    _segmenters,
    _selectors,
    _stages,
    _static_rules,
)
from tokenred.testing._adapters import adapter_checks
from tokenred.testing._run import Bodies, Check, collect
from tokenred.testing.fields import Change, field_checks
from tokenred.testing.models import TinyFamily

CONTRACTS: dict[str, Callable[[Any], Bodies]] = {
    "stage": _stages.contract,
    "selector": _selectors.contract,
    "coupler": _couplers.contract,
    "aggregator": _aggregators.contract,
    "segmenter": _segmenters.contract,
    "cost term": _costs.contract,
    "keep score": _keep.contract,
    "keep decision": _keep.contract,
    "frame reference": _references.contract,
    "static rule": _static_rules.contract,
    "budget allocator": _allocators.contract,
    "token grouper": _groupers.contract,
    "token ranker": _inside_ranking.contract,
    "layer merger": _inside_ranking.contract,
    "layer reducer": _inside_reducers.contract,
    "cache pruner": _inside_reducers.contract,
}
"""Role -> what holds for a strategy of it."""


def strategy_checks(
    strategy: Strategy | type[Strategy], *, cues: Mapping[str, int] | None = None
) -> Iterator[Check]:
    """Yield the contract of a strategy as named checks without arguments.

    Its flags say which parts hold for it: weights of what does not average need not sum to one.

    Parameters
    ----------
    strategy : or its class, if it has a default for every setting
    cues : width of cues of your own by name; 0 is one positive number a token
    """
    subject = strategy() if isinstance(strategy, type) else strategy
    bodies = (flags_have_their_types, *CONTRACTS[subject.role](subject))
    return collect(subject, bodies, cues=cues)


def flags_have_their_types(strategy: Strategy) -> None:
    """Every flag has a value of its type."""
    strategy.check_flags()


def parametrize_checks(
    strategy: Strategy | type[Strategy], *, cues: Mapping[str, int] | None = None
) -> Any:
    """Parametrise a test over the contract of a strategy; see ``strategy_checks``."""
    return _parametrize(strategy_checks(strategy, cues=cues))


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

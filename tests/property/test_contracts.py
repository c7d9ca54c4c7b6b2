"""Every registered strategy, in several settings, against the public conformance suite."""

from collections.abc import Iterator
from typing import Any

import pytest

from property.cases import subjects
from tokenred.registry import ROLES
from tokenred.testing import (
    Check,
    _run,
    aggregator_checks,
    cache_pruner_checks,
    cost_term_checks,
    coupler_checks,
    keep_checks,
    layer_reducer_checks,
    merger_checks,
    ranker_checks,
    segmenter_checks,
    selector_checks,
)

CHECKS = {
    "selector": selector_checks,
    "coupler": coupler_checks,
    "aggregator": aggregator_checks,
    "segmenter": segmenter_checks,
    "cost term": cost_term_checks,
    "keep score": keep_checks,
    "keep decision": keep_checks,
    "token ranker": ranker_checks,
    "layer merger": merger_checks,
    "layer reducer": layer_reducer_checks,
    "cache pruner": cache_pruner_checks,
}
DEFAULTS, VARIANTS = 8, 4
"""Examples of a check for a strategy as it comes, and for one of its variants."""
EXEMPT = {
    # The stop rule of the release looks at the whole batch; test_couplers holds that it does.
    ("coupler", "batch_equals_loop", "scaling-batch"),
}


def _parameters() -> Iterator[Any]:
    for role in ROLES:
        for parameter in subjects(role):
            _, strategy = parameter.values
            stop = getattr(strategy.config, "stop", None)
            for check in CHECKS[role](strategy):
                if (role, check.name, stop) not in EXEMPT:
                    examples = VARIANTS if "=" in str(parameter.id) else DEFAULTS
                    yield pytest.param(check, examples, id=f"{role}-{parameter.id}-{check.name}")


@pytest.mark.parametrize(("check", "examples"), list(_parameters()))
def test_strategy_meets_its_contract(
    check: Check, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_run, "EXAMPLES", examples)
    check()

"""Every registered strategy, in several settings, against the public conformance suite."""

from collections.abc import Iterator
from typing import Any

import pytest
from profiles import examples

from property import plugins
from property.cases import CONTRACT, CUES, REQUIRED, VARIANTS, contract, subjects
from tokenred import registry
from tokenred.registry import ROLES
from tokenred.testing import (
    Check,
    _run,
    aggregator_checks,
    allocator_checks,
    cache_pruner_checks,
    cost_term_checks,
    coupler_checks,
    grouper_checks,
    keep_checks,
    layer_reducer_checks,
    merger_checks,
    ranker_checks,
    reference_checks,
    segmenter_checks,
    selector_checks,
    static_rule_checks,
)

CHECKS = {
    "selector": selector_checks,
    "coupler": coupler_checks,
    "aggregator": aggregator_checks,
    "segmenter": segmenter_checks,
    "cost term": cost_term_checks,
    "keep score": keep_checks,
    "keep decision": keep_checks,
    "frame reference": reference_checks,
    "static rule": static_rule_checks,
    "budget allocator": allocator_checks,
    "token grouper": grouper_checks,
    "token ranker": ranker_checks,
    "layer merger": merger_checks,
    "layer reducer": layer_reducer_checks,
    "cache pruner": cache_pruner_checks,
}
READS_CUES = ("selector", "cost term", "budget allocator", "token grouper")
DEFAULTS, CHANGED = examples(8), examples(8) // 2
"""Examples of a check for a strategy as it comes, and for one of its variants."""
EXEMPT = {
    # The stop rule of the release looks at the whole batch; test_couplers holds that it does.
    ("coupler", "batch_equals_loop", "scaling-batch"),
}


def _parameters() -> Iterator[Any]:
    for role in ROLES:
        cues = {"cues": CUES} if role in READS_CUES and CUES else {}
        for parameter in subjects(role):
            _, strategy = parameter.values
            stop = getattr(strategy.config, "stop", None)
            for check in CHECKS[role](strategy, **{**cues, **contract(role, strategy.config)}):
                if (role, check.name, stop) not in EXEMPT:
                    n_examples = CHANGED if "=" in str(parameter.id) else DEFAULTS
                    if role == "cost term":  # cheap, and what is said of pairs shows in few
                        n_examples = 8
                    yield pytest.param(check, n_examples, id=f"{role}-{parameter.id}-{check.name}")


@pytest.mark.parametrize(("check", "n_examples"), list(_parameters()))
def test_strategy_meets_its_contract(
    check: Check, n_examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_run, "EXAMPLES", n_examples)
    check()


@pytest.mark.parametrize("table", [CONTRACT, REQUIRED, VARIANTS], ids=("contract", "required", "v"))
def test_rows_are_about_something_that_is_registered(table: dict[tuple[str, str], Any]) -> None:
    known = {(entry.role, entry.name) for entry in registry().entries()}
    assert set(table) <= known


def test_plugins_speak_for_themselves_only() -> None:
    homes = {(entry.role, entry.name): str(entry.strategy) for entry in registry().entries()}
    assert plugins.modules()
    for package, module in plugins.modules().items():
        for table in ("VARIANTS", "REQUIRED", "CONTRACT"):
            mine = getattr(module, table, {})
            foreign = [key for key in mine if not homes.get(key, "").startswith(f"{package}.")]
            assert not foreign, f"{package}: {table}"

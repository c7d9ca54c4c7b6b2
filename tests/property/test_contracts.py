"""Every registered strategy, in several settings, against the public conformance suite."""

from collections.abc import Iterator
from typing import Any

import pytest
from profiles import examples

from property import plugins
from property.cases import CUES, REQUIRED, VARIANTS, subjects
from tokenred import registry
from tokenred.registry import ROLES
from tokenred.testing import Check, _run, strategy_checks

DEFAULTS, CHANGED = examples(8), examples(8) // 2
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
            for check in strategy_checks(strategy, cues=CUES):
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


@pytest.mark.parametrize("table", [REQUIRED, VARIANTS], ids=("required", "variants"))
def test_rows_are_about_something_that_is_registered(table: dict[tuple[str, str], Any]) -> None:
    known = {(entry.role, entry.name) for entry in registry().entries()}
    assert set(table) <= known


def test_plugins_speak_for_themselves_only() -> None:
    homes = {(entry.role, entry.name): str(entry.strategy) for entry in registry().entries()}
    assert plugins.modules()
    for package, module in plugins.modules().items():
        for table in ("VARIANTS", "REQUIRED"):
            mine = getattr(module, table, {})
            foreign = [key for key in mine if not homes.get(key, "").startswith(f"{package}.")]
            assert not foreign, f"{package}: {table}"

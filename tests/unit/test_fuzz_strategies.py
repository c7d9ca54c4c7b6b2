"""A slice of what ``make fuzz`` does to strategies."""

from pathlib import Path

import pytest
from fuzz import strategies
from fuzz.runner import tried

SOME = ["aot-paper", "aot-released", "dycoke", "prunevid", "sparsevlm", "tome", "visionzip"]


def test_broken_strategies_are_refused_by_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "presets", lambda: SOME)
    found = {}
    for number, (name, data, given) in enumerate(strategies.cases(50, 5, tmp_path)):
        path = tmp_path / name
        path.write_bytes(data)
        found[number] = tried(strategies.STRATEGIES_KIND, path, given)
    fine = strategies.STRATEGIES_KIND.outcomes
    assert {number: what for number, what in found.items() if what not in fine} == {}
    assert list(found.values()).count("refused") > 10

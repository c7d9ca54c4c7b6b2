"""A slice of what ``make fuzz`` does to strategies."""

from pathlib import Path

from fuzz.runner import tried
from fuzz.strategies import STRATEGIES_KIND, cases


def test_broken_strategies_are_refused_by_a_sentence(tmp_path: Path) -> None:
    found = {}
    for number, (name, data, given) in enumerate(cases(150, 5, tmp_path)):
        path = tmp_path / name
        path.write_bytes(data)
        found[number] = tried(STRATEGIES_KIND, path, given)
    assert {n: what for n, what in found.items() if what not in STRATEGIES_KIND.outcomes} == {}
    assert list(found.values()).count("refused") > 40

"""Settings that fail otherwise than by a sentence: a small part of the search for them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fuzz import configs
from fuzz.configs import CONFIGS_KIND, READERS, cases
from fuzz.runner import REFUSED, tried

N = 200


def test_a_seed_says_which_settings_and_they_work_or_are_refused(tmp_path: Path) -> None:
    first, again = (list(cases(N, 7, tmp_path)) for _ in range(2))
    assert first == again
    assert {given["what"] for _, _, given in first} == set(READERS)
    counts: Counter[str] = Counter()
    for name, data, given in first:
        path = tmp_path / f"damaged{Path(name).suffix}"
        path.write_bytes(data)
        found = tried(CONFIGS_KIND, path, given)
        assert found in CONFIGS_KIND.outcomes, (found, name, given, data[:300])
        counts[found] += 1
    assert min(counts["ran"], counts["accepted"], counts[REFUSED]) > N // 60


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (TypeError("no list"), "TypeError: no list"),
        (RecursionError("deep"), "RecursionError: deep"),
        ("it is another pipeline", "it is another pipeline"),
    ],
)
def test_what_is_no_refusal_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Any, what: str
) -> None:
    def read(*_: Any) -> str:
        if isinstance(found, str):
            return found
        raise found

    monkeypatch.setitem(configs.READERS, "pipeline", read)
    outcome = tried(CONFIGS_KIND, tmp_path / "x.yaml", {"what": "pipeline"})
    assert outcome == what
    assert outcome not in CONFIGS_KIND.outcomes


def test_long_messages_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenred.errors import TokenredError

    class Chatty(TokenredError):
        def __str__(self) -> str:
            return "x" * 301

    def read(*_: Any) -> str:
        raise Chatty

    monkeypatch.setitem(configs.READERS, "set", read)
    assert tried(CONFIGS_KIND, tmp_path, {"what": "set"}).startswith("no sentence")

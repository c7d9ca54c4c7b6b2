"""Scorers of free text, by hand."""

import pytest

from tokenred.errors import ConfigError
from tokenred.evaluation.scorers import Scorer, words_of
from tokenred.plugins import registry
from tokenred.slots import build, strategy_config


def score(name: str, said: str, *answers: str) -> float:
    scorer = build(Scorer, strategy_config("scorer", name))
    assert isinstance(scorer, Scorer)
    return scorer.score(said, answers)


def test_the_built_in_scorers_come_through_the_hook() -> None:
    assert {"contains", "exact-match", "token-f1"} <= set(registry().names("scorer"))
    with pytest.raises(ConfigError, match="unknown scorer 'exact'; did you mean 'exact-match'"):
        strategy_config("scorer", "exact")


@pytest.mark.parametrize("name", ["exact-match", "contains", "token-f1"])
def test_every_scorer_says_right_and_wrong(name: str) -> None:
    assert score(name, "The man runs.", "a man runs") == 1
    assert score(name, "The man runs.", "she swims", "A MAN RUNS!") == 1  # the nearest counts
    assert score(name, "The man runs.", "she swims") == 0
    assert score(name, "", "she swims") == 0


def test_words_are_compared_without_case_punctuation_and_articles() -> None:
    assert words_of("The cat, an owl & a Dog's \uff11\uff10 \u00c4pfel!") == [
        "cat", "owl", "dog", "s", "10", "\u00e4pfel",
    ]  # fmt: skip
    assert words_of("Stra\u00dfe") == words_of("STRASSE")


def test_containing_is_by_whole_words_in_order() -> None:
    assert score("contains", "I see two red cars there", "red cars") == 1
    assert score("contains", "I see two red cars there", "cars red") == 0
    assert score("contains", "I see two red cars there", "red car") == 0
    assert score("exact-match", "I see two red cars there", "red cars") == 0


def test_an_answer_of_articles_alone_is_not_in_everything() -> None:
    assert score("contains", "two red cars", "the") == 0
    assert score("exact-match", "an", "the") == 1


@pytest.mark.parametrize(
    ("said", "answer", "expected"),
    [
        ("red car", "a red car stops", 2 * (2 / 2) * (2 / 3) / (2 / 2 + 2 / 3)),
        ("red red car", "red car", 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # a word counts once a time
        ("car", "car car", 2 * 1 * (1 / 2) / (1 + 1 / 2)),
        ("the", "a", 1.0),
    ],
)
def test_f1_by_hand(said: str, answer: str, expected: float) -> None:
    assert score("token-f1", said, answer) == pytest.approx(expected)
    assert score("token-f1", said, "nothing alike", answer) == pytest.approx(expected)

"""Scorers of free-text answers, from 0 to 1."""

import re
import unicodedata
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence

from tokenred.strategy import Strategy

_ARTICLES = frozenset(("a", "an", "the"))


class Scorer(Strategy, role="scorer"):
    """Scores a model's answer against the accepted answers."""

    @abstractmethod
    def score(self, said: str, answers: Sequence[str]) -> float:
        """Return a number from 0 (wrong) to 1 (right); ``answers`` holds at least one."""


def words_of(text: str) -> list[str]:
    """Return the words of a text without case, punctuation and English articles."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return [word for word in re.findall(r"\w+", plain) if word not in _ARTICLES]


class ExactMatch(Scorer):
    """1 if the words are those of an answer, else 0."""

    def score(self, said: str, answers: Sequence[str]) -> float:
        """Return 0 or 1."""
        return float(words_of(said) in [words_of(answer) for answer in answers])


class Contains(Scorer):
    """1 if the text contains an accepted answer, word by word, else 0."""

    def score(self, said: str, answers: Sequence[str]) -> float:
        """Return 0 or 1."""
        text = f" {' '.join(words_of(said))} "
        found = (f" {' '.join(words_of(answer))} " for answer in answers)
        return float(any(answer.strip() and answer in text for answer in found))


class TokenF1(Scorer):
    """Harmonic mean of the precision and the recall of words, against the nearest answer.

    Source
    ------
    SQuAD, arXiv 1606.05250, section 6.1. Written from the paper.
    """

    def score(self, said: str, answers: Sequence[str]) -> float:
        """Return a number from 0 to 1."""
        return max(_f1(words_of(said), words_of(answer)) for answer in answers)


def _f1(said: list[str], answer: list[str]) -> float:
    shared = sum((Counter(said) & Counter(answer)).values())
    if not shared:
        return float(said == answer)
    return 2 * shared / (len(said) + len(answer))

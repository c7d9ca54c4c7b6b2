"""Do the interval of a paired difference and the detectable difference keep their promises?

``make simulate`` (``PYTHONPATH=tests python -m simulations.paired``) runs the whole grid, a few
minutes of one core, and prints the tables of docs/concepts/statistics.md.

An answer is right if a normal variable lies below a threshold that fixes the share of right
answers. The variable is a sum of what two rows share about a video and about a question, of the
luck of one row with a video, and of noise; a difference moves the threshold of the row.
"""

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from tokenred.evaluation.statistics import PairedDifference, paired_difference, sign_flip

PAIRINGS = {"apart": (0.0, 0.3, 0.0), "alike": (0.2, 0.1, 0.5)}
"""Shares of the variance: the video, for both rows; the video, for one row; the question.

Rows that are ``apart`` share nothing, and differ in 18 % of questions at a score of 0.9, in 3.9 %
at 0.98; those that are ``alike`` in 11 % and 2.8 %.
"""

SCORES = (0.5, 0.7, 0.9, 0.98)
VIDEOS = (20, 50, 100, 200)
QUESTIONS = (1, 3, 10)
LOSSES = (0.0, 0.03)

Answers = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """One cell of the grid."""

    pairing: str
    n_questions: int
    n_videos: int
    score: float


@dataclass(frozen=True)
class Outcome:
    """Shares of experiments.

    Attributes
    ----------
    coverage : intervals that hold the truth, for each of ``LOSSES``
    power : tests that find the detectable difference that an earlier run without one stated
    unstated : runs that state none
    detectable : the median of those stated
    """

    coverage: tuple[float, ...]
    power: float
    unstated: float
    detectable: float


def grid() -> list[Setting]:
    """Return all settings."""
    return [Setting(*each) for each in product(PAIRINGS, QUESTIONS, VIDEOS, SCORES)]


def draw(
    generator: np.random.Generator, setting: Setting, losses: NDArray[np.float64]
) -> tuple[Answers, Answers]:
    """Return a row's and its reference's answers, (experiments, videos, questions) each."""
    shape = (losses.size, setting.n_videos, setting.n_questions)
    video, luck, question = PAIRINGS[setting.pairing]
    noise = 1 - video - luck - question
    shared = np.sqrt(video) * generator.standard_normal((*shape[:2], 1))
    shared = shared + np.sqrt(question) * generator.standard_normal(shape)

    def answers(score: NDArray[np.float64]) -> Answers:
        own = np.sqrt(luck) * generator.standard_normal((*shape[:2], 1))
        value = shared + own + np.sqrt(noise) * generator.standard_normal(shape)
        return value < ndtri(score)[:, None, None]

    reference = np.full(losses.size, setting.score)
    return answers(np.maximum(0.0, reference - losses)), answers(reference)


def compare(row: Answers, reference: Answers) -> list[PairedDifference]:
    """Return the comparison of each experiment; equal ones are computed once."""
    _, n_videos, n_questions = row.shape
    videos = [f"v{i // n_questions:03d}" for i in range(n_videos * n_questions)]
    known: dict[bytes, PairedDifference] = {}
    found = []
    for mine, theirs in zip(row, reference):
        pairs = 2 * mine + theirs
        key = np.sort(pairs, axis=None).tobytes() if n_questions == 1 else pairs.tobytes()
        if key not in known:
            known[key] = paired_difference(mine.ravel(), theirs.ravel(), videos)
        found.append(known[key])
    return found


def coverage(found: Iterable[PairedDifference], loss: float) -> float:
    """Return how many intervals hold the truth."""
    return float(np.mean([f.estimate.low <= -loss <= f.estimate.high for f in found]))


def power(
    generator: np.random.Generator, setting: Setting, stated: NDArray[np.float64], again: int
) -> float:
    """Return how many later runs find a loss that was stated, ``again`` runs for each."""
    row, reference = draw(generator, setting, np.repeat(stated, again))
    sums = row.sum(axis=2, dtype=np.int64) - reference.sum(axis=2, dtype=np.int64)
    return float(np.mean([sign_flip(each) <= 0.05 for each in sums]))


def simulate(setting: Setting, n_experiments: int, seed: int = 0) -> Outcome:
    """Return what comes of one setting."""
    generator = np.random.default_rng(seed)
    found = [compare(*draw(generator, setting, np.full(n_experiments, loss))) for loss in LOSSES]
    stated = [each.minimum_detectable for each in found[LOSSES.index(0.0)]]
    some = np.array([each for each in stated if each is not None])
    return Outcome(
        coverage=tuple(map(coverage, found, LOSSES)),
        power=power(generator, setting, some[:1000], again=2) if some.size else float("nan"),
        unstated=1 - some.size / n_experiments,
        detectable=float(np.median(some)) if some.size else float("nan"),
    )


def table(outcomes: dict[Setting, Outcome], text: Callable[[list[Outcome]], str]) -> str:
    """Return a Markdown table of scores and sizes; a cell has the outcomes of all pairings."""
    lines = ["| questions | videos |" + "".join(f" {score:g} |" for score in SCORES)]
    lines.append("|--:|--:|" + "--:|" * len(SCORES))
    for n_questions, n_videos in product(QUESTIONS, VIDEOS):
        cells = [
            text([outcomes[Setting(pairing, n_questions, n_videos, score)] for pairing in PAIRINGS])
            for score in SCORES
        ]
        lines.append(f"| {n_questions} | {n_videos} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the grid and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--experiments", type=int, default=2000, help="of each setting")
    n_experiments = parser.parse_args().experiments
    outcomes = {each: simulate(each, n_experiments, seed) for seed, each in enumerate(grid())}
    print("Power in %, apart / alike, and the median detectable difference in points\n")
    print(
        table(
            outcomes,
            lambda each: " / ".join(
                f"{100 * one.power:.0f} ({100 * one.detectable:.1f})" for one in each
            ),
        )
    )
    for position, loss in enumerate(LOSSES):
        print(f"\nCoverage in %, apart / alike, for a true loss of {100 * loss:g} points\n")
        print(
            table(
                outcomes,
                lambda each, at=position: " / ".join(
                    f"{100 * one.coverage[at]:.1f}" for one in each
                ),
            )
        )
    print(
        f"\nNo difference stated: at most {100 * max(o.unstated for o in outcomes.values()):.1f} %"
    )


if __name__ == "__main__":
    main()

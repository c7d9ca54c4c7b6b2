"""Samples on which the rows disagree most, with frames and all answers."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from tokenred.evaluation.store import Record, StoredAnswer
from tokenred.evaluation.task import Question, Sample

MAX_QUESTIONS = 3
"""Questions of a sample that stand open, the most disputed; the rest is folded."""

MAX_FRAMES = 8
THUMBNAIL_HEIGHT = 96
"""Pixels; smaller frames keep their size."""

LOSSLESS_HEIGHT = 64
"""Frames up to this many pixels high are stored as PNG, larger ones as JPEG."""


@dataclass(frozen=True)
class Given:
    """One answer and the rows that gave it, as positions in ``Explorer.labels``.

    ``score`` is None without a label.
    """

    text: str
    score: float | None
    rows: tuple[int, ...]

    @property
    def verdict(self) -> Literal["right", "wrong", "unknown"]:
        """Whether the score is at least one half."""
        if self.score is None:
            return "unknown"
        return "right" if self.score >= 0.5 else "wrong"


@dataclass(frozen=True)
class ShownQuestion:
    """A question with the answers of all rows; ``prompt`` is empty if the task was not rebuilt."""

    number: int
    kind: str
    prompt: str
    options: tuple[str, ...]
    accepted: tuple[str, ...]
    answers: tuple[Given, ...]


@dataclass(frozen=True)
class Frame:
    """A thumbnail as a data URI, with its place in the video."""

    uri: str
    name: str


@dataclass(frozen=True)
class ShownSample:
    """One sample; ``frames`` is empty if the task was not rebuilt. ``others`` are folded away."""

    id: str
    frames: tuple[Frame, ...]
    questions: tuple[ShownQuestion, ...]
    others: tuple[ShownQuestion, ...]


@dataclass(frozen=True)
class Explorer:
    """What the explorer shows; ``note`` says what is missing, and why."""

    labels: tuple[str, ...]
    samples: tuple[ShownSample, ...]
    kinds: tuple[str, ...]
    n_samples: int
    note: str = ""

    @property
    def labelled(self) -> bool:
        """Whether any question has a label."""
        asked = (q for sample in self.samples for q in (*sample.questions, *sample.others))
        return any(given.score is not None for question in asked for given in question.answers)


def explore(
    records: Mapping[str, Sequence[Record]],
    samples: Mapping[str, Sample],
    n_shown: int,
    note: str = "",
) -> Explorer:
    """Return the samples of most disagreement with the answers of every row.

    Parameters
    ----------
    records : label of a row -> its answers to all samples
    samples : id -> sample with its frames, for those that can be rebuilt; see :func:`most_disputed`
    n_shown : how many samples to show at most
    note : said above the samples, such as why there are no frames
    """
    labels = tuple(records)
    answers = _by_question(records)
    chosen = most_disputed(records, n_shown)
    shown = tuple(_shown_sample(id_, answers[id_], samples.get(id_)) for id_ in chosen)
    kinds = tuple(dict.fromkeys(q.kind for s in shown for q in (*s.questions, *s.others)))
    return Explorer(labels, shown, kinds, len(answers), note)


def most_disputed(records: Mapping[str, Sequence[Record]], n_shown: int) -> list[str]:
    """Return the ids of the samples on which rows disagree most, most disputed first.

    Disagreement about a question is the chance that two rows drawn at random differ in their score,
    or in their answer without labels; a sample's is the sum over its questions. Samples on which
    all rows agree are left out.
    """
    disputes = {
        id_: sum(_dispute([answer for _, answer in given]) for given in questions.values())
        for id_, questions in _by_question(records).items()
    }
    order = sorted((id_ for id_ in disputes if disputes[id_] > 0), key=lambda id_: -disputes[id_])
    return order[:n_shown]


def thumbnail(frame: np.ndarray | Tensor) -> str:
    """Return one frame, uint8 (height, width, 3), as a small data URI."""
    from PIL import Image

    image = Image.fromarray(np.asarray(frame))
    if image.height > THUMBNAIL_HEIGHT:
        width = max(1, round(image.width * THUMBNAIL_HEIGHT / image.height))
        image = image.resize((width, THUMBNAIL_HEIGHT))
    lossless = image.height <= LOSSLESS_HEIGHT
    data = io.BytesIO()
    if lossless:
        image.save(data, "PNG", optimize=True)
    else:
        image.save(data, "JPEG", quality=78)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


_Questions = dict[int, list[tuple[int, StoredAnswer]]]
"""Number of a question -> the position of each row and its answer."""


def _by_question(records: Mapping[str, Sequence[Record]]) -> dict[str, _Questions]:
    found: dict[str, _Questions] = {}
    for position, mine in enumerate(records.values()):
        for record in mine:
            questions = found.setdefault(record.sample_id, {})
            questions.setdefault(record.question_no, []).append((position, record.answer))
    return found


def _dispute(answers: Sequence[StoredAnswer]) -> float:
    sides = Counter(a.answer if a.score is None else f"score {a.score:g}" for a in answers)
    total = sum(sides.values())
    return 1 - sum((count / total) ** 2 for count in sides.values())


def _shown_sample(id_: str, questions: _Questions, sample: Sample | None) -> ShownSample:
    asked = sample.questions if sample is not None else ()
    disputes = {n: _dispute([a for _, a in given]) for n, given in questions.items()}
    order = sorted(questions, key=lambda n: (-disputes[n], n))
    shown = [_shown_question(n, questions[n], asked[n] if n < len(asked) else None) for n in order]
    n_open = sum(dispute > 0 for dispute in disputes.values())
    n_open = min(n_open, MAX_QUESTIONS)
    frames = () if sample is None else _frames(sample)
    return ShownSample(id_, frames, tuple(shown[:n_open]), tuple(shown[n_open:]))


def _shown_question(
    number: int, given: Sequence[tuple[int, StoredAnswer]], question: Question | None
) -> ShownQuestion:
    groups: dict[tuple[str, float | None], list[int]] = {}
    for position, answer in given:
        groups.setdefault((answer.answer, answer.score), []).append(position)
    order = sorted(groups.items(), key=lambda item: (-(item[0][1] or 0), -len(item[1])))
    return ShownQuestion(
        number=number,
        kind=given[0][1].kind,
        prompt="" if question is None else question.prompt,
        options=() if question is None else tuple(question.options),
        accepted=() if question is None else tuple(question.answers),
        answers=tuple(Given(text, score, tuple(rows)) for (text, score), rows in order),
    )


def _frames(sample: Sample) -> tuple[Frame, ...]:
    n_frames = len(sample.frames)
    n_shown = min(n_frames, MAX_FRAMES)
    places = [round(i * (n_frames - 1) / max(n_shown - 1, 1)) for i in range(n_shown)]
    times = sample.frame_times
    return tuple(
        Frame(
            thumbnail(sample.frames[i]),
            f"frame {sample.frame_indices[i]}, {float(times[i]):.1f} s",
        )
        for i in places
    )

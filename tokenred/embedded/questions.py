"""Questions about a generated video, with single-word answers from explicit option lists.

A question that names an object ends with its name: the small model answers at the last
word, and does not learn in reasonable time to carry a name over to a question mark.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenred.embedded.drawing import COLORS
from tokenred.embedded.scenes import DIRECTIONS, MAX_OBJECTS, Scene, SceneObject
from tokenred.errors import InputError

SPECIAL_TOKENS = ("<pad>", "<unk>", "<image>", "<video>", "<eos>")
_QUESTION_WORDS = (
    "what", "digit", "is", "color", "which", "way", "moves", "how", "many", "digits",
    "appears", "first", "or", "the", "cut",
)  # fmt: skip
_DIGITS = tuple(str(number) for number in range(10))
_SIDES = ("before", "after")
VOCABULARY: tuple[str, ...] = (
    *SPECIAL_TOKENS, *_QUESTION_WORDS, *_DIGITS, *COLORS, *DIRECTIONS, *_SIDES,
)  # fmt: skip
"""All words of the tokenizer; the position of a word is its token id."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "digit": _DIGITS,
    "color": tuple(COLORS),
    "direction": tuple(DIRECTIONS),
    "count": tuple(str(number) for number in range(1, MAX_OBJECTS + 1)),
    "order": tuple(COLORS),
    "cut": _SIDES,
}
"""Answer options of every question kind."""

KINDS: dict[str, float] = {kind: 1.0 / len(options) for kind, options in OPTIONS.items()}
"""Question kinds and their chance level, the accuracy of a uniform guess among the options."""

_MIN_FRAMES_FOR_DIRECTION = 3


@dataclass(frozen=True)
class EmbeddedQuestion:
    """One question about a video.

    Attributes
    ----------
    kind : str
        A key of ``KINDS`` of its task.
    words : tuple of str
        The question, one word of its task's ``VOCABULARY`` each.
    answer : str
        The right option.
    options : tuple of str
        All answers that are allowed.
    """

    kind: str
    words: tuple[str, ...]
    answer: str
    options: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """The question as text."""
        return " ".join(self.words)


def _make(kind: str, text: str, answer: object) -> EmbeddedQuestion:
    return EmbeddedQuestion(kind, tuple(text.split()), str(answer), OPTIONS[kind])


def _object_questions(item: SceneObject, cut: int | None) -> list[EmbeddedQuestion]:
    """Questions about one object."""
    questions = [
        _make("digit", f"what digit is {item.color}", item.digit),
        _make("color", f"what color is {item.digit}", item.color),
    ]
    if len(item.corners) >= _MIN_FRAMES_FOR_DIRECTION:
        text = f"which way moves {item.color}"
        questions.append(_make("direction", text, item.direction))
    if cut is not None and (item.last < cut or item.first >= cut):
        text = f"before or after the cut is {item.color}"
        questions.append(_make("cut", text, _SIDES[item.first >= cut]))
    return questions


def generate_questions(scene: Scene) -> tuple[EmbeddedQuestion, ...]:
    """All questions that the ground truth of ``scene`` answers without ambiguity."""
    questions = [_make("count", "how many digits", len(scene.objects))]
    if len(scene.objects) > 1 and scene.objects[0].first < scene.objects[1].first:
        text = "which color appears first"
        questions.append(_make("order", text, scene.objects[0].color))
    for item in scene.objects:
        questions.extend(_object_questions(item, scene.cut))
    return tuple(questions)


def in_its_words(question: str) -> str:
    """Return a question in words of the model: in small letters, without its mark.

    Raises
    ------
    InputError
        If the model does not know a word.
    """
    words = question.lower().replace("?", " ").split()
    unknown = sorted({word for word in words if word not in VOCABULARY})
    if unknown or not words:
        what = ", ".join(map(repr, unknown)) or "an empty question"
        raise InputError(
            f"the embedded model does not know {what}; it can be asked, for example: what digit is "
            "red; what color is 7; which way moves blue; how many digits; which color appears first"
        )
    return " ".join(words)

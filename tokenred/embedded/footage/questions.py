"""Questions about a generated video, with single-word answers from explicit option lists.

There are fifteen kinds in four groups, fixed before any method was run on them; none is dropped
for what a method does with it. Within a kind all answers are equally frequent, so that nothing can
be guessed without the video.
"""

from __future__ import annotations

import numpy as np

from tokenred.embedded.footage.drawing import (
    BACKDROPS,
    COLORS,
    FRAME_SIZE,
    LIGHTS,
    SHAPES,
    TEXTURES,
    WEATHERS,
)
from tokenred.embedded.footage.scenes import (
    CHANGES,
    DIRECTIONS,
    MAX_OBJECTS,
    PHOTO_SHARE,
    SIZES,
    SPEEDS,
    FootageObject,
    FootageScene,
)
from tokenred.embedded.questions import SPECIAL_TOKENS, EmbeddedQuestion

_PLACES = ("topleft", "topright", "bottomleft", "bottomright")
_SIDES = ("start", "end")
OPTIONS: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "texture": TEXTURES,
    "count": tuple(str(number) for number in range(1, MAX_OBJECTS + 1)),
    "where": _PLACES,
    "size": tuple(SIZES),
    "direction": tuple(DIRECTIONS),
    "order": tuple(COLORS),
    "change": CHANGES,
    "cut": ("yes", "no"),
    "speed": tuple(SPEEDS),
    "backdrop": BACKDROPS,
    "weather": WEATHERS,
    "light": LIGHTS,
    "camera": ("rests", "moves"),
}
"""Answer options of every question kind."""

GROUPS: dict[str, tuple[str, ...]] = {
    "what is there": ("shape", "color", "texture"),
    "how many and where": ("count", "where", "size"),
    "what happens over time": ("direction", "order", "change", "cut", "speed"),
    "background and scene": ("backdrop", "weather", "light", "camera"),
}
KINDS: dict[str, float] = {kind: 1.0 / len(options) for kind, options in OPTIONS.items()}
"""Question kinds and their chance level, the accuracy of a uniform guess among the options."""

_TEMPLATES = {
    "shape": "which shape is {}",
    "color": "which color is {}",
    "texture": "which texture is {}",
    "count": "how many objects",
    "where": "where ends {}",
    "size": "how large is {}",
    "direction": "which way moves {}",
    "order": "which color appears first",
    "change": "what does {}",
    "cut": "is there a cut",
    "speed": "how fast is {}",
    "backdrop": "what backdrop at the {}",
    "weather": "what weather is it",
    "light": "what does the light",
    "camera": "what does the camera",
}


def _vocabulary() -> tuple[str, ...]:
    """Every word once, special tokens first."""
    words = [word for text in _TEMPLATES.values() for word in text.split() if word != "{}"]
    names = (*COLORS, *SHAPES, *_SIDES)
    answers = [option for options in OPTIONS.values() for option in options]
    return tuple(dict.fromkeys((*SPECIAL_TOKENS, *words, *names, *answers)))


VOCABULARY = _vocabulary()
"""All words of the tokenizer; the position of a word is its token id."""

_MIN_DISPLACEMENT = 27.0  # pixels, for a question about the direction
_MIN_OFF_CENTRE = 10.0  # pixels, for a question about the place
_KEEP_PHOTO = (1 - PHOTO_SHARE) / (len(BACKDROPS) - 1) / PHOTO_SHARE


def _make(kind: str, answer: object, about: str = "") -> EmbeddedQuestion:
    words = _TEMPLATES[kind].format(about).split()
    return EmbeddedQuestion(kind, tuple(words), str(answer), OPTIONS[kind])


def _object_questions(item: FootageObject) -> list[EmbeddedQuestion]:
    """Questions about one object."""
    questions = [
        _make("shape", item.shape, item.color),
        _make("color", item.color, item.shape),
        _make("texture", item.texture, item.color),
        _make("size", item.size_class, item.color),
        _make("change", item.change, item.color),
        _make("speed", item.speed, item.color),
    ]
    x, y = (place - FRAME_SIZE / 2 for place in item.path[-1])
    if min(abs(x), abs(y)) >= _MIN_OFF_CENTRE:
        place = _PLACES[2 * int(y > 0) + int(x > 0)]
        questions.append(_make("where", place, item.color))
    if item.displacement >= _MIN_DISPLACEMENT:
        questions.append(_make("direction", item.direction, item.color))
    return questions


def _scene_questions(rng: np.random.Generator, scene: FootageScene) -> list[EmbeddedQuestion]:
    """Questions about the whole video."""
    questions = [
        _make("count", len(scene.objects)),
        _make("cut", "no" if scene.cut is None else "yes"),
        _make("weather", scene.weather),
        _make("light", scene.light),
    ]
    if scene.camera_moves is not None:
        questions.append(_make("camera", "moves" if scene.camera_moves else "rests"))
    started = sorted(scene.objects, key=lambda item: item.first)
    if len(started) > 1 and started[0].first < started[1].first:
        questions.append(_make("order", started[0].color))
    for side, backdrop in zip(_SIDES, scene.backdrops, strict=True):
        if backdrop != "photo" or rng.random() < _KEEP_PHOTO:  # all answers equally frequent
            questions.append(_make("backdrop", backdrop, side))
    return questions


def ask_about(scene: FootageScene, seed: int = 0) -> tuple[EmbeddedQuestion, ...]:
    """All questions that the ground truth of ``scene`` answers without ambiguity."""
    questions = _scene_questions(np.random.default_rng([seed, 1]), scene)
    for item in scene.objects:
        questions.extend(_object_questions(item))
    return tuple(questions)


def choose_questions(
    questions: tuple[EmbeddedQuestion, ...], seed: int
) -> tuple[EmbeddedQuestion, ...]:
    """One question of each kind that a video has, in the order of :data:`KINDS`."""
    rng = np.random.default_rng([seed, 2])
    chosen = []
    for kind in KINDS:
        found = [question for question in questions if question.kind == kind]
        if found:
            chosen.append(found[rng.integers(len(found))])
    return tuple(chosen)

"""Generated videos over photographs and clips, for the model with a pre-trained vision tower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tokenred.embedded.footage.drawing import FRAME_SIZE, NUM_FRAMES
from tokenred.embedded.footage.questions import (
    GROUPS,
    KINDS,
    OPTIONS,
    VOCABULARY,
    ask_about,
    choose_questions,
)
from tokenred.embedded.footage.scenes import FootageObject, FootageScene, lay_out_scene
from tokenred.embedded.footage.sources import SPLITS
from tokenred.embedded.questions import EmbeddedQuestion

__all__ = [
    "FRAME_SIZE",
    "GROUPS",
    "KINDS",
    "NUM_FRAMES",
    "OPTIONS",
    "SPLITS",
    "VOCABULARY",
    "FootageObject",
    "FootageSample",
    "FootageScene",
    "ask_about",
    "choose_questions",
    "generate_footage",
    "lay_out_scene",
]


@dataclass(frozen=True)
class FootageSample:
    """A generated video with its questions.

    Attributes
    ----------
    index : int
        Number of the video in its split.
    split : str
        ``"train"`` or ``"test"``.
    scene : FootageScene
        Pixels and ground truth.
    questions : tuple of EmbeddedQuestion
        All questions the ground truth answers.
    asked : tuple of EmbeddedQuestion
        One of each kind, which evaluation asks.
    """

    index: int
    split: str
    scene: FootageScene
    questions: tuple[EmbeddedQuestion, ...]
    asked: tuple[EmbeddedQuestion, ...]

    @property
    def frames(self) -> np.ndarray:
        """RGB pixels, uint8 of shape (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)."""
        return self.scene.frames


def generate_footage(index: int, split: str = "test", seed: int = 0) -> FootageSample:
    """Generate one video and its questions; the same arguments give the same sample."""
    scene = lay_out_scene(index, split=split, seed=seed)
    number = (2 * index + SPLITS.index(split)) + (seed << 40)
    questions = ask_about(scene, number)
    return FootageSample(index, split, scene, questions, choose_questions(questions, number))

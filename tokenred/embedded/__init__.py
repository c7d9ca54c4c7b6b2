"""A small trained video LLM and a generated video-question task, both shipped with tokenred.

Nothing here needs a download. Heavy dependencies are imported when a function is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tokenred.embedded.drawing import FRAME_SIZE, GRID_SIZE, PATCH_SIZE, SPLITS
from tokenred.embedded.preprocessing import to_pixel_values
from tokenred.embedded.questions import (
    KINDS,
    OPTIONS,
    VOCABULARY,
    EmbeddedQuestion,
    generate_questions,
    in_its_words,
)
from tokenred.embedded.scenes import NUM_FRAMES, Scene, SceneObject, generate_scene

if TYPE_CHECKING:
    from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

MODEL_DIR = Path(__file__).resolve().parent / "model"
"""Folder with the weights, the tokenizer and the model card."""

__all__ = [
    "FRAME_SIZE",
    "GRID_SIZE",
    "KINDS",
    "MODEL_DIR",
    "NUM_FRAMES",
    "OPTIONS",
    "PATCH_SIZE",
    "SPLITS",
    "VOCABULARY",
    "EmbeddedQuestion",
    "EmbeddedSample",
    "Scene",
    "SceneObject",
    "generate_questions",
    "generate_sample",
    "generate_scene",
    "in_its_words",
    "load_embedded_model",
    "load_tokenizer",
    "to_pixel_values",
]


@dataclass(frozen=True)
class EmbeddedSample:
    """A generated video with its questions.

    Attributes
    ----------
    index : int
        Number of the video in its split.
    split : str
        ``"train"`` or ``"test"``.
    scene : Scene
        Pixels and ground truth.
    questions : tuple of EmbeddedQuestion
        All questions the ground truth answers.
    """

    index: int
    split: str
    scene: Scene
    questions: tuple[EmbeddedQuestion, ...]

    @property
    def frames(self) -> np.ndarray:
        """RGB pixels, uint8 of shape (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)."""
        return self.scene.frames


def generate_sample(index: int, split: str = "test", seed: int = 0) -> EmbeddedSample:
    """Generate one video and its questions; the same arguments give the same sample."""
    scene = generate_scene(index, split=split, seed=seed)
    return EmbeddedSample(index, split, scene, generate_questions(scene))


def load_embedded_model(
    path: str | Path = MODEL_DIR, **options: object
) -> LlavaOnevisionForConditionalGeneration:
    """Load the trained model in float32 and evaluation mode.

    Parameters
    ----------
    path : str or Path
        Folder written by ``save_pretrained``; the shipped model by default.
    **options
        Passed to ``from_pretrained``, for example ``attn_implementation="eager"``.
    """
    import torch
    from transformers import LlavaOnevisionForConditionalGeneration

    options.setdefault("dtype", torch.float32)
    return LlavaOnevisionForConditionalGeneration.from_pretrained(path, **options).eval()


def load_tokenizer(path: str | Path = MODEL_DIR) -> PreTrainedTokenizerFast:
    """Load the word-level tokenizer of the shipped model."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(path)

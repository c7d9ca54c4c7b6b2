"""Tasks: videos with questions whose answer is one of a few options."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import InputError


@dataclass(frozen=True)
class Question:
    """One question with the options that may answer it; ``answer`` is the right one."""

    kind: str
    prompt: str
    options: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Sample:
    """One video with its questions, ready for a model.

    Attributes
    ----------
    id : unique inside the task, stable over time
    pixel_values : (frames, 3, height, width), preprocessed
    frame_indices : which frames of the source video these are
    frame_times : (frames,) seconds
    questions : at least one
    """

    id: str
    pixel_values: Float[Tensor, "frames 3 height width"]
    frame_indices: tuple[int, ...]
    frame_times: Float[Tensor, "frames"]
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError(f"sample '{self.id}' has no question")


@runtime_checkable
class Task(Protocol):
    """A collection of samples, by index.

    Attributes
    ----------
    name : as printed in tables
    fingerprint : changes whenever a sample could; results are only compared under one fingerprint
    kinds : kind of question -> chance level, the accuracy of a guess
    n_samples : how many samples there are
    calibration : indices that lie apart from all evaluated ones, for what a method tunes
    """

    name: str
    kinds: Mapping[str, float]
    n_samples: int
    calibration: Sequence[int]

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the samples."""
        ...

    def sample_id(self, index: int) -> str:
        """Return the id of a sample without making the sample."""
        ...

    def sample(self, index: int) -> Sample:
        """Return a sample; the same index always gives the same one."""
        ...


class EmbeddedTask:
    """The generated video questions that ship with tokenred, on held-out digits and scenes.

    Parameters
    ----------
    seed : of the collection

    Notes
    -----
    Evaluation counts the test split up from ``FIRST``; the videos before it were looked at while
    the model was made. Calibration starts at ``CALIBRATION_START``, which no evaluation reaches.
    """

    FIRST = 1000
    CALIBRATION_START = 1_000_000
    N_CALIBRATION = 32

    name = "embedded"
    n_samples = CALIBRATION_START - FIRST

    def __init__(self, seed: int = 0) -> None:
        from tokenred.embedded import KINDS

        self.seed = seed
        self.kinds: Mapping[str, float] = dict(KINDS)
        start = self.n_samples
        self.calibration: Sequence[int] = range(start, start + self.N_CALIBRATION)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the generator's sources, its seed, and one sample as it comes out here.

        The sample stands for what the sources do not show: the versions of the libraries that draw.
        """
        import tokenred.embedded

        digest = hashlib.sha256(f"{self.name} {self.seed}".encode())
        for source in sorted(Path(tokenred.embedded.__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        example = self.sample(0)
        digest.update(np.ascontiguousarray(example.pixel_values.numpy()).tobytes())
        digest.update(repr(example.questions).encode())
        return digest.hexdigest()[:12]

    def sample_id(self, index: int) -> str:
        """Return ``test/NUMBER``, the number of the video in the test split."""
        return f"test/{self.FIRST + index:07d}"

    def sample(self, index: int) -> Sample:
        """Generate a sample."""
        import torch

        from tokenred.embedded import generate_sample, to_pixel_values

        video = generate_sample(self.FIRST + index, split="test", seed=self.seed)
        n_frames = len(video.frames)
        return Sample(
            id=self.sample_id(index),
            pixel_values=to_pixel_values(video.frames),
            frame_indices=tuple(range(n_frames)),
            frame_times=torch.arange(n_frames, dtype=torch.float32),
            questions=tuple(
                Question(q.kind, q.prompt, tuple(q.options), q.answer) for q in video.questions
            ),
        )

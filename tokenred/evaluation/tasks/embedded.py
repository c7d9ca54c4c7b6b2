"""The generated video questions that ship with tokenred."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import Field

from tokenred.config import StrategyConfig
from tokenred.evaluation.task import Answering, Question, Sample, Task, score_option


class EmbeddedTaskConfig(StrategyConfig):
    """Settings of the embedded task."""

    seed: int = Field(0, ge=0, le=2**63 - 1, description="of the collection of videos")
    answering: Answering = Field(
        "likelihood", description="likeliest option, or the option that the model writes"
    )


class EmbeddedTask(Task):
    """Questions about generated videos of moving digits, held out from training.

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
    max_new_tokens = 1

    config: EmbeddedTaskConfig

    def __init__(self, config: EmbeddedTaskConfig | None = None) -> None:
        from tokenred.embedded import KINDS

        super().__init__(config or EmbeddedTaskConfig(name=self.name))
        self.answering: Answering = self.config.answering
        self.kinds: Mapping[str, float] = dict(KINDS)
        start = self.n_samples
        self.calibration: Sequence[int] = range(start, start + self.N_CALIBRATION)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the generator's sources, its settings, and one generated sample.

        The sample covers the versions of the drawing libraries.
        """
        import tokenred.embedded

        digest = hashlib.sha256(self.config.model_dump_json().encode())
        for source in sorted(Path(tokenred.embedded.__file__).parent.glob("*.py")):
            digest.update(source.read_bytes())
        example = self.sample(0)
        digest.update(example.frames.numpy().tobytes())
        digest.update(repr(example.questions).encode())
        return digest.hexdigest()[:12]

    def sample_id(self, index: int) -> str:
        """Return ``test/NUMBER``, the number of the video in the test split."""
        return f"test/{self.FIRST + index:07d}"

    def sample(self, index: int) -> Sample:
        """Generate a sample."""
        import torch

        from tokenred.embedded import generate_sample

        video = generate_sample(self.FIRST + index, split="test", seed=self.config.seed)
        n_frames = len(video.frames)
        return Sample(
            id=self.sample_id(index),
            frames=torch.from_numpy(video.frames),
            frame_indices=tuple(range(n_frames)),
            frame_times=torch.arange(n_frames, dtype=torch.float32),
            questions=tuple(
                Question(q.kind, q.prompt, tuple(q.options), (q.answer,)) for q in video.questions
            ),
        )

    def score(self, question: Question, said: str) -> float | None:
        """Return 1 for the right option, 0 for another."""
        return score_option(question, said)

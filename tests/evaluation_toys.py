"""A task and a model that answer in microseconds, for tests of the runner and the store.

``work`` runs the toy ablation for a process of its own, which a test can kill; so does
``python -m tests.evaluation_toys STORE N_SAMPLES SECONDS VERSION``.
"""

import sqlite3
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from tokenred.accounting import LlmShape
from tokenred.config import StrategyConfig
from tokenred.evaluation import runner
from tokenred.evaluation.ablation import Ablation, load_ablation
from tokenred.evaluation.model import Answer
from tokenred.evaluation.runner import PlannedRow, Progress, plan, run_ablation
from tokenred.evaluation.store import Store
from tokenred.evaluation.task import Answering, Question, Sample, Task, score_option
from tokenred.evaluation.worker import InProcess, Worker
from tokenred.pipeline import Pipeline
from tokenred.types import ReducedTokens, VisualTokens

FRAMES, SIDE, DIM = 8, 6, 8
COLOURS = ("red", "green", "blue")

ABLATION = {
    "name": "toy",
    "rows": {
        "AOT": None,
        "top attention": {"pipeline": "top-attention"},
        "another seed": {"pipeline": "random", "set": {"seed": 1}},
        "two frames": {"pipeline": "downsample", "frames": 2},
    },
}


class ToyTask(Task):
    """Noise with one colour a little brighter: which one, and is it the same as at the start?"""

    name = "toy"
    fingerprint = "toy-1"
    kinds = {"colour": 1 / 3, "red": 1 / 2}
    n_samples = 1000
    calibration = range(900, 904)
    answering: Answering = "likelihood"
    max_new_tokens = 1

    def __init__(self, config: StrategyConfig | None = None) -> None:
        super().__init__(config or StrategyConfig(name="toy"))

    def sample_id(self, index: int) -> str:
        return f"toy/{index:03d}"

    def sample(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        frames = 100 + 20 * torch.randn(FRAMES, SIDE, SIDE, 3, generator=generator)
        colour = int(torch.randint(3, (), generator=generator))
        frames[..., colour] += 5
        return Sample(
            id=self.sample_id(index),
            frames=frames.clamp(0, 255).to(torch.uint8),
            frame_indices=tuple(range(0, 10 * FRAMES, 10)),
            frame_times=torch.arange(FRAMES, dtype=torch.float32),
            questions=(
                Question("colour", "which colour ?", COLOURS, (COLOURS[colour],)),
                Question("red", "is it red ?", ("yes", "no"), ("yes" if colour == 0 else "no",)),
            ),
        )

    def score(self, question: Question, said: str) -> float | None:
        return score_option(question, said)


@dataclass(frozen=True)
class ToyEncoded:
    """What pipelines reduce, where the runner looks for it."""

    clip: Any


class ToyModel:
    """Reads the brightness of the colours off the mean token. Counts how often it encodes."""

    name = "toy model"
    revision = "toy-weights-1"
    shape = LlmShape(hidden_size=DIM, ffn_size=3 * DIM, n_layers=2)

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.n_encoded = 0

    def check(self, needs: Collection[str]) -> None:
        pass

    def encode(self, sample: Sample, needs: Collection[str]) -> ToyEncoded:
        time.sleep(self.seconds)
        self.n_encoded += 1
        features = (sample.frames.float() / 20 - 5).flatten(1, 2)
        features = torch.nn.functional.pad(features, (0, DIM - 3), value=0.1)
        cues = {name: features.abs().sum(-1) for name in needs}
        tokens = VisualTokens.of(
            features,
            (SIDE, SIDE),
            frame_times=sample.frame_times,
            cues=cues,
            native_pool="bilinear",
        )
        return ToyEncoded(SimpleNamespace(tokens=tokens))

    def reduce(
        self, encoded: ToyEncoded, pipeline: Pipeline, generator: torch.Generator
    ) -> ReducedTokens:
        reduced = pipeline.run(encoded.clip.tokens, generator=generator)
        return replace(reduced, realised=replace(reduced.realised, newline_tokens=1))

    def answers(
        self,
        encoded: ToyEncoded,
        reduced: ReducedTokens,
        sample: Sample,
        pipeline: Pipeline,
        answering: Answering,
        max_new_tokens: int,
    ) -> list[Answer]:
        state = reduced.features.mean(0)
        colours = state[:3].log_softmax(-1)
        red = colours[0].exp().clamp(max=1 - 1e-6)
        yes_no = torch.stack((red, 1 - red)).log()
        return [
            Answer(dict(zip(COLOURS, colours.tolist())), log_probs=colours, state=state),
            Answer(dict(zip(("yes", "no"), yes_no.tolist())), log_probs=yes_no, state=state),
        ]


def toy_ablation() -> Ablation:
    return load_ablation(ABLATION)


def run_toy(
    store: Store,
    n_samples: int,
    seconds: float = 0.0,
    model: ToyModel | None = None,
    ablation: Ablation | None = None,
    keep_going: bool = False,
    any_code: bool = False,
) -> tuple[list[PlannedRow], Progress]:
    """Run the toy ablation, or another one, at a third of the tokens."""
    task, model = ToyTask(), model or ToyModel(seconds)
    planned = plan((ablation or toy_ablation()).expand([1 / 3]), task, model, store)
    work = InProcess(Worker(task, model, keep_going))
    return planned, run_ablation(planned, task, store, n_samples, work, any_code=any_code)


TIMES = {"reducer_ms", "answer_ms", "encoder_ms", "created"}
"""Columns that no two runs share."""


def contents(path: Path) -> list[tuple[object, ...]]:
    """Return everything that a store holds but the times, in a fixed order."""
    database = sqlite3.connect(path, timeout=10)
    database.row_factory = sqlite3.Row
    rows = database.execute("SELECT * FROM results").fetchall()
    database.close()
    names = [name for name in (rows[0].keys() if rows else ()) if name not in TIMES]
    return sorted(tuple(row[name] for name in names) for row in rows)


def work(path: str, n_samples: int, seconds: float, version: str) -> None:
    """Run the toy ablation, taking at least ``seconds`` a sample.

    Results are stored under ``version`` of the code, so that saving a source file while the tests
    run does not set them apart.
    """
    runner.code_version = lambda *configs: version  # type: ignore[assignment]
    with Store(path) as shared:
        run_toy(shared, n_samples, seconds)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])

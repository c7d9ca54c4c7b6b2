"""A task and a model that answer in microseconds, for tests of the runner and the store.

``python -m tests.evaluation_toys STORE N_SAMPLES SECONDS VERSION`` runs the toy ablation in its own
process, taking at least SECONDS a sample, so that a test can kill it. Results are stored under
VERSION of the code, so that saving a source file while the tests run does not set them apart.
"""

import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from tokenred.accounting import LlmShape
from tokenred.evaluation import runner
from tokenred.evaluation.ablation import Ablation, load_ablation
from tokenred.evaluation.model import Reply
from tokenred.evaluation.runner import PlannedRow, Progress, plan, run
from tokenred.evaluation.store import Store
from tokenred.evaluation.task import Question, Sample
from tokenred.pipeline import Pipeline
from tokenred.pipeline.stages.llm import InsideLlm
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


class ToyTask:
    """Noise with one colour a little brighter: which one, and is it the same as at the start?"""

    name = "toy"
    fingerprint = "toy-1"
    kinds = {"colour": 1 / 3, "red": 1 / 2}
    n_samples = 1000
    calibration = range(900, 904)

    def sample_id(self, index: int) -> str:
        return f"toy/{index:03d}"

    def sample(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randn(FRAMES, 3, SIDE, SIDE, generator=generator)
        colour = int(torch.randint(3, (), generator=generator))
        pixels[:, colour] += 0.25
        return Sample(
            id=self.sample_id(index),
            pixel_values=pixels,
            frame_indices=tuple(range(0, 10 * FRAMES, 10)),
            frame_times=torch.arange(FRAMES, dtype=torch.float32),
            questions=(
                Question("colour", "which colour ?", COLOURS, COLOURS[colour]),
                Question("red", "is it red ?", ("yes", "no"), "yes" if colour == 0 else "no"),
            ),
        )


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

    def encode(self, sample: Sample, needs: Collection[str]) -> VisualTokens:
        time.sleep(self.seconds)
        self.n_encoded += 1
        features = sample.pixel_values.flatten(2).mT
        features = torch.nn.functional.pad(features, (0, DIM - 3), value=0.1)
        cues = {name: features.abs().sum(-1) for name in needs}
        return VisualTokens.of(
            features,
            (SIDE, SIDE),
            frame_times=sample.frame_times,
            cues=cues,
            native_pool="bilinear",
        )

    def reduce(
        self, tokens: VisualTokens, pipeline: Pipeline, generator: torch.Generator
    ) -> ReducedTokens:
        reduced = pipeline.run(tokens, generator=generator)
        return replace(reduced, realised=replace(reduced.realised, newline_tokens=1))

    def replies(
        self, reduced: ReducedTokens, questions: Sequence[Question], inside: InsideLlm
    ) -> list[Reply]:
        colours = dict(zip(COLOURS, reduced.features.mean(0)[:3].log_softmax(-1).tolist()))
        red = torch.tensor(colours["red"]).exp()
        yes_no = {"yes": float(red.log()), "no": float((1 - red).log())}
        return [Reply(colours), Reply(yes_no)]


def toy_ablation() -> Ablation:
    return load_ablation(ABLATION)


def run_toy(
    store: Store,
    n_samples: int,
    seconds: float = 0.0,
    model: ToyModel | None = None,
    ablation: Ablation | None = None,
) -> tuple[list[PlannedRow], Progress]:
    """Run the toy ablation, or another one, at a third of the tokens."""
    task, model = ToyTask(), model or ToyModel(seconds)
    planned = plan((ablation or toy_ablation()).expand([1 / 3]), task, model, store)
    return planned, run(planned, task, model, store, n_samples)


if __name__ == "__main__":
    path, n_samples, seconds, version = sys.argv[1:]
    runner.code_version = lambda config: version  # type: ignore[assignment]
    with Store(path) as shared:
        run_toy(shared, int(n_samples), float(seconds))

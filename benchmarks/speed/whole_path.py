"""What stands around the reducer: cues from the vision tower, and many configurations of one clip.

``python -m benchmarks.speed.whole_path`` prints both tables.

``capture`` times a SigLIP so400m/384 tower of random weights with and without cues. Every layer is
alike, so a tower of few layers tells what a cue costs at one layer, and how that compares with the
whole tower. ``runner`` runs an ablation of the embedded model with more and more rows and counts
where its time goes.
"""

import statistics as plain_statistics
import tempfile
from collections import Counter
from collections.abc import Collection
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import torch

from benchmarks.speed.statistics import Call, measure
from tokenred.evaluation import runner as evaluation
from tokenred.evaluation.ablation import load_ablation
from tokenred.evaluation.model import VideoLlm
from tokenred.evaluation.store import Store
from tokenred.evaluation.task import load_task
from tokenred.evaluation.worker import InProcess, Worker
from tokenred.models.attention import attention_layers
from tokenred.models.attention import capture as capturing
from tokenred.models.cues.names import parse_cues
from tokenred.pipeline import load_pipeline

SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
DEPTH = 26
"""Layers of the so400m tower."""
KINDS = ("attention", "class-attention", "keys")
NEEDS: dict[str, frozenset[str]] = {
    **{name: load_pipeline(name).needs for name in ("aot-paper", "top-attention")},
    "visionzip": frozenset({"attention@features", "keys@features"}),
    "visionzip, class token": frozenset({"class-attention@features", "keys@features"}),
}
"""Whose cues are priced; VisionZip is a plugin, so what it asks for is written out."""
ROWS = (1, 2, 4, 8)


def capture(
    *, frames: int = 2, layers: int = 2, repeats: int = 5, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Measure what cues cost beside the tower that they come from.

    Parameters
    ----------
    layers : of the tower that is timed; its layers are as large as those of the real one
    repeats : rounds, after one that does not count

    Returns
    -------
    ``tower_ms`` of all ``DEPTH`` layers, ``layer_share`` (time of a kind of cue at one layer / time
    of that layer) and ``tower_share`` (time of all cues of a pipeline / time of the whole tower)
    """
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    config = SiglipVisionConfig(**SO400M, num_hidden_layers=layers, attn_implementation="sdpa")
    tower = SiglipVisionModel(config).eval().to(dtype)
    pixels = torch.rand(frames, 3, config.image_size, config.image_size).to(dtype)

    def run(kinds: Collection[str]) -> Call:
        @torch.inference_mode()
        def call() -> None:
            with capturing({each: kinds for each in attention_layers(tower) if kinds}):
                tower(pixels)

        return call

    contenders = {"": run(()), **{kind: run({kind}) for kind in KINDS}}
    rounds = measure(contenders, repeats=repeats, warmup=1)
    layer_share = {kind: rounds.ratio(kind, "") - 1 for kind in KINDS}
    return {
        "frames": frames,
        "timed_layers": layers,
        "dtype": str(dtype).removeprefix("torch."),
        "tower_ms": rounds.timing("").median_ms * DEPTH / layers,
        "layer_share": layer_share,
        "tower_share": {name: _share(needs, layer_share) for name, needs in NEEDS.items()},
    }


def _share(needs: frozenset[str], layer_share: dict[str, float]) -> float:
    """Return the cost of cues as a share of the whole tower; names of one layer share a capture."""
    cues = parse_cues(needs, DEPTH, class_token=any("class" in name for name in needs))
    distinct = {(cue.kind, cue.layer) for cue in cues if cue.layer is not None}
    return sum(layer_share[kind] for kind, _ in distinct) / DEPTH


class _Clocked(Worker):
    """A worker whose model notes the processor time of everything that it does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    @contextmanager
    def watched(self) -> Any:
        """Put clocks around the model's methods."""
        names = ("encode", "reduce", "replies")
        try:
            for name in names:
                setattr(self.model, name, self._clocked(name, getattr(self.model, name)))
            yield self
        finally:
            for name in names:
                delattr(self.model, name)

    def _clocked(self, name: str, method: Any) -> Any:
        def call(*args: Any) -> Any:
            start = process_time()
            try:
                return method(*args)
            finally:
                self.seconds[name] += process_time() - start
                self.calls[name] += 1

        return call


def runner(*, n_samples: int = 6, repeats: int = 3, rows: tuple[int, ...] = ROWS) -> dict[str, Any]:
    """Measure what K configurations of a clip cost beside one.

    The rows are the first of the ablation ``components``, without ``vanilla``: the unreduced model
    is always read once, as all others are compared with it.

    Returns
    -------
    For every K the milliseconds of processor time a video, medians over rounds: ``total_ms``,
    ``encode_ms`` (once), ``reduce_ms`` and ``answer_ms`` (K + 1 times), and ``rest_share``, what is
    none of them (choosing, scoring, storing) / total; ``calls`` a video
    """
    torch.set_num_threads(1)
    task, model = load_task("embedded"), VideoLlm()
    planned_rows = [row for row in load_ablation("components").expand() if row.label != "vanilla"]
    _run(planned_rows[:1], task, model, 1)
    found: dict[int, list[dict[str, Any]]] = {k: [] for k in rows}
    for number in range(repeats):
        for k in rows[:: -1 if number % 2 else 1]:
            found[k].append(_run(planned_rows[:k], task, model, n_samples))
    return {
        "n_samples": n_samples,
        "configurations": {
            k: {
                "calls": runs[0]["calls"],
                **{
                    name: plain_statistics.median(run[name] for run in runs)
                    for name in runs[0]
                    if name != "calls"
                },
            }
            for k, runs in found.items()
        },
    }


def _run(rows: Any, task: Any, model: VideoLlm, n_samples: int) -> dict[str, Any]:
    """Run an ablation into a file that is thrown away; return figures for one video."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "results.sqlite") as store:
        planned = evaluation.plan(rows, task, model, store)
        with _Clocked(task, model).watched() as worker:
            start = process_time()
            evaluation.run(planned, task, store, n_samples, InProcess(worker))
            total = process_time() - start
    parts = {
        "encode_ms": worker.seconds["encode"],
        "reduce_ms": worker.seconds["reduce"],
        "answer_ms": worker.seconds["replies"],
    }
    return {
        "calls": {name: n / n_samples for name, n in worker.calls.items()},
        "total_ms": total * 1e3 / n_samples,
        **{name: seconds * 1e3 / n_samples for name, seconds in parts.items()},
        "rest_share": 1 - sum(parts.values()) / total,
    }


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.bfloat16):
        found = capture(dtype=dtype)
        print(f"SigLIP so400m/384, {found['frames']} frames, {found['dtype']}, one thread:")
        print(
            f"  {'tower':<24} {found['tower_ms']:>9.0f} ms  ({found['timed_layers']} layers timed)"
        )
        for kind, share in found["layer_share"].items():
            print(f"  {kind:<24} {share:>9.2%} of its layer")
        for name, share in found["tower_share"].items():
            print(f"  {name:<24} {share:>9.2%} of the tower")
    print("embedded model, ms of processor time a video:")
    print("    K     total    encode    reduce    answer      rest")
    for k, each in runner()["configurations"].items():
        times = (each[name] for name in ("total_ms", "encode_ms", "reduce_ms", "answer_ms"))
        print(f"{k:>5}", *(f"{ms:>9.0f}" for ms in times), f"{each['rest_share']:>9.1%}")


if __name__ == "__main__":
    main()

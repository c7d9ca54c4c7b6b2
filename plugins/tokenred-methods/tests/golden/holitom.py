"""HoliTom's algorithms as the golden cases name them, run by the plugin and its presets."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.holitom.static_windows import static_windows
from torch import Tensor

from tokenred import Pipeline, VisualTokens, load_pipeline
from tokenred.interfaces import AnchorSelector
from tokenred.models.splice import ClipLayout, pack
from tokenred.types import Segments

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def stage_of(pipeline: Pipeline, label: str) -> Any:
    return pipeline.stages[label]


def noise_of(inputs: Tensors) -> list[Tensor]:
    """Return the noise that the release drew, in the order of its calls."""
    names = [name for name in inputs if name.startswith("noise_")]
    return [inputs[name][0] for name in sorted(names, key=lambda name: int(name[6:]))]


def static_places(pipeline: Pipeline, label: str, features: Tensor, segments: Segments) -> Tensor:
    """Return (segments, tokens): the places that the rule of a static stage calls static."""
    rule = stage_of(pipeline, label).rule
    never = torch.zeros(features.shape[1], dtype=torch.bool)
    runs = [features[list(run)] for run in segments]
    return torch.stack([rule.static(run) if len(run) > 1 else never for run in runs])


class Replay(AnchorSelector):
    """Gives a density-peaks selector, for every frame it is asked about, the noise drawn there."""

    def __init__(self, stage: Any, noise: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._selector, self._noise = stage.selector, dict(noise)
        stage.selector = self

    @property
    def needs(self) -> frozenset[str]:
        return self._selector.needs

    def select(self, tokens: VisualTokens, n_anchors: int, **kwargs: Any) -> Tensor:
        self._selector.noise = [self._noise.pop(int(frame)) for frame in tokens.frame_times]
        return self._selector.select(tokens, n_anchors, **kwargs)


def windows_of(segments: Segments) -> Tensor:
    return torch.tensor([[run[0], run[-1]] for run in segments])


def holitom_segmentation(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    segments, saved = static_windows(
        inputs["feature_sim"], params["tau"], params["max_window_size"]
    )
    return {"windows": windows_of(segments), "total_reduced": torch.tensor(float(saved))}


def _outer(params: Params) -> Pipeline:
    overrides: dict[str, Any] = {
        "budget.retention_ratio": params["retain_ratio"],
        "windows.segmenter.tau": params["tau"],
        "windows.segmenter.max_window_frames": params["max_window_size"],
        "repeats.rule.tau": params["tau"],
        "static.selector.neighbours": params["K"],
        "static.aggregator.beta": params["beta"],
        "dynamic.order": "raster" if params["newline"] == "grid" else "stage",
    }
    if params.get("no_beta_env"):
        del overrides["static.aggregator.beta"]
        overrides["static.aggregator"] = "mean"
    if params["D"]:  # crashes the release; there is no such setting here
        overrides["dynamic.contextual_share"] = params["D"]
    return load_pipeline("holitom-outer-released", overrides)


def holitom_outer(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["features"]
    frames, n, _ = features.shape
    grid = int(n**0.5), int(n**0.5)
    pipeline = _outer(params)
    segments = stage_of(pipeline, "windows").segmenter.segment(features)
    # The release draws for a window unless nothing of it is kept.
    noise, drawn = noise_of(inputs), {}
    static = static_places(pipeline, "repeats", features, segments).sum(-1).tolist()
    for run, count in zip(segments, static):
        if noise and len(noise[0]) == count:
            drawn[run[0]] = noise.pop(0)
    assert not noise
    Replay(stage_of(pipeline, "static"), drawn)
    tokens = VisualTokens.of(features, grid, cues={"attention@features": inputs["attention"]})
    reduced = pipeline.run(tokens)
    frame, out = reduced.frame_index, reduced.features
    if params["newline"] == "grid":
        part = pack(reduced, ClipLayout("video", frames, grid, "row"), inputs["newline"])
        frame, out = part.frame_index, part.features
    left = next(r.n_tokens for r in reduced.realised.stages if r.name == "repeats")
    per_frame = frame.bincount(minlength=frames)
    return {
        "tokens": out,
        "windows": windows_of(segments),
        "total_reduced": torch.tensor(float(frames * n - left)),
        "effective_ratio": torch.tensor(min(params["retain_ratio"] * frames * n / left, 1.0)),
        "tokens_per_window": torch.stack([per_frame[list(run)].sum() for run in segments]),
    }


ALGORITHMS = {
    "holitom_outer": holitom_outer,
    "holitom_segmentation": holitom_segmentation,
}

"""PruneVid's algorithms before the LLM as the golden cases name them, run by the plugin."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.holitom import Replay, noise_of, stage_of, static_places
from tokenred_methods.prunevid.runs import refine_runs
from torch import Tensor

from tokenred import Pipeline, VisualTokens, load_pipeline
from tokenred.types import Segments

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def prunevid_refine_segments(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    refined = torch.tensor(refine_runs(inputs["labels"][0].tolist()))
    lengths = refined.unique_consecutive(return_counts=True)[1]
    return {"refined": refined[None], "lengths": lengths[None]}


def _merging(params: Params) -> Pipeline:
    overrides = {
        "segments.segmenter.share": params["temporal_segment_ratio"],
        "segments.segmenter.neighbours": params["k"],
        "still.rule.tau": params["tau"],
        "static.n_anchors": float(params["cluster_ratio"]),
        "dynamic.n_anchors": float(params["cluster_ratio"]),
    }
    return load_pipeline("prunevid-merge-released", overrides)


def prunevid_merge_frames(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["frames"][0].unflatten(0, (params["num_frames"], -1))
    pipeline, noise = _merging(params), noise_of(inputs)
    segmenter = stage_of(pipeline, "segments").segmenter
    segmenter.noise = noise.pop(0) if noise else None
    segments = segmenter.segment(features.mean(1))
    static = static_places(pipeline, "still", features, segments)
    _replay(pipeline, noise, segments, static)
    reduced = pipeline.run(VisualTokens.of(features, (params["H"], params["W"])))
    starts = torch.tensor([run[0] for run in segments])
    window = torch.searchsorted(starts, reduced.frame_index, right=True) - 1
    merged = static[window, reduced.token_index]
    return {
        "tokens": reduced.features[None],
        "static_sizes": window[merged].bincount(minlength=len(starts)),
        "dynamic_sizes": window[~merged].bincount(minlength=len(starts)),
        "window_sizes": torch.tensor([len(run) for run in segments]),
    }


def _replay(pipeline: Pipeline, noise: list[Tensor], segments: Segments, static: Tensor) -> None:
    """Hand each stage its noise: the release draws window by window, static tokens first."""
    drawn: dict[str, dict[int, Tensor]] = {"static": {}, "dynamic": {}}
    spared = stage_of(pipeline, "static").config.spare_up_to
    left = iter(noise)
    for run, places in zip(segments, static):
        for part, frames in (("static", run[:1]), ("dynamic", run)):
            n_tokens = int((places if part == "static" else ~places).sum())
            for frame in frames if n_tokens > spared else ():
                drawn[part][frame] = next(left)
    assert next(left, None) is None
    for part, by_frame in drawn.items():
        Replay(stage_of(pipeline, part), by_frame)


ALGORITHMS = {
    "prunevid_merge_frames": prunevid_merge_frames,
    "prunevid_refine_segments": prunevid_refine_segments,
}

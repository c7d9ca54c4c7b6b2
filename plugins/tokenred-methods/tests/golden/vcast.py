"""V-CAST's algorithms as the golden cases name them, run by its released preset or its parts."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.vcast.curvature import curvature, turn_counts, turn_weights
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
RELEASED_SHARE = 0.25
"""What a share of zero becomes: a literal of the release."""


def vcast_curvature(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    found = curvature(inputs["unit_descriptors"])
    allocator = load_pipeline("vcast-released").stages["frame"].allocator
    return {"curvature": found, "weights": turn_weights(found, allocator.config.temperature)}


def vcast_allocate(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    limits = params["least_per_frame"], params["most_per_frame"]
    return {"counts": turn_counts(inputs["weights"], params["budget"], *limits).long()}


def _places(features: Tensor, params: Params) -> Tensor:
    """Return the places that stay of one video, (frames, tokens, width)."""
    settings = {
        "budget.retention_ratio": params["share"] or RELEASED_SHARE,
        "frame.allocator.at_least": params["least_per_frame"],
    }
    n = features.shape[1]
    reduced = load_pipeline("vcast-released", settings).run(VisualTokens.of(features, (1, n)))
    return reduced.frame_index * n + reduced.token_index


def _kept(inputs: Tensors, place: Tensor) -> dict[str, Tensor]:
    """Return the rows of every tensor at these places."""
    rows = {
        name: values.reshape(-1, values.shape[-1])[place]
        for name, values in inputs.items()
        if name == "features" or name.startswith("deepstack")
    }
    return {"tokens": rows.pop("features"), "place": place, **rows}


def vcast_compress(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    return _kept(inputs, _places(inputs["features"], params))


def vcast_videos(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, merge = inputs["features"], params["merge"]
    grids = [(t, max(1, h // merge) * max(1, w // merge)) for t, h, w in inputs["sizes"].tolist()]
    if sum(t * n for t, n in grids) != len(features):
        return _kept(inputs, torch.arange(len(features)))  # sizes that do not fit: all stays
    places, first = [], 0
    for frames, n in grids:
        video = features[first : first + frames * n].view(frames, n, -1)
        places.append(first + _places(video, params))
        first += frames * n
    return _kept(inputs, torch.cat(places))


ALGORITHMS = {
    "vcast_allocate": vcast_allocate,
    "vcast_compress": vcast_compress,
    "vcast_curvature": vcast_curvature,
    "vcast_videos": vcast_videos,
}

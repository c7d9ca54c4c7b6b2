"""SCOPE's algorithms as the golden cases name them, each a run of its preset."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
COMBINE = {"multi": "product", "add": "sum"}


def _run(
    features: Tensor, saliency: Tensor | None, n_keep: int, settings: Params
) -> tuple[Tensor, Tensor]:
    """Return the picks of every frame in their order, and what is left in that of the raster."""
    frames, n, dim = features.shape
    budget = {
        "budget.mode": "as-released",
        "budget.rounding": "nearest",
        "budget.retention_ratio": n_keep / n,
    }
    if saliency is None:
        settings = {**settings, "frame.selector.layer": None}
    pipeline = load_pipeline("scope", {**budget, **settings})
    cues = {"tower": features}
    if saliency is not None:
        cues["salience@features"] = saliency
    tokens = VisualTokens.of(features, (1, n), cues=cues)
    reduced = pipeline.run(tokens).features.view(frames, -1, dim)
    selector = pipeline.stages["frame"].selector
    return selector.select(tokens, n_keep, generator=torch.Generator()), reduced


def scope_select(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings = {}
    if "alpha" in params:
        settings["frame.selector.alpha"] = params["alpha"]
    if "combined" in params:
        combined = params["combined"]
        settings["frame.selector.combine"] = COMBINE.get(combined, combined)
    order, _ = _run(inputs["features"], inputs.get("saliency"), params["n_keep"], settings)
    return {"order": order, "kept": order.sort(-1).values}


def scope_tower(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    hidden = inputs["hidden"]
    saliency = inputs["attention"][:, :, 0, 1:].sum(1)
    order, tokens = _run(hidden[:, 1:], saliency, params["token_num"] // len(hidden), {})
    return {"tokens": tokens, "order": order + 1}


ALGORITHMS = {"scope_select": scope_select, "scope_tower": scope_tower}

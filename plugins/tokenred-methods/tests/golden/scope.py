"""SCOPE's algorithms as the golden cases name them, runs of its released preset."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
SALIENCY = "salience@-2"
COMBINE = {"multi": "multiply"}


def _run(
    features: Tensor, saliency: Tensor | None, number: float, params: Params
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the places of the kept tokens, the tokens, and the picks in their order."""
    frames, n_tokens = features.shape[:2]
    combined = params.get("combined", "multi")
    settings = {
        "budget.retention_ratio": number / n_tokens,
        "frame.selector.saliency": None if saliency is None else SALIENCY,
        "frame.selector.alpha": params.get("alpha", 1.0),
        "frame.selector.combine": COMBINE.get(combined, combined),
    }
    pipeline = load_pipeline("scope-released", settings)
    cues = {"tower": features, **({} if saliency is None else {SALIENCY: saliency})}
    tokens = VisualTokens.of(features, (1, n_tokens), cues=cues)
    reduced = pipeline.run(tokens)
    n_kept = reduced.realised.tokens_per_frame[0]
    selector = pipeline.stages["frame"].selector
    order = selector.select(tokens, n_kept, generator=torch.Generator())
    return reduced.token_index.view(frames, -1), reduced.features.view(frames, n_kept, -1), order


def scope_select(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    kept, _, order = _run(inputs["features"], inputs.get("saliency"), params["n_keep"], params)
    return {"order": order, "kept": kept}


def scope_tower(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    hidden, attention = inputs["hidden"], inputs["attention"]
    number = params["token_num"] / len(hidden)
    _, tokens, order = _run(hidden[:, 1:], attention[:, :, 0, 1:].mean(1), number, params)
    return {"tokens": tokens, "order": order + 1}  # the class token is number 0 there


ALGORITHMS = {"scope_select": scope_select, "scope_tower": scope_tower}

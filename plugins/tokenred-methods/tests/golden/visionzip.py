"""VisionZip's algorithms as the golden cases name them, each a run of its released presets.

The class token of the CLIP form is no token of the grid: it is put in front here.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tokenred import Pipeline, load_pipeline
from tokenred.models.attention import received_attention
from tokenred.models.splice import ClipLayout, pack
from tokenred.types import NewlineToken, VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def _tokens(
    features: Tensor, attention: Tensor, keys: Tensor, pipeline: Pipeline, native_pool: str = "none"
) -> VisualTokens:
    side = int(features.shape[1] ** 0.5)
    cues = {name: keys if name.startswith("keys@") else attention for name in pipeline.needs}
    return VisualTokens.of(features, (side, side), cues=cues, native_pool=native_pool)


def _numbers(params: Params) -> dict[str, int]:
    return {
        "dominant.n_anchors": params["dominant"],
        "contextual.n_anchors": params["contextual"],
    }


def _ranked(pipeline: Pipeline, tokens: VisualTokens, n_anchors: int) -> Tensor:
    """Return the dominant tokens in the order of their attention."""
    return pipeline.stages["dominant"].selector.select(
        tokens, n_anchors, generator=torch.Generator()
    )


def visionzip_clip(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    pipeline = load_pipeline("visionzip-clip-released", _numbers(params))
    hidden, keys = inputs["hidden_states"], inputs["metric"]
    attention = inputs["cls_attention"].mean(1)
    tokens = _tokens(hidden[:, 1:], attention[:, 1:], keys[:, 1:], pipeline)
    reduced = pipeline.run(tokens).features.view(len(hidden), -1, hidden.shape[-1])
    ranked = _ranked(pipeline, tokens, params["dominant"])
    class_index = ranked.new_zeros(len(hidden), 1)
    return {
        "tokens": torch.cat([hidden[:, :1], reduced], dim=1),
        "all_indices": torch.cat([class_index, ranked + 1], dim=1),
    }


def visionzip_ov(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    grid_mode = params["newline_position"] == "grid"
    pipeline = load_pipeline(_preset(grid_mode), _numbers(params))
    features = inputs["hidden_states"]
    tokens = _tokens(features, inputs["attention"], inputs["metric"], pipeline)
    if grid_mode:
        tokens = replace(tokens, newline=NewlineToken("row", inputs["image_newline"]))
        return {"tokens": pipeline.run(tokens).features}
    reduced = pipeline.run(tokens)
    return {"tokens": reduced.features.view(len(features), -1, features.shape[-1])}


def visionzip_ov_e2e(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    outputs = {}
    if "attention_weights" in inputs:
        weights = inputs["attention_weights"]
        # Queries log(A) and unit keys have exactly A as their soft-max.
        unit = torch.eye(weights.shape[-1]).expand_as(weights)
        attention = received_attention(weights.log(), unit, 1.0)
        outputs["received_attention"] = attention
    else:
        attention = inputs["received_attention"]
    grid_mode = params["newline_position"] == "grid"
    cells = {"bilinear": ((params["side"] + 1) // 2) ** 2, "average": (params["side"] // 2) ** 2}
    settings = {
        "budget.retention_ratio": params["spatial_tokens"] / cells[params["pool_mode"]],
        "dominant.n_anchors": "budget * 54/64",
        "dominant.rounding": "floor",
        "contextual.n_anchors": "budget",
    }
    pipeline = load_pipeline(_preset(grid_mode), settings)
    features = inputs["hidden_states"]
    tokens = _tokens(features, attention, inputs["metric"], pipeline, params["pool_mode"])
    newline = NewlineToken("row" if grid_mode else "end", inputs["image_newline"])
    reduced = pipeline.run(replace(tokens, newline=newline))
    layout = ClipLayout("video", len(features), reduced.grid, newline.closes)
    outputs["visual_tokens"] = pack(reduced, layout, newline.embedding).features
    return outputs


def _preset(grid_mode: bool) -> str:
    return "visionzip-released-llava-video" if grid_mode else "visionzip-released"


ALGORITHMS = {
    "visionzip_clip": visionzip_clip,
    "visionzip_ov": visionzip_ov,
    "visionzip_ov_e2e": visionzip_ov_e2e,
}

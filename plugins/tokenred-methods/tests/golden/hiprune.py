"""HiPrune's algorithms as the golden cases name them, each a run of its released presets."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import Pipeline, VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def _mask(pipeline: Pipeline, middle: Tensor, deep: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the kept tokens of frames with the attention of two layers, (frames, tokens) each."""
    selector = pipeline.stages["frame"].selector
    names = (f"attention@{selector.config.middle_layer}", f"attention@{selector.config.deep_layer}")
    features = torch.zeros(*middle.shape, 1)
    tokens = VisualTokens.of(features, grid, cues=dict(zip(names, (middle, deep), strict=True)))
    reduced = pipeline.run(tokens)
    mask = torch.zeros(middle.shape, dtype=torch.bool)
    mask[reduced.frame_index, reduced.token_index] = True
    return mask


def hiprune_llava(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    layers = [inputs[f"{name}_attention"].mean((1, 2))[:, 1:] for name in ("shallow", "deep")]
    number = int(params["retention"] / len(layers[0]))
    settings = {
        "budget.retention_ratio": number / layers[0].shape[1],
        "budget.rounding": "nearest",
        "frame.selector.alpha": params["alpha"],
    }
    return {"mask": _mask(load_pipeline("hiprune-released", settings), *layers, (24, 24))}


def hiprune_qwen(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    layers = [inputs[f"{name}_attention"][None] for name in ("shallow", "deep")]
    settings = {
        "budget.retention_ratio": params["retention"],
        "frame.selector.alpha": params["alpha"],
    }
    pipeline = load_pipeline("hiprune-qwen-released", settings)
    (mask,) = _mask(pipeline, *layers, (params["rows"], params["columns"]))
    return {"mask": mask, "kept": mask.nonzero()[:, 0]}


ALGORITHMS = {"hiprune_llava": hiprune_llava, "hiprune_qwen": hiprune_qwen}

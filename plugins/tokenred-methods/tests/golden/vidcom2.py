"""VidCom2 as the golden cases name it, run by the plugin's released preset."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from tokenred_methods.vidcom2.commonness import commonness
from tokenred_methods.vidcom2.uniqueness import frame_factors
from torch import Tensor

from tokenred import VisualTokens, load_pipeline
from tokenred.types import NewlineToken

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def vidcom2_compress(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    n, base = params["tokens_per_frame"], params["base_scale"]
    with_newlines = "features_with_newline" in inputs
    grid = (params["grid"], params["grid"]) if with_newlines else (1, n)
    tokens = VisualTokens.of(inputs["features"].unflatten(0, (-1, n)), grid)
    if with_newlines:
        newline = NewlineToken("row", inputs["features_with_newline"][grid[1]])
        tokens = replace(tokens, newline=newline)
    pipeline = load_pipeline("vidcom2-released", {"budget.retention_ratio": base})
    reduced = pipeline.run(tokens)
    frame = pipeline.stages["frame"]
    allocator, selector = frame.allocator, frame.selector
    in_video, in_frame = commonness(tokens, selector.config)
    kept = reduced.frame_index * n + reduced.token_index
    return {
        "tokens": reduced.features,
        "frame_scales": (base * frame_factors(tokens, allocator.config)).clamp_max(1),
        "video_score": in_video,
        "frame_score": in_frame,
        "kept_per_frame": torch.tensor(reduced.realised.tokens_per_frame),
        "kept_index": kept if reduced.newline is None else kept[~reduced.newline],
    }


ALGORITHMS = {"vidcom2_compress": vidcom2_compress}

"""VidCom2 as the golden cases name it, run by the plugin's released preset."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.vidcom2.commonness import commonness
from tokenred_methods.vidcom2.uniqueness import frame_factors
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def vidcom2_compress(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    n, base = params["tokens_per_frame"], params["base_scale"]
    tokens = VisualTokens.of(inputs["features"].unflatten(0, (-1, n)), (1, n))
    pipeline = load_pipeline("vidcom2-released", {"budget.retention_ratio": base})
    reduced = pipeline.run(tokens)
    frame = pipeline.stages["frame"]
    allocator, selector = frame.allocator, frame.selector
    in_video, in_frame = commonness(tokens, selector.config)
    packed = reduced.features
    if "features_with_newline" in inputs:
        packed = _with_newlines(inputs["features_with_newline"], reduced, params["grid"])
    return {
        "tokens": packed,
        "frame_scales": (base * frame_factors(tokens, allocator.config)).clamp_max(1),
        "video_score": in_video,
        "frame_score": in_frame,
        "kept_per_frame": torch.tensor(reduced.realised.tokens_per_frame),
        "kept_index": reduced.frame_index * n + reduced.token_index,
    }


def _with_newlines(rows: Tensor, reduced: Any, side: int) -> Tensor:
    """Put all newlines of a frame behind its kept tokens, as the caller of the release does."""
    newlines = rows.view(-1, side, side + 1, rows.shape[-1])[:, :, -1]
    parts = [
        part
        for frame, ends in enumerate(newlines)
        for part in (reduced.features[reduced.frame_index == frame], ends)
    ]
    return torch.cat(parts)


ALGORITHMS = {"vidcom2_compress": vidcom2_compress}

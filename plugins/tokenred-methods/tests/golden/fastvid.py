"""FastVID's three releases as the golden cases name them, run by the plugin's released presets.

What the releases do around the visual tokens is done here: text rows in front and behind, and the
newline after every row of the grid that has a token left.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from tokenred import Pipeline, ReducedTokens, VisualTokens, load_pipeline
from tokenred.kernels.clustering import density_peaks
from tokenred.pipeline.quotas import anchor_counts
from tokenred.types import Segments

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


@dataclass(frozen=True)
class _Seen:
    """What a run gave, and what its stages saw and chose on the way."""

    reduced: ReducedTokens
    segments: Segments
    salient: Tensor
    left: Tensor
    anchors: Tensor


def _overrides(params: Params, **others: Any) -> dict[str, Any]:
    return {
        "budget.retention_ratio": params["retention"],
        "segments.segmenter.min_segments": params["c"],
        "segments.segmenter.tau": min(params["tau"], 1.0),
        "salient.n_anchors": f"budget * {1 - Fraction(str(params['d']))}",
        "context.allocator.every": params["p"],
        "context.aggregator.beta": params["beta"],
        **others,
    }


def _tokens(inputs: Tensors, features: Tensor, grid: tuple[int, int]) -> VisualTokens:
    cues = {
        "pooler": inputs["frame_global_features"],
        "attention@pooler": inputs["frame_attn_weights"].view(features.shape[:2]),
    }
    return VisualTokens.of(features, grid, cues=cues)


def _run(
    pipeline: Pipeline, tokens: VisualTokens, noise: list[Tensor], *, all_frames: bool
) -> _Seen:
    """Run the pipeline, listen to its stages and hand the density peaks the noise of the release.

    Parameters
    ----------
    noise : for every frame, or (not ``all_frames``) for every frame with context tokens, in order
    """
    seen: dict[str, Any] = {}
    salient, context = pipeline.stages["salient"], pipeline.stages["context"]
    choose, peaks, reduce = salient.selector.select, context.selector.select, context.run
    drawn: dict[int, Tensor] = {}

    def listen(*args: Any, **kwargs: Any) -> Tensor:
        seen["salient"] = choose(*args, **kwargs)
        return seen["salient"]

    def replay(tokens: VisualTokens, n_anchors: int, **kwargs: Any) -> Tensor:
        context.selector.noise = [drawn[int(t)] for t in tokens.frame_times]
        return peaks(tokens, n_anchors, **kwargs)

    def look(flow: Any) -> None:
        counts = anchor_counts(flow, context.config, context.allocator)
        frames = [t for t, n in enumerate(counts) if all_frames or n]
        drawn.update(zip(frames, noise, strict=True))
        seen["segments"], seen["left"] = flow.segments, flow.open()
        reduce(flow)
        seen["anchors"] = flow.tokens.keep & seen["left"]

    salient.selector.select, context.selector.select, context.run = listen, replay, look
    return _Seen(pipeline.run(tokens), **seen)


def _sequence(inputs: Tensors, params: Params, length: int, rows: Tensor, values: Tensor) -> Any:
    """Put values into their rows of the visual block and text rows around it."""
    hidden, start = inputs["hidden_states"], params["video_start"]
    index = torch.arange(len(hidden))
    kept = torch.cat([index[:start], rows + start, index[start + length :]])
    left = torch.cat([hidden[:start], values, hidden[start + length :]])
    return {"hidden_states": left, "keep_index": kept}


def _sizes(seen: _Seen) -> Tensor:
    return torch.tensor(seen.segments.boundaries).diff()


def _video(inputs: Tensors, params: Params, n: int) -> Tensor:
    frames, start = params["frame_num"], params["video_start"]
    return inputs["hidden_states"][start : start + frames * n].unflatten(0, (frames, n))


def _drawn(inputs: Tensors) -> list[Tensor]:
    names = [name for name in inputs if name.startswith("noise_")]
    return [inputs[name][0] for name in sorted(names, key=lambda name: int(name[6:]))]


def fastvid_stprune_onevision(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    n = inputs["frame_attn_weights"].numel() // params["frame_num"]
    features = _video(inputs, params, n)
    pipeline = load_pipeline("fastvid-released", _overrides(params))
    noise = inputs.get("noise_0", features.new_zeros(features.shape[:2]))
    seen = _run(pipeline, _tokens(inputs, features, (1, n)), list(noise), all_frames=True)
    reduced = seen.reduced
    points = features[seen.left].view(len(features), -1, features.shape[-1])
    places = reduced.frame_index * n + reduced.token_index
    return {
        **_sequence(inputs, params, len(features) * n, places, reduced.features),
        "segment_sizes": _sizes(seen),
        "anchor_count_per_frame": seen.anchors.sum(-1),
        "salient_index_per_frame": seen.salient,
        "density_score": density_peaks(points, 1, 4, noise=noise).score,
    }


def _looped(
    preset: str,
    inputs: Tensors,
    params: Params,
    grid: tuple[int, int],
    features: Tensor,
    **more: Any,
) -> _Seen:
    """Run one of the two releases that go frame by frame and round by the segment."""
    overrides = _overrides(params, **{"context.n_anchors": f"budget * {params['d']}", **more})
    pipeline = load_pipeline(preset, overrides)
    return _run(pipeline, _tokens(inputs, features, grid), _drawn(inputs), all_frames=False)


def fastvid_stprune_llavavideo(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    side = params["side"]
    rows = _video(inputs, params, side * (side + 1)).unflatten(1, (side, side + 1))
    features = rows[:, :, :-1].flatten(1, 2)
    seen = _looped("fastvid-released-llava-video", inputs, params, (side, side), features)
    reduced = seen.reduced
    line = reduced.frame_index * side + reduced.token_index // side
    places = line * (side + 1) + reduced.token_index % side
    newlines = line.unique() * (side + 1) + side
    block = rows.flatten(0, 2).index_put((places,), reduced.features)
    kept = torch.cat([places, newlines]).sort().values
    return {
        **_sequence(inputs, params, len(block), kept, block[kept]),
        "segment_sizes": _sizes(seen),
        "kept_visual_index": places,
        "kept_newline_index": newlines,
    }


def fastvid_stprune_qwen25vl(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    rows, columns = params["grid"]
    features = _video(inputs, params, rows * columns)
    seen = _looped(
        "fastvid-released-qwen",
        inputs,
        params,
        (rows, columns),
        features,
        **{
            # The cases hand over descriptors and attention of their own.
            "segments.descriptor": "pooler",
            "salient.allocator.descriptor": "pooler",
            "salient.selector.layer": "pooler",
            "salient.allocator.ignore": params["ignore"],
            "salient.allocator.context": params["d"],
            "salient.allocator.every": params["p"],
        },
    )
    reduced = seen.reduced
    places = reduced.frame_index * rows * columns + reduced.token_index
    return {
        **_sequence(inputs, params, features[..., 0].numel(), places, reduced.features),
        "segment_sizes": _sizes(seen),
    }


ALGORITHMS = {
    "fastvid_stprune_llavavideo": fastvid_stprune_llavavideo,
    "fastvid_stprune_onevision": fastvid_stprune_onevision,
    "fastvid_stprune_qwen25vl": fastvid_stprune_qwen25vl,
}

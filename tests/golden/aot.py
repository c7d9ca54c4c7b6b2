"""AOT's algorithms as the golden cases name them, each a few calls into tokenred."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from tokenred import promises
from tokenred.interfaces import AnchorSelector, Coupler, TemporalSegmenter
from tokenred.kernels.merge import apply_merge
from tokenred.kernels.pooling import PoolMode, pool_tokens
from tokenred.models.attention import received_attention
from tokenred.pipeline import Pipeline, load_config
from tokenred.pipeline.flow import Flow, Transport
from tokenred.stages.aot_released import with_newline_column
from tokenred.stages.frame import FrameStage
from tokenred.stages.pool import PoolStage
from tokenred.stages.segment import SegmentStage
from tokenred.strategies.couplers import SinkhornConfig, SinkhornCoupler
from tokenred.strategies.segmenters import (
    DynamicConfig,
    DynamicSegmenter,
    neighbour_similarity,
)
from tokenred.strategies.selectors.windows import window_ids, window_rank
from tokenred.types import NewlineToken, Segments, TokenGroup, VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
SHALLOW, DEEP = "attention@0.2", "attention@-2"


def _released(overrides: Params, *stages: str) -> Pipeline:
    """Return the released pipeline with some settings changed and only the named stages left."""
    config = load_config("aot-released", overrides)
    left = {label: stage for label, stage in config.stages.items() if label in stages}
    return Pipeline(config.model_copy(update={"stages": left}))


def _stage(pipeline: Pipeline, index: int = 0) -> Any:
    return list(pipeline.stages.values())[index]


class Given(AnchorSelector):
    """Gives the anchors that the case prescribes."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self._answer = answer

    def select(self, *args: object, **kwargs: object) -> Tensor:
        return self._answer


class _GivenSegments(TemporalSegmenter):
    """Gives the segments that the case prescribes."""

    def __init__(self, answer: Segments) -> None:
        super().__init__()
        self._answer = answer

    def segment(self, *args: object, **kwargs: object) -> Segments:
        return self._answer


def _flow(tokens: VisualTokens, pipeline: Pipeline) -> Flow:
    return Flow.start(tokens, pipeline.config.budget, torch.Generator(), False)


def aot_sinkhorn(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    config = SinkhornConfig(
        epsilon=1.0,
        max_iter=params["max_iter"],
        stop="scaling-batch",
        tolerance=0.01,
        last="anchor",
        domain="kernel",
    )
    cost = -inputs["K"].log()
    masses = [inputs[side].expand(len(cost), -1) for side in ("u", "v")]
    return {"T": SinkhornCoupler(config).couple(cost, *masses).plan}


def local_picks(selector: AnchorSelector, tokens: VisualTokens, budget: int) -> Tensor:
    """Return local anchors as the release lists them: window by window, the best first."""
    picks = selector.select(tokens, budget, generator=torch.Generator())
    ids = window_ids(tokens.grid, selector.config.windows)
    by_window = ids * ids.numel() + window_rank(tokens.cues[selector.config.cues[0]], ids)
    listed = by_window.masked_fill(~picks, ids.numel() ** 2).argsort(dim=-1)
    return listed[:, : int(picks[0].sum())]


def _local(windows: int) -> AnchorSelector:
    """Return the released selector with nothing chosen globally."""
    settings = {"windows": [windows, windows], "global_ratio": 0.0}
    overrides = {f"intra_frame.selector.{name}": value for name, value in settings.items()}
    return _stage(_released(overrides, "intra_frame")).selector


def aot_window_select(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    attention, side = inputs["attention"], params["grid"]
    tokens = VisualTokens.of(
        attention[..., None], (side, side), cues={SHALLOW: attention, DEEP: attention}
    )
    return {"indices": local_picks(_local(side // params["window_size"]), tokens, params["budget"])}


def _encoder_tokens(inputs: Tensors, native_pool: str = "none") -> VisualTokens:
    if "attention_stack" in inputs:
        shallow, deep = inputs["attention_stack"][5], inputs["attention_stack"][-2]
    else:
        shallow, deep = inputs["attention_layer5"], inputs["attention_layer_minus2"]
    side = int(inputs["features"].shape[1] ** 0.5)
    cues = {SHALLOW: shallow.mean(1), DEEP: deep.mean(1)}
    return VisualTokens.of(inputs["features"], (side, side), cues=cues, native_pool=native_pool)


def _intra_overrides(params: Params) -> dict[str, Any]:
    return {
        "intra_frame.n_anchors": params["visual_token_num"],
        "intra_frame.selector.global_ratio": params["global_ratio"],
    }


def aot_encode(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    tokens = _encoder_tokens(inputs)
    reduced = _released(_intra_overrides(params), "intra_frame").run(tokens)
    mask = torch.zeros_like(tokens.keep)
    mask[reduced.frame_index, reduced.token_index] = True
    merged = tokens.features.clone()
    merged[reduced.frame_index, reduced.token_index] = reduced.features
    budget = int(params["visual_token_num"] * (1 - params["global_ratio"]))
    local = local_picks(_local(3), tokens, budget)
    keep_all = params["visual_token_num"] == tokens.keep.shape[1]
    deep = tokens.cues[DEEP] if keep_all else tokens.cues[DEEP].scatter(-1, local, 0.0)
    return {
        "index_mask": mask,
        "merged_features": merged,
        "deep_attention_after": deep,
        "local_indices": local,
    }


def aot_token_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    merged, coupling = _merge_into(inputs, {})
    nearest, _ = _merge_into(
        inputs,
        {
            "intra_frame.cost": ["cosine"],
            "intra_frame.coupler": "nearest",
            "intra_frame.aggregator": "mean",
        },
    )
    picked = inputs["mask"], inputs["mask"].sum(-1)[0]
    outputs = {
        "merged_features": merged,
        "merged_anchors": merged[picked[0]].view(len(merged), picked[1], -1),
        "nearest_only_anchors": nearest[picked[0]].view(len(merged), picked[1], -1),
    }
    if coupling is not None:
        real = coupling.source_mass > 0  # the stage has other tokens stand by
        size = (len(real), -1, coupling.plan.shape[-1])
        outputs["cost_kernel_K"] = torch.exp(-coupling.cost / 0.1)[real].view(size)
        outputs["plan_T"] = coupling.plan[real].view(size)
    return outputs


def _merge_into(inputs: Tensors, overrides: Params) -> tuple[Tensor, Any]:
    features, mask = inputs["features"], inputs["mask"]
    side = int(features.shape[1] ** 0.5)
    pipeline = _released({"intra_frame.n_anchors": int(mask[0].sum()), **overrides}, "intra_frame")
    stage: FrameStage = _stage(pipeline)
    stage.selector = Given(mask)
    seen = []
    coupler = stage.transport.coupler

    class Spy(Coupler):
        marginals = coupler.marginals

        def couple(self, *args: Tensor) -> Any:
            seen.append(coupler.couple(*args))
            return seen[-1]

    stage.transport.coupler = Spy()
    flow = _flow(VisualTokens.of(features, (side, side)), pipeline)
    stage.run(flow)
    return flow.tokens.features, seen[0] if seen else None


def aot_pool(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    side, mode = params["side"], params["mode"]
    return _pooled(inputs, side, mode, params.get("stride", 2))


def aot_pool_mask(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    return _pooled(inputs, params["side"], params["mode"], 2)


def _pooled(inputs: Tensors, side: int, mode: PoolMode, stride: int) -> dict[str, Tensor]:
    outputs = {}
    if "features" in inputs:
        outputs["pooled_features"] = pool_tokens(inputs["features"], (side, side), mode, stride)
    if "mask" in inputs:
        mask = inputs["mask"].reshape(len(inputs["mask"]), -1, 1).float()
        outputs["pooled_mask"] = pool_tokens(mask, (side, side), mode, stride)[..., 0] >= 0.5
    return outputs


def aot_e2e(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    tokens = _encoder_tokens(inputs, params["pool_mode"])
    pipeline = _released(_intra_overrides(params), "intra_frame", "pool")
    flow = _flow(tokens, pipeline)
    for index in range(2):
        stage: FrameStage | PoolStage = _stage(pipeline, index)
        stage.run(flow)
    pooled = replace(flow.tokens, native_pool="none")
    grid_mode = params["newline_position"] == "grid"
    if grid_mode:
        pooled = replace(pooled, newline=NewlineToken("row", inputs["image_newline"]))
    if not params["inter_compress"]:
        if grid_mode:  # every row is closed, also one of which nothing is left
            pooled = with_newline_column(pooled, inputs["image_newline"])
        return {"visual_tokens": pooled.features[pooled.keep]}
    scale = params["intra_scale" if grid_mode else "inter_scale"]
    return {"visual_tokens": _temporal(pooled, params["keep_ratio"], scale, None)[0].features}


def _temporal(
    tokens: VisualTokens, keep_ratio: float, scale: float, lengths: list[int] | None
) -> tuple[Any, list[int]]:
    pipeline = _released(
        {
            "inter_frame.keep.decide.keep_ratio": keep_ratio,
            "inter_frame.aggregator.strength": scale,
            "inter_frame.segmenter.only_frames": [32, 64],
        },
        "inter_frame",
    )
    stage: SegmentStage = _stage(pipeline)
    if lengths is not None:
        bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
        stage.segmenter = _GivenSegments(Segments(tuple(bounds)))
    frames = tokens.features.shape[0]
    segments = stage.segmenter.segment(torch.zeros(frames, 1))
    return pipeline.run(tokens), list(segments.boundaries)


def aot_temporal_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, mask = inputs["features"], inputs["mask"]
    side = int(features.shape[1] ** 0.5)
    tokens = shown = replace(VisualTokens.of(features, (side, side)), keep=mask)
    if params["newline"] == "grid":
        tokens = replace(tokens, newline=NewlineToken("row", inputs["newline"]))
        shown = with_newline_column(tokens, inputs["newline"])
    lengths = None if params["segments"] == "uniform" else params["segments"]
    reduced, bounds = _temporal(tokens, params["keep_ratio"], params["scaling"], lengths)
    index = reduced.token_index
    if reduced.newline is not None:
        index = index + index // side + reduced.newline
    return {
        "tokens": reduced.features,
        "kind": _kinds(reduced.frame_index, shown.keep, bounds),
        "frame": reduced.frame_index,
        "index": index,
        "segments": torch.tensor([[a, b - a] for a, b in zip(bounds, bounds[1:])]),
        "features_with_newline": shown.features,
        "mask_with_newline": shown.keep,
    }


def _kinds(frame_index: Tensor, keep: Tensor, bounds: list[int]) -> Tensor:
    """Number the tokens: 0 original anchor, 1 kept token of a later frame, 2 merged anchor."""
    kinds = torch.ones_like(frame_index)
    for start in bounds[:-1]:
        places = (frame_index == start).nonzero()[:, 0]
        n_anchors = int(keep[start].sum())
        kinds[places[:n_anchors]] = 0
        kinds[places[n_anchors:]] = 2
    return kinds


def aot_ota_merge_step(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    overrides = {
        "inter_frame.coupler.epsilon": params["eps"],
        "inter_frame.coupler.max_iter": params["max_iter"],
        "inter_frame.cost.1.sigma_frames": params["sigma_t"],
        "inter_frame.cost.1.max_gap_frames": params["max_dt"],
        "inter_frame.keep.decide.keep_ratio": params["keep_ratio"],
        "inter_frame.aggregator.strength": params["scaling"],
    }
    stage: SegmentStage = _stage(_released(overrides, "inter_frame"))
    sources = _group(inputs["sources"], inputs["sources_ts"])
    anchors = _group(inputs["anchors"], inputs["anchors_ts"])
    transport: Transport = stage.transport
    mass = [g.features.new_full(g.times.shape, 1 / g.times.shape[-1]) for g in (sources, anchors)]
    with patch.object(promises, "_settle"):  # the release goes on with NaN, a pipeline says so
        coupling = transport(sources, anchors, *mass)
        score = stage.score.score(coupling)
        stays = stage.decision.decide(score, keep=stage.score.keep, n_keep=None)
        left = replace(coupling, plan=coupling.plan * ~stays[..., None])
        weights = stage.aggregator.weights(left)
    merged = apply_merge(anchors.features, sources.features, weights)
    return {"new_anchors": merged, "keep_mask": stays, "transport_plan": coupling.plan}


def _group(features: Tensor, times: Tensor) -> TokenGroup:
    return TokenGroup(features, features.new_zeros(*features.shape[:-1], 2), times)


def aot_dynamic_segmentation(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    descriptors = inputs["frame_global_features"]
    config = DynamicConfig(min_segments=params["c"], tau=params["tau"], short_video="error")
    bounds = torch.tensor(DynamicSegmenter(config).segment(descriptors).boundaries)
    return {
        "segment_sizes": bounds.diff(),
        "cut_indices": bounds[1:-1] - 1,
        "similarity": neighbour_similarity(descriptors),
    }


def aot_tower_attention(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    attention = inputs["attentions"]
    layers, batch, heads, n, _ = attention.shape
    # Queries log(A) and unit keys have exactly A as their soft-max; a head at a time, as the
    # cases keep heads apart.
    query = attention.log().reshape(-1, 1, n, n)
    received = received_attention(query, torch.eye(n).expand_as(query), 1.0) * n
    return {
        "features": inputs["hidden_states"][-1],
        "attention_stack": received.view(layers, batch, heads, n),
    }


ALGORITHMS = {
    "aot_dynamic_segmentation": aot_dynamic_segmentation,
    "aot_e2e": aot_e2e,
    "aot_encode": aot_encode,
    "aot_ota_merge_step": aot_ota_merge_step,
    "aot_pool": aot_pool,
    "aot_pool_mask": aot_pool_mask,
    "aot_sinkhorn": aot_sinkhorn,
    "aot_temporal_merge": aot_temporal_merge,
    "aot_token_merge": aot_token_merge,
    "aot_tower_attention": aot_tower_attention,
    "aot_window_select": aot_window_select,
    "fastvid_dyseg": aot_dynamic_segmentation,
}

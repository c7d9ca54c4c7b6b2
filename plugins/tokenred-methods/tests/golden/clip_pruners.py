"""FasterVLM, VisPruner, HiRED, CDPruner and VScan as the golden cases name them."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.aot import Given, local_picks
from tokenred_methods.clip_pruners.relevance import clip_relevance
from torch import Tensor

from tokenred import Pipeline, ReducedTokens, VisualTokens, load_pipeline
from tokenred.models.attention import given_attention
from tokenred.stages.frame import FrameStage

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
DEEP = "salience@features"
RELEASED = {"budget.mode": "as-released"}


def _tokens(features: Tensor, cues: Tensors, grid: tuple[int, int] | None = None) -> VisualTokens:
    side = round(features.shape[1] ** 0.5)
    return VisualTokens.of(features, grid or (side, side), cues=cues)


def _of_budget(number: float, size: int) -> dict[str, Any]:
    return {**RELEASED, "budget.retention_ratio": number / size}


def _mask(reduced: ReducedTokens, like: Tensor) -> Tensor:
    mask = torch.zeros(like.shape[:2], dtype=torch.bool)
    mask[reduced.frame_index, reduced.token_index] = True
    return mask


def _selector(pipeline: Pipeline) -> Any:
    (selector,) = (s.selector for s in pipeline.stages.values() if isinstance(s, FrameStage))
    return selector


def fastervlm(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["features"]
    tokens = _tokens(features, {DEEP: inputs["attention"].mean(1)})
    number = params["visual_token_num"]
    reduced = load_pipeline("fastervlm", _of_budget(number, features.shape[1])).run(tokens)
    return {
        "index_mask": _mask(reduced, features),
        "mean_attention": tokens.cues[DEEP],
        "kept_tokens": reduced.features.view(len(features), number, -1),
    }


def vispruner(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, share = inputs["features"], params["important_ratio"]
    tokens = _tokens(features, {DEEP: inputs["attention"].mean(1), "tower": features})
    number = _of_budget(params["visual_token_num"], features.shape[1])
    first = {"important.n_anchors": f"budget * {share}"} if share else {"stages.important": None}
    repaired, released = (
        load_pipeline("vispruner", {**number, **first, "diverse.selector.released": flag})
        for flag in (False, True)
    )
    mask = _mask(released.run(tokens), features)
    assert torch.equal(mask, _mask(repaired.run(tokens), features))
    return {"index_mask": mask}


def cdpruner(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    released = _cdpruner(inputs, params, "cdpruner-released")
    if len(inputs["features"]) == 1:  # several images share one scale in the released form only
        repaired = _cdpruner(inputs, params, "cdpruner")
        assert torch.equal(released["index_mask"], repaired["index_mask"])
    return released


def _cdpruner(inputs: Tensors, params: Params, preset: str) -> dict[str, Tensor]:
    features = inputs["features"]
    relevance = clip_relevance(inputs["image_embeds"], inputs["text_embeds"])
    overrides = _of_budget(params["visual_token_num"], features.shape[1])
    reduced = load_pipeline(preset, overrides).run(_tokens(features, {"relevance": relevance}))
    return {"index_mask": _mask(reduced, features)}


def hired_llava15(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    query, key = (
        inputs[name].unflatten(-1, (params["num_heads"], -1)).transpose(1, 2)
        for name in ("query", "key")
    )
    # A head at a time: the cue is their mean, the cases keep them apart.
    heads = [given_attention(query[:, h, None, 0], key[:, h, None]) for h in range(query.shape[1])]
    attention = torch.stack(heads, dim=1)
    size, rate = params["num_vision_tokens"], params["token_budget_rate"]
    features = torch.randn(1, size, 4, generator=torch.Generator().manual_seed(0))
    overrides = {**RELEASED, "budget.rounding": "floor", "budget.retention_ratio": rate}
    pipeline = load_pipeline("hired", overrides)
    (cue,) = pipeline.needs
    tokens = _tokens(features, {cue: attention[:, :, -size:].mean(1)})
    if int(size * rate) == 0:  # a pipeline keeps a token at least; the selector may choose none
        chosen = _selector(pipeline).select(tokens, 0, generator=torch.Generator())
        return {
            "cls_attention": attention,
            "mask": tokens.keep[0].index_fill(0, chosen[0], True) ^ True,
        }
    return {"cls_attention": attention, "mask": _mask(pipeline.run(tokens), features)[0]}


def hired_next(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    counts = params["num_patches"]
    early, late = (inputs[f"{name}_attention"].mean(1).split(counts) for name in ("early", "late"))
    numbered = 0
    for image, n_partitions in enumerate(counts):
        size = params["num_vision_tokens"]
        pipeline = load_pipeline(
            "hired-tiles-released",
            {
                "budget.retention_ratio": params["token_budget_rate"],
                "frame.allocator.alpha": params["alpha"],
            },
        )
        cues = {"salience@0": early[image], "salience@0.92": late[image]}
        generator = torch.Generator().manual_seed(image)
        features = torch.randn(n_partitions, size, 4, generator=generator)
        reduced = pipeline.run(_tokens(features, cues))
        outputs[f"mask_{image}"] = _mask(reduced, features)
        if params["alpha"] < 1:
            shares = torch.tensor(reduced.realised.tokens_per_frame[1:])
            outputs[f"sub_image_budgets_{numbered}"] = shares
            numbered += 1
    return outputs


def vscan_encode(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    released = _vscan_encode(inputs, params, "vscan-released")
    if params["visual_token_num"] % 32 == 0:  # the windows divide what is theirs
        repaired = _vscan_encode(inputs, params, "vscan")
        assert torch.equal(released["index_mask"], repaired["index_mask"])
        assert torch.equal(released["merged_features"], repaired["merged_features"])
    return released


def _vscan_encode(inputs: Tensors, params: Params, preset: str) -> dict[str, Tensor]:
    features, number = inputs["features"], params["visual_token_num"]
    shallow, deep = "salience@0.21", DEEP
    cues = {
        shallow: inputs["attention_layer5"].mean(1),
        deep: inputs["attention_layer_minus2"].mean(1),
    }
    tokens = _tokens(features, cues)
    reduced = load_pipeline(preset, _of_budget(number, 576)).run(tokens)
    merged = features.clone()
    merged[reduced.frame_index, reduced.token_index] = reduced.features
    nothing_global = load_pipeline(preset, {"frame.selector.global_ratio": 0.0})
    local = local_picks(_selector(nothing_global), tokens, number // 2)
    keep_all = number == features.shape[1]
    return {
        "index_mask": _mask(reduced, features),
        "merged_features": merged,
        "deep_attention_after": cues[deep] if keep_all else cues[deep].scatter(-1, local, 0.0),
        "local_indices": local,
    }


def vscan_token_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, mask = inputs["features"], inputs["mask"]
    overrides = _of_budget(int(mask[0].sum()), mask.shape[1])
    if params["scaling"] != 1:  # the anchor's own weight, with which nobody calls it
        weight = {"name": "mass-normalised", "mass": "unit", "strength": 1 / params["scaling"]}
        overrides = {**overrides, "frame.aggregator": weight}
    pipeline = load_pipeline("vscan-released", overrides)
    for stage in pipeline.stages.values():
        if isinstance(stage, FrameStage):
            cues = {name: mask.float() for name in stage.needs}
            stage.selector = Given(mask)
    reduced = pipeline.run(_tokens(features, cues))
    merged = features.clone()
    merged[reduced.frame_index, reduced.token_index] = reduced.features
    return {"merged_features": merged}


def vscan_qwen(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, number = inputs["features"][None], params["num_keep"]
    grid = params["token_h"], params["token_w"]
    cues = {
        "attention@0.22": inputs["attention_local"][None],
        "attention@features": inputs["attention_global"][None],
    }
    tokens = _tokens(features, cues, grid)
    window = [params["window_size"]] * 2
    overrides = {**_of_budget(number, features.shape[1]), "frame.selector.window": window}
    pipeline = load_pipeline("vscan-qwen", overrides)
    reduced = pipeline.run(tokens)
    chosen = _selector(pipeline).select(tokens, number, generator=torch.Generator())
    return {
        "local_indices": chosen[0, : number // 2],
        "keep_indices": reduced.token_index,
        "merged_features": reduced.features,
    }


ALGORITHMS = {
    "cdpruner": cdpruner,
    "fastervlm": fastervlm,
    "hired_llava15": hired_llava15,
    "hired_next": hired_next,
    "vispruner": vispruner,
    "vscan_encode": vscan_encode,
    "vscan_qwen": vscan_qwen,
    "vscan_token_merge": vscan_token_merge,
}

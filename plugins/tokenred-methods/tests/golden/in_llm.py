"""The methods inside the LLM as the golden cases name them: what a preset has there, and a call.

The layers between two steps are the case's business; what is asked of attention is read from it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch
from tokenred_methods.framefusion.reducer import (
    dropped_share,
    merge_chains,
    place_similarity,
)
from tokenred_methods.holitom.fold import fold_targets
from tokenred_methods.sparsevlm.raters import choose_raters, rater_relevance
from tokenred_methods.sparsevlm.recycle import recycled
from torch import Tensor

from tokenred import load_pipeline
from tokenred.kernels.attention import attention_rows
from tokenred.kernels.clustering import cluster_means, density_peaks
from tokenred.types import CacheState, LayerReduction, LayerState

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
LAYER, DEPTH = 2, 32


def inside_of(preset: str, settings: Mapping[str, Any]) -> Any:
    """Return what a preset does inside the LLM, with some settings changed."""
    pipeline = load_pipeline(preset, settings)
    (inside,) = (each.inside for each in pipeline.stages.values() if each.inside)
    return inside


SPARSEVLM_2 = {
    "prune.reducer.ranker": {"name": "text-raters", "heads": 14, "divide_rotary": True},
    "prune.reducer.merger": "drop",
    "prune.reducer.positions": "keep",
}
"""The second version, as `--set` turns the first into it."""


def sparsevlm_of(version: str, schedule: Mapping[int, int]) -> Any:
    second = {"prune.reducer.merger.ties": "noise"} if version == "1_0" else SPARSEVLM_2
    changed = {"prune.reducer.schedule": schedule, "prune.reducer.drop_at_least": 1}
    return inside_of("sparsevlm", {**changed, **second})


def _no_rows(*args: Any, **kwargs: Any) -> Tensor:
    raise AssertionError("this case has no such attention")


def state_of(hidden: Tensor, start: int, length: int, **fields: Any) -> LayerState:
    """Return a prompt with ``length`` visual tokens of one frame from column ``start`` on."""
    n = len(hidden)
    visual = torch.zeros(n, dtype=torch.bool)
    visual[start : start + length] = True
    place = torch.full((n,), -1)
    place[visual] = torch.arange(length)
    settings: dict[str, Any] = {
        "layer": LAYER,
        "n_layers": DEPTH,
        "hidden": hidden,
        "origin": torch.arange(n),
        "visual": visual,
        "newline": torch.zeros_like(visual),
        "clip": visual.long() - 1,
        "frame_index": visual.long() - 1,
        "token_index": place,
        "group": visual.long() - 1,
        "last": n - 1,
        "embeddings": hidden,
        "n_visual": length,
        "cos": None,
        "sin": None,
        "attention": _no_rows,
        "probe": _no_rows,
        "projections": _no_rows,
        "previous_input": _no_rows,
        "final_norm": _no_rows,
    }
    return LayerState(**{**settings, **fields})


def rows_of(attention: Tensor) -> Callable[..., Tensor]:
    """Return the rows of a stored (heads, tokens, tokens) map."""
    return lambda queries, **_: attention[:, queries]


def applied(state: LayerState, reduction: LayerReduction | None) -> tuple[Tensor, Tensor]:
    """Return what is left: the source of every token and its hidden state."""
    if reduction is None:
        return torch.arange(len(state.hidden)), state.hidden
    hidden = state.hidden[reduction.source] if reduction.hidden is None else reduction.hidden
    return reduction.source, hidden


def fastv_select(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    by_rank = params["rule"] == "rank"
    amount = params["rank"] if by_rank else 1.0 - params["r"]
    reducer = inside_of("fastv", {"prune.reducer.schedule": {LAYER: amount}})
    start, length = params["image_start"], params["image_len"]
    attention = rows_of(inputs["attention"][0])
    state = state_of(inputs["hidden_states"][0], start, length, attention=attention)
    source, hidden = applied(state, reducer.reduce(state))
    return {
        "hidden_states": hidden[None],
        "keep_index": source,
        "position_ids": source[None],
        "image_scores": reducer.ranker.rank(state, state.visual.nonzero()[:, 0]),
    }


def holitom_inner_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = inside_of("holitom-released", {"merge.reducer.schedule": {LAYER: 1 - params["r"]}})
    start, length = params["image_start"], params["image_len"]
    state = state_of(
        inputs["hidden_states"][0], start, length, attention=rows_of(inputs["attention"][0])
    )
    # The image block of the release ends with a newline token, which it ranks with the others.
    newline = state.newline.clone()
    newline[start + length - 1] = True
    fields = {**vars(state), "visual": state.visual & ~newline, "newline": newline}
    state = LayerState(**{**fields, "n_visual": length - 1})
    source, hidden = applied(state, reducer.reduce(state))
    block = torch.arange(start, start + length)
    order = block[reducer.ranker.rank(state, block).argsort(descending=True, stable=True)]
    kept = order[torch.isin(order, source)]
    dropped = block[~torch.isin(block, kept)]
    targets = fold_targets(state.hidden, kept, dropped) if len(dropped) else dropped
    return {
        "hidden_states": hidden[None],
        "keep_index": source,
        "top_index": kept,
        "merge_target": kept[targets],
    }


def sparsevlm_text_raters(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    embeddings = inputs["hidden_states"][0]
    start, end = params["image_start"], params["image_start"] + params["image_len"]
    visual, text = torch.arange(start, end), torch.arange(end, len(embeddings))
    return {
        "relevance": rater_relevance(embeddings, visual, text)[None],
        "rater_index": choose_raters(embeddings, visual, text) - end,
    }


def sparsevlm_cluster_and_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    per_cluster = sparsevlm_of("1_0", {LAYER: 1}).merger.config.tokens_per_cluster
    noise = next((inputs[name][0] for name in inputs if name.startswith("noise_")), None)
    merged = recycled(inputs["x"][0], per_cluster, noise)
    assert len(merged) == params["cluster_num"]
    return {"merged": merged[None]}


def drawn_again(inputs: Tensors) -> AbstractContextManager[Any]:
    """Let ``torch.rand`` give what it gave in the run of the release."""
    noise = [inputs[name][0] for name in sorted(inputs) if name.startswith("noise_")]
    return patch.object(torch, "rand", side_effect=noise)


TABLES = {
    ("1_0", 192): (300, 200, 110),
    ("1_0", 64): (66, 30, 17),
    ("2_0", 64): (66, 34, 20),
}
STAGES = {2: 0, 6: 1, 15: 2}


def sparsevlm_stage(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    first = params["version"] == "1_0"
    table = TABLES[params["version"], params["retain_tokens"]]
    reducer = sparsevlm_of(params["version"], {LAYER: table[STAGES[params["layer"]]]})
    hidden = inputs["layer_output"][0]
    start, length = params["image_start"], params["v_token_num"]
    raters = inputs["rater_index"] + start + length
    state = state_of(
        hidden,
        start,
        length,
        attention=rows_of(inputs["attention"][0]),
        cos=inputs["cos"][: len(hidden)],
        sin=inputs["sin"][: len(hidden)],
        memory={"raters": raters},
    )
    with drawn_again(inputs):
        reduction = reducer.reduce(state)
    source, left = applied(state, reduction)
    columns = state.visual.nonzero()[:, 0]
    made = source == -1
    renumbered = reduction is not None and reduction.positions == "renumber"
    ids = torch.arange(len(source)) if renumbered else source
    outputs = {
        "hidden_states": left[None],
        "visual_keep_mask": torch.isin(columns, source)[None],
        "visual_scores": reducer.ranker.rank(state, columns)[None],
        "position_ids": inputs["position_ids"][:, ids],
        "v_token_num": torch.isin(source, columns).sum() + made.sum(),
    }
    return {**outputs, "recycled_tokens": left[made][None]} if first else outputs


def sparsevlm_rank_select_video(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    attention = inputs["attention"][0]
    start, length = params["image_start"], params["v_token_num"]
    reducer = inside_of(
        "sparsevlm", {"prune.reducer.schedule": {LAYER: "adaptive"}, "prune.reducer.merger": "drop"}
    )
    state = state_of(
        torch.zeros(attention.shape[-1], 4),
        start,
        length,
        attention=rows_of(attention),
        memory={"raters": inputs["rater_index"] + start + length},
    )
    reduction = reducer.reduce(state)
    source, _ = applied(state, reduction)
    columns = state.visual.nonzero()[:, 0]
    return {
        "visual_keep_mask": torch.isin(columns, source)[None],
        "s_flag": torch.tensor(reduction is not None),
        "visual_scores": reducer.ranker.rank(state, columns)[None],
    }


def framefusion_ratio(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    ratios = [dropped_share(sparsity, cost, 28) for sparsity, cost in params["queries"]]
    return {"ratio": torch.tensor(ratios, dtype=torch.float64)}


def framefusion_similarity(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    order, similarity = place_similarity(inputs["hidden_states"][0], inputs["patch_type"][0])
    return {"similarity_by_patch": similarity[None], "token_index_by_patch": order[None]}


def framefusion_merge_tokens(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    hidden = inputs["hidden_states"][0]
    order, similarity = place_similarity(hidden, inputs["patch_type"][0])
    joins = similarity >= params["threshold"]
    merged = merge_chains(hidden, order, joins)
    keep = torch.ones(len(hidden), dtype=torch.bool)
    keep[order[joins]] = False
    return {
        "merge_index_by_patch": joins.nonzero()[:, 0],
        "hidden_states_full": merged[None],
        "keep_mask": keep[None],
        "hidden_states": merged[keep],
    }


def framefusion_of(params: Params) -> Any:
    settings = {
        "fuse.reducer.cost": params["cost"],
        "fuse.reducer.similarity": params["similarity_lower_bound"],
        "fuse.reducer.merge_at_least": params["ratio_lower_bound"],
        "fuse.reducer.newlines": "merge",
        "fuse.reducer.assumed_layers": 28,
    }
    return inside_of("framefusion", settings)


def framefusion_forward_chain(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = framefusion_of(params)
    kind, n_kinds = inputs["patch_type"][0], params["patch_num"]
    # A grid of 4x4 and a column of newlines behind it, where the case has 20 kinds.
    newline = (kind >= 0) & (kind % 5 == 4) & torch.tensor(n_kinds == 20)
    place = (kind - newline.long()).where(kind >= 0, -1)
    hidden, positions = inputs["hidden_states"][0], torch.arange(len(kind))
    outputs: dict[str, Tensor] = {}
    memory: dict[str, Any] = {}
    phases, lengths = [], []
    for call in range(params["calls"]):
        if call:
            hidden = torch.tanh(hidden @ inputs["mix"]) * 2
        outputs[f"input_{call}"] = hidden[None]
        scores = inputs["query"] @ hidden.mT / hidden.shape[-1] ** 0.5
        weights = scores.softmax(-1)[:, None]

        def attend(queries: Tensor, call: int = call, weights: Tensor = weights) -> Tensor:
            outputs[f"attention_used_{call}"] = weights[None]
            return weights

        state = state_of(
            hidden,
            params["image_start"],
            0,
            layer=max(0, call - 1),
            n_layers=28,
            visual=(kind >= 0)[positions] & ~newline[positions],
            newline=newline[positions],
            clip=(kind >= 0)[positions].long() - 1,
            token_index=place[positions],
            n_visual=int(((kind >= 0) & ~newline).sum()),
            attention=attend,
            memory=memory,
        )
        source, hidden = applied(state, reducer.reduce(state))
        positions = positions[source]
        outputs.update({f"hidden_{call}": hidden[None], f"positions_{call}": positions})
        phases.append(memory["phase"])
        lengths.append(len(positions))
    return {
        **outputs,
        "finish_merging": torch.tensor([phase != "merge" for phase in phases]),
        "finish_pruning": torch.tensor([phase == "done" for phase in phases]),
        "lengths": torch.tensor(lengths),
        "sparsity_list": torch.tensor(memory["sparsity"], dtype=torch.float64),
    }


def dycoke_kv_pruning(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings = {
        "cache.pruner.layer": params["layer"],
        "cache.pruner.drop_ratio": params["prune_ratio"],
    }
    start, length, prefill = params["image_start"], params["image_len"], params["prefill_len"]
    # The release counts one visual token too few, so that the last always stays.
    n_visual = min(length + 1, prefill - start)
    if n_visual == length:
        settings["cache.pruner.spare_last"] = False
    pruner = inside_of("dycoke-released", settings)
    outputs: dict[str, Tensor] = {}
    memory: dict[str, Any] = {}
    pruned, similarity, before = [], [], None
    for step in range(params["steps"]):
        attention = inputs[f"attn_{step}"][0, :, 0]
        visual = torch.zeros(attention.shape[-1], dtype=torch.bool)
        visual[start : start + n_visual] = True
        state = CacheState(step, attention, visual, torch.zeros_like(visual), memory)
        chosen = pruner.prune(state)
        kept = torch.arange(len(visual)) if chosen is None else chosen
        outputs[f"kept_sorted_{step}"] = kept
        outputs[f"gathered_keys_sorted_{step}"] = inputs["keys"][:, :, kept]
        pruned.append(chosen is not None)
        scores = memory["scores"]
        cosine = 0.0 if before is None else torch.cosine_similarity(scores, before, dim=0)
        similarity.append(float(cosine))
        before = scores
    return {
        **outputs,
        "similarity": torch.tensor(similarity),
        "pruned_this_step": torch.tensor(pruned),
    }


def prunevid_dpc_knn(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    n = params["cluster_num"]
    found = density_peaks(inputs["x"], n, params["k"], noise=inputs.get("noise_0"))
    return {
        "idx_cluster": found.label,
        "cluster_mean": cluster_means(inputs["x"], found.label, n),
    }


def prunevid_llm_select(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    layer = params["selected_layer"] + 1
    reducer = inside_of(
        "prunevid-released", {"prune.reducer.schedule": {layer: float(params["alpha"])}}
    )
    visual = inputs["input_ids"][0] == params["pad"]
    sizes = []
    for static, dynamic, frames in zip(
        params["static_sizes"], params["dynamic_sizes"], params["window_sizes"], strict=True
    ):
        sizes += [static, *[dynamic // frames] * frames]
    group = torch.full((len(visual),), -1)
    group[visual] = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    state = state_of(
        inputs["hidden_states"][0],
        params["pre"],
        int(visual.sum()),
        layer=layer,
        group=group,
        probe=rows_of(inputs["attention"][0]),
    )
    reduction = reducer.reduce(state)
    source, hidden = applied(state, reduction)
    if reduction is not None:
        assert (reduction.cut_cache, reduction.positions) == (True, "keep")
    return {
        "hidden_states": hidden[None],
        "position_ids": source[None],
        "cache_position": torch.arange(len(source)),
        "kept_keys": inputs["keys"][:, :, source],
    }


def prunevid_position_free_attention(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    rows = attention_rows(inputs["query"][0], inputs["key"][0])
    return {"attention": rows[None]}


ALGORITHMS = {
    "dycoke_kv_pruning": dycoke_kv_pruning,
    "fastv_select": fastv_select,
    "framefusion_forward_chain": framefusion_forward_chain,
    "framefusion_merge_tokens": framefusion_merge_tokens,
    "framefusion_ratio": framefusion_ratio,
    "framefusion_similarity": framefusion_similarity,
    "holitom_inner_merge": holitom_inner_merge,
    "prunevid_dpc_knn": prunevid_dpc_knn,
    "prunevid_llm_select": prunevid_llm_select,
    "prunevid_position_free_attention": prunevid_position_free_attention,
    "sparsevlm_cluster_and_merge": sparsevlm_cluster_and_merge,
    "sparsevlm_rank_select_video": sparsevlm_rank_select_video,
    "sparsevlm_stage": sparsevlm_stage,
    "sparsevlm_text_raters": sparsevlm_text_raters,
}

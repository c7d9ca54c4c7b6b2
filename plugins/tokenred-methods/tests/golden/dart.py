"""DART as the golden cases name it."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.in_llm import applied, inside_of, state_of
from golden.tiny import _run
from tokenred_methods.dart.ranker import choose_pivots
from torch import Tensor

from tokenred.types import Projections

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
DEFAULT_LAYER = 2


def _reducer(params: Params, layer: int, share: float, tokens: int | None) -> Any:
    settings = {
        "schedule": {layer: "adaptive"},
        "ranker.image_pivots": params.get("pivot_image_token", 4),
        "ranker.text_pivots": params.get("pivot_text_token", 4),
        "ranker.tokens": tokens,
        "ranker.share": share,
    }
    return inside_of(
        "dart-released", {f"prune.reducer.{name}": value for name, value in settings.items()}
    )


def dart_select(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    hidden, keys = inputs["hidden_states"][0], inputs["keys"][0]
    start, length = params["image_start"], params["image_len"]
    tokens = params["max_num_trunction"]
    if "text_length" in params:  # of LLaVA-NeXT, whose images differ in size
        length = len(hidden) - params["text_length"]
        most = length - params["pivot_image_token"]
        tokens = min(params["retain_token_num_for_llava_next"], most)
    reducer = _reducer(params, DEFAULT_LAYER, 1 - params["reduction_ratio"], tokens)
    state = state_of(
        hidden,
        start,
        length,
        projections=lambda *args: Projections(keys, keys, 1.0),
        final_norm=lambda states: inputs["last_layer_state"][0],
    )
    candidates = state.visual.nonzero()[:, 0]
    source, after = applied(state, reducer.reduce(state))
    return {
        "retained_image_index": source[state.visual[source]],
        "keep_index": source,
        "pivot_order": choose_pivots(state, candidates, reducer.ranker.config),
        "hidden_states": after[None],
        "position_ids": source[None],
    }


def tiny_dart(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    share = 1 - params["reduction_ratio"]
    reducer = _reducer(params, params["k"], share, params["max_num_trunction"])
    found = _run(inputs, params, params["arch"], reducer)
    return {
        "kept_index": found.kept,
        "tokens_per_layer": torch.tensor(found.lengths),
        "hidden_into_layer_k": found.entered[params["k"]],
        "last_hidden_state": found.last,
        "decode_hidden_state": torch.cat(found.decoded, 1),
        "cached_tokens_per_layer": torch.tensor(found.cached),
    }


ALGORITHMS = {"dart_select": dart_select, "tiny_dart": tiny_dart}

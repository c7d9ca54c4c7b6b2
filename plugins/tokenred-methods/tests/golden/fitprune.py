"""FitPrune's algorithms as the golden cases name them."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.in_llm import DEPTH, applied, inside_of, rows_of, state_of
from golden.tiny import decoded
from torch import Tensor

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def released(ratio: Any, **settings: Any) -> Any:
    changed = {f"prune.reducer.{name}": value for name, value in settings.items()}
    return inside_of("fitprune-released", {"prune.reducer.drops": ratio, **changed})


def fitprune_layer(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = released(params["reduction_ratio"])
    hidden = inputs["hidden_states"]
    output, attention = _attention(inputs, params, hidden)
    state = state_of(
        hidden[0],
        params["image_start"],
        params["image_len"],
        layer=params["layer_idx"],
        n_layers=DEPTH,
        attention=rows_of(attention[0]),
    )
    source, _ = applied(state, reducer.reduce(state))
    return {
        "attention": attention,
        "keep_index": source,
        "attention_output": output[:, source],
        "n_dropped": torch.tensor(hidden.shape[1] - len(source)),
        "cached_tokens": torch.tensor(hidden.shape[1]),
    }


def _attention(inputs: Tensors, params: Params, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Run transformers' own attention with the weights of the case."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=params["hidden"],
        num_attention_heads=params["heads"],
        num_key_value_heads=params["kv_heads"],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
    )
    with torch.random.fork_rng(devices=[]):
        module = LlamaAttention(config, 0).eval()
    weights = {name[2:]: value for name, value in inputs.items() if name.startswith("w.")}
    module.load_state_dict(weights)
    n = hidden.shape[1]
    tables = LlamaRotaryEmbedding(config)(hidden, torch.arange(n)[None])
    mask = torch.full((n, n), torch.finfo(hidden.dtype).min).triu(1)[None, None]
    with torch.no_grad():
        return module(hidden, position_embeddings=tables, attention_mask=mask)


def tiny_fitprune(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = released(params["reduction_ratio"], same_depth=True)
    found = decoded(inputs, params, "llama", reducer)
    return {
        "tokens_per_layer": torch.tensor(found.lengths),
        "kept_index_into_last_layer": found.entering_last,
        "last_hidden_state": found.last,
        "decode_hidden_state": found.decoded,
        "cached_tokens_per_layer": torch.tensor(found.cached),
    }


ALGORITHMS = {"fitprune_layer": fitprune_layer, "tiny_fitprune": tiny_fitprune}

"""VTW as the golden cases name it."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.tiny import _decoder, _prompt, _run
from tokenred_methods.vtw import withdrawal_layer
from torch import Tensor

from tokenred import load_pipeline
from tokenred.models.inside.llm import inside_llm

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def tiny_vtw(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = "stages.withdraw.reducer"
    # The release counts written tokens from the cache of layer 0, which is short only here.
    positions = "recount" if params["k"] == 0 else params["positions"]
    settings = {
        f"{reducer}.schedule": {params["k"]: 0},
        f"{reducer}.positions": positions,
    }
    pipeline = load_pipeline("vtw-released", settings)
    found = _run(inputs, params, params["arch"], pipeline.inside_llm.reducers[0][1])
    looked_at = min(params["k"], params["layers"] - 1)  # the last layer's, beyond it
    return {
        "kept_index": found.kept,
        "tokens_per_layer": torch.tensor(found.lengths),
        "last_hidden_state": found.last,
        "decode_hidden_state": torch.cat(found.decoded, 1),
        "cached_tokens_per_layer": torch.tensor(found.cached),
        "position_ids_into_layer_k": found.positions[looked_at],
        "hidden_into_layer_k": found.entered[looked_at],
    }


def vtw_find_k(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    stack = {name: value for name, value in inputs.items() if name != "w.lm_head.weight"}
    model = _decoder(stack, params, "llama")
    samples, head = inputs["samples"], inputs["w.lm_head.weight"]

    def next_token(pipeline: Any) -> Tensor:
        rows = []
        with inside_llm(model, pipeline.inside_llm) as run, torch.no_grad():
            for sample in samples[:, None]:
                run.begin(_prompt(sample.shape[1], params))
                hidden = model(inputs_embeds=sample, use_cache=False).last_hidden_state
                rows.append(hidden[:, -1] @ head.mT)
        return torch.cat(rows)

    found = withdrawal_layer(next_token, range(5, params["layers"]), params["eta"])
    return {
        "k": torch.tensor([found.layer]),
        "kl_per_sample": found.divergence,
        "kl_mean": found.divergence.mean(0),
    }


ALGORITHMS = {"tiny_vtw": tiny_vtw, "vtw_find_k": vtw_find_k}

"""V2Drop as the golden cases name it."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.in_llm import applied, state_of
from golden.tiny import _run
from torch import Tensor

from tokenred import load_pipeline
from tokenred.models.inside.llm import PromptTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def _reducer(params: Params, **settings: Any) -> Any:
    schedule = dict(zip(params["drop_layers"], params["ratios"], strict=True))
    chosen = {
        "schedule": schedule,
        "longer_than": params["image_len"],
        "missing_layers": "refuse",  # all that fails in the case of five layers
        **settings,
    }
    where = {f"stages.prune.reducer.{name}": value for name, value in chosen.items()}
    return load_pipeline("v2drop-released", where).inside_llm.reducers[0][1]


def v2drop_stages(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    layers, reducer = inputs["hidden_states"], _reducer(params)
    n_layers, n = len(layers) - 1, layers.shape[1]
    _block(n, params)
    alive = torch.arange(n)
    outputs, lengths = {}, []
    steps = {step.layer: stage for stage, step in enumerate(reducer.steps(n_layers))}
    start, memory = params["image_start"], {}
    for index in range(n_layers):
        if index in steps:
            visual = (alive >= start) & (alive < start + params["image_len"])
            state = state_of(
                layers[index, alive],
                start,
                int(visual.sum()),
                layer=index,
                n_layers=n_layers,
                previous_input=lambda index=index, alive=alive: layers[index - 1, alive],
                embeddings=layers[0],
                memory=memory,
            )
            source, _ = applied(state, reducer.reduce(state))
            alive = alive[source]
            outputs[f"kept_index_stage{steps[index]}"] = alive
        lengths.append(len(alive))
    outputs["tokens_per_layer"] = torch.tensor(lengths)
    outputs["last_hidden_state"] = layers[-1, alive][None]
    return outputs


def _block(n: int, params: Params) -> PromptTokens:
    """Return the prompt as an engine would be told it."""
    start, length = params["image_start"], params["image_len"]
    behind = max(0, n - start - length) if n != length else 0
    block = [False] * start + [True] * length + [False] * behind
    visual = torch.tensor([block if n > length else block[:n]])
    text = torch.full(visual.shape, -1)
    mask = torch.ones(1, n, dtype=torch.bool)
    newline = torch.zeros_like(visual)
    return PromptTokens(mask, visual, newline, text, text, text, text)


def tiny_v2drop(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    reducer = _reducer(params)
    kept: list[Tensor] = []
    reduce = reducer.reduce

    def listen(state: Any) -> Any:
        reduction = reduce(state)
        kept.append(state.origin[applied(state, reduction)[0]])
        return reduction

    reducer.reduce = listen
    found = _run(inputs, params, params["arch"], reducer)
    return {
        "kept_index": found.kept,
        **{f"kept_index_stage{stage}": each for stage, each in enumerate(kept)},
        "tokens_per_layer": torch.tensor(found.lengths),
        "last_hidden_state": found.last,
        "decode_hidden_state": torch.cat(found.decoded, 1),
        "cached_tokens_per_layer": torch.tensor(found.cached),
    }


ALGORITHMS = {"tiny_v2drop": tiny_v2drop, "v2drop_stages": v2drop_stages}

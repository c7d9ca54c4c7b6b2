"""PACT as the golden cases name it."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.in_llm import applied, inside_of, state_of
from golden.tiny import _run
from tokenred_methods.pact.reducer import find_clusters
from torch import Tensor

from tokenred.types import LayerReduction, Projections

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def pact_cluster(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    n = len(inputs["hidden"])
    pruned = "pruned_keys" in inputs
    hidden, keys = inputs["hidden"], inputs["keys"]
    if pruned:
        hidden = torch.cat([hidden, inputs["pruned_hidden"]])
        keys = torch.cat([keys, inputs["pruned_keys"]])
    settings = {
        "prune.reducer.cutoff": params["cutoff"],
        "prune.reducer.take_in": params["coef_pruned"] if pruned else None,
    }
    reducer = inside_of("pact", settings)
    kept = torch.arange(n)
    text = hidden[:1]
    last = torch.tensor([len(hidden)])
    reducer.keep.reduce = lambda state: LayerReduction(torch.cat([kept, last]))
    state = state_of(
        torch.cat([hidden, text]),
        0,
        len(hidden),
        projections=lambda *args: Projections(*2 * (torch.cat([keys, keys[:1]])[None],), 1.0),
    )
    source, merged = applied(state, reduction := reducer.reduce(state))
    clusters = find_clusters(keys, n, reducer.config)
    outside = clusters.label < 0
    return {
        "label": clusters.centres[clusters.label].masked_fill(outside, -1),
        "centres": clusters.centres,
        "keep_index": source[:-1],
        "merged": merged[:-1],
        "size": reduction.log_weight[:-1].exp(),
    }


def tiny_pact(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    amount = "adaptive" if params.get("prune", True) else 1.0
    keep = {
        "name": "ranked",
        "schedule": {params["layer"]: amount},
        "ranker": {"name": "key-query", "share": params["keep"]},
    }
    settings: dict[str, Any] = {"prune.reducer": keep}
    if params.get("cluster", True):
        take_in = 1.5 if params.get("include_pruned", True) else None
        settings = {
            "prune.reducer.keep": keep,
            "prune.reducer.cutoff": params["cutoff"],
            "prune.reducer.take_in": take_in,
        }
    reducer = inside_of("pact-released", settings)
    weights: list[Tensor] = []
    reduce = reducer.reduce

    def listen(state: Any) -> Any:
        reduction = reduce(state)
        source, _ = applied(state, reduction)
        given = None if reduction is None else reduction.log_weight
        weights.append(torch.zeros(len(source)) if given is None else given)
        return reduction

    reducer.reduce = listen
    found = _run(inputs, params, params["arch"], reducer)
    return {
        "kept_index": found.kept,
        "hidden_into_layer": found.entered[params["layer"]],
        "log_size": weights[0],
        "tokens_per_layer": torch.tensor(found.lengths),
        "last_hidden_state": found.last,
        "decode_hidden_state": torch.cat(found.decoded, 1),
    }


ALGORITHMS = {"pact_cluster": pact_cluster, "tiny_pact": tiny_pact}

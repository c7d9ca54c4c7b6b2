"""MustDrop's algorithms as the golden cases name them."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.aim import grouped
from golden.in_llm import applied, inside_of, rows_of, state_of
from torch import Tensor

from tokenred import load_pipeline
from tokenred.types import VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def mustdrop_filter(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings = {
        "prune.reducer.schedule": {2: "adaptive"},
        "prune.reducer.ranker.total": params["global_thr"],
        "prune.reducer.ranker.single": params["individual_thr"],
    }
    attention, start = inputs["attention"][0], params["image_start"]
    hidden = torch.zeros(attention.shape[-1], 1)
    state = state_of(hidden, start, params["image_len"], attention=rows_of(attention))
    source, _ = applied(state, inside_of("mustdrop", settings).reduce(state))
    return {"kept_visual_index": source[state.visual[source]] - start}


def mustdrop_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings = {
        "merge.grouper.window": params["window"],
        "merge.grouper.threshold": params["threshold"],
        "merge.grouper.same_number": True,
        "merge.grouper.border": "refuse",
    }
    first, rest = inputs["hidden_states"][:, :1], inputs["hidden_states"][:, 1:]
    side = round(rest.shape[1] ** 0.5)
    pipeline = load_pipeline("mustdrop", settings)
    merged, size = grouped(pipeline, VisualTokens.of(rest, (side, side)))
    size = torch.cat([torch.ones(len(first), 1, 1), size], 1)
    return {"merged": torch.cat([first, merged], 1), "size": size}


ALGORITHMS = {"mustdrop_filter": mustdrop_filter, "mustdrop_merge": mustdrop_merge}

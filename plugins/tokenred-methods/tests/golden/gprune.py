"""G-Prune's algorithm as the golden cases name it, a run of its released preset for each view."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
BASE = 24 * 24


def gprune(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings: dict[str, Any] = {"budget.retention_ratio": params["keep_ratio"]}
    if "iterations" in params:
        settings["frame.selector.steps"] = params["iterations"]
    pipeline = load_pipeline("gprune-released", settings)
    rows, columns = params["rows"], params["columns"]
    place = torch.arange(len(inputs["features"]) - BASE).view(rows, columns + 1) + BASE
    views = [(torch.arange(BASE), (24, 24)), (place[:, :-1].flatten(), (rows, columns))]
    kept = [place[:, -1]]  # newline tokens, which are no part of a graph
    for index, grid in views:
        reduced = pipeline.run(VisualTokens.of(inputs["features"][index][None], grid))
        kept.append(index[reduced.token_index])
    return {"kept": torch.cat(kept).sort().values}


ALGORITHMS = {"gprune": gprune}

"""IDPruner's algorithm as the golden cases name it, a run of its released preset."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def idpruner_mmr(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings: dict[str, Any] = {"budget.retention_ratio": 1 - params["drop_ratio"]}
    for ours, theirs in (("balance", "lambda"), ("per_step", "parallel_k")):
        if theirs in params:
            settings[f"frame.selector.{ours}"] = params[theirs]
    features = inputs["features"]
    cues = {} if "omit" in params else {"importance": inputs["scores"][None]}
    tokens = VisualTokens.of(features[None], (1, len(features)), cues=cues)
    kept = load_pipeline("idpruner-released", settings).run(tokens).token_index
    mask = torch.zeros(len(features), dtype=torch.bool)
    return {"mask": mask.index_fill(0, kept, True), "kept": kept}


ALGORITHMS = {"idpruner_mmr": idpruner_mmr}

"""IDPruner's algorithm as the golden cases name it, a run of its released preset."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def idpruner_mmr(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["features"]
    # Without the trained scorer there is no importance.
    has_scores = params.get("omit") != "selector_path"
    cues = {"importance": inputs["scores"][None]} if has_scores else {}
    tokens = VisualTokens.of(features[None], (1, len(features)), cues=cues)
    settings = {
        "budget.retention_ratio": 1 - params["drop_ratio"],
        "frame.selector.balance": params.get("lambda", 0.5),
        "frame.selector.per_step": params.get("parallel_k", 1),
    }
    kept = load_pipeline("idpruner-released", settings).run(tokens).token_index
    mask = torch.zeros(len(features), dtype=torch.bool)
    mask[kept] = True
    return {"mask": mask, "kept": kept}


ALGORITHMS = {"idpruner_mmr": idpruner_mmr}

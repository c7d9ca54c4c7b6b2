"""DivPrune's algorithm as the golden cases name it, a run of its released preset."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def divprune(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["features"]
    tokens = VisualTokens.of(features[None], (1, len(features)))
    pipeline = load_pipeline("divprune-released", {"budget.retention_ratio": params["ratio"]})
    kept = pipeline.run(tokens).token_index
    selector = pipeline.stages["frame"].selector
    order = selector.select(tokens, len(kept), generator=torch.Generator())[0]
    return {"order": order, "kept": kept}


ALGORITHMS = {"divprune": divprune}

"""KVTP's rates as the golden cases name them, given to frames by its released preset."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.kvtp.rates import CUE, frame_rates
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
RELEASED_RATIO = 0.2


def kvtp_rates(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    relevance, side = inputs["logits"].mT, params["side"]
    settings = {
        "budget.retention_ratio": RELEASED_RATIO,
        "frame.allocator.refuse_short": params["hard_selection"],
        "frame.n_anchors": RELEASED_RATIO,
        "frame.selector": "random",
        "frame.aggregator": "keep-only",
        "frame.mass": "uniform",
        "frame.cost": ["cosine"],
    }
    pipeline = load_pipeline("kvtp-released", settings)
    features = torch.zeros(len(relevance), side * side, 1)
    tokens = VisualTokens.of(features, (side, side), cues={CUE: relevance})
    counts = pipeline.run(tokens).realised.tokens_per_frame
    return {"rates": frame_rates(relevance, RELEASED_RATIO), "counts": torch.tensor(counts)}


ALGORITHMS = {"kvtp_rates": kvtp_rates}

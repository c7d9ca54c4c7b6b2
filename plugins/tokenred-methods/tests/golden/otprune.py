"""OTPrune's algorithm as the golden cases name it: the picks, and the order that is released."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def otprune(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["features"]
    tokens = VisualTokens.of(features[None], (1, len(features)))
    ratio = {"budget.retention_ratio": params["ratio"]}
    released = load_pipeline("otprune-released", ratio)
    sent = released.run(tokens).token_index
    # The release fails where it is to keep none, and so does the selector.
    released.stages["frame"].selector.select(tokens, len(sent), generator=torch.Generator())
    sorted_ = load_pipeline(
        "otprune-released", {**ratio, "frame.order": "raster", "frame.selector.released": False}
    )
    selector = sorted_.stages["frame"].selector
    order = selector.select(tokens, len(sent), generator=torch.Generator())[0]
    return {"order": order, "kept": sorted_.run(tokens).token_index, "released_order": sent}


ALGORITHMS = {"otprune": otprune}

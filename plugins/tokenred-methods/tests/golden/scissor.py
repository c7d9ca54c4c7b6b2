"""LLaVA-Scissor's algorithm as the golden cases name it: the released preset, given its samples."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.scissor.components import two_passes
from torch import Tensor

from tokenred.pipeline import load_pipeline
from tokenred.types import VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def scissor_compress(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    n = params["tokens_per_frame"]
    settings = {"tau": params["tau"], "epsilon": params["epsilon"]}
    overrides = {f"stages.group.grouper.{name}": value for name, value in settings.items()}
    pipeline = load_pipeline("scissor-released", overrides)
    grouper = pipeline.stages["group"].grouper
    features = inputs["features"]
    tokens = VisualTokens.of(features.view(-1, n, features.shape[-1]), (1, n))
    frames = len(tokens.features)
    samples = [inputs[f"sampled_{call}"] for call in range(frames + 1)]
    grouper.samples = list(samples)
    reduced = pipeline.run(tokens)
    assert grouper.samples == []
    found = two_passes(features, [n] * frames, grouper.config, lambda *_: samples.pop(0))
    return {
        "tokens": reduced.features,
        "num_tokens": torch.tensor(len(reduced.features)),
        "components_after_spatial": torch.tensor(len(found.spatial.head)),
        "assignment": found.nearest,
    }


ALGORITHMS = {"scissor_compress": scissor_compress}

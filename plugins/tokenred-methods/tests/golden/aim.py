"""AIM's algorithms as the golden cases name them."""

from collections.abc import Mapping
from typing import Any

import torch
from golden.in_llm import inside_of, rows_of, state_of
from torch import Tensor

from tokenred import load_pipeline
from tokenred.types import VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def aim_merge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features = inputs["features"]
    tokens = VisualTokens.of(features, (1, features.shape[1]))
    outputs = {}
    for step in range(len(params["r"])):
        settings = {"merge.grouper.steps": params["r"][: step + 1], "prune": None}
        merged, _ = grouped(load_pipeline("aim", settings), tokens)
        outputs |= {f"merged_{step}": merged, f"n_{step}": torch.tensor(merged.shape[1])}
    return outputs


def grouped(pipeline: Any, tokens: VisualTokens) -> tuple[Tensor, Tensor]:
    """Return features and sizes in the order of the grouper, frame by frame."""
    found = pipeline.stages["merge"].grouper.group(tokens, generator=torch.Generator())
    reduced = pipeline.run(tokens)
    place = reduced.frame_index * tokens.keep.shape[1] + reduced.token_index
    where = place.argsort()[torch.searchsorted(place.sort().values, found.head)]
    n_frames, _, width = tokens.features.shape
    size = reduced.mass[where].view(n_frames, -1, 1)
    return reduced.features[where].view(n_frames, -1, width), size


def aim_importance(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    names = {"tau": "temperature", "iters": "iterations", "d": "damping"}
    settings = {f"prune.reducer.ranker.{names[key]}": value for key, value in params.items()}
    attention = inputs["logits"][0].softmax(-1)
    n = attention.shape[-1]
    state = state_of(torch.zeros(n, 1), 0, n, attention=rows_of(attention))
    ranker = inside_of("aim", settings).ranker
    return {"importance": ranker.rank(state, torch.arange(n))[None].float()}


ALGORITHMS = {"aim_importance": aim_importance, "aim_merge": aim_merge}

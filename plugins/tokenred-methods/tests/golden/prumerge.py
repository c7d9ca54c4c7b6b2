"""PruMerge's algorithms as the golden cases name them, each a run of its released presets."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.prumerge.outliers import outlier_limit
from torch import Tensor

from tokenred import Pipeline, load_pipeline
from tokenred.models.attention import Captured
from tokenred.models.cues.names import parse_cues
from tokenred.types import VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def _tokens(inputs: Tensors, pipeline: Pipeline) -> VisualTokens:
    """Let tokenred see queries and keys as it sees those of a tower with a class token."""
    features = inputs["hidden_states"][:, 1:]
    wanted = parse_cues(pipeline.needs, 24, class_token=True)
    seen = Captured()
    seen.add({cue.kind for cue in wanted}, inputs["query"][:, None], inputs["key"][:, None], None)
    cues = {cue.name: seen.of(cue.kind)[0][:, 1:] for cue in wanted}
    side = int(features.shape[1] ** 0.5)
    return VisualTokens.of(features, (side, side), cues=cues)


def _run(pipeline: Pipeline, inputs: Tensors, params: Params) -> dict[str, Tensor]:
    """Run a pipeline; every frame has the same number of tokens, the last one is the extra one."""
    tokens = _tokens(inputs, pipeline)
    frames = len(tokens.keep)
    reduced = pipeline.run(tokens)
    index = reduced.token_index.view(frames, -1)[:, :-1]
    dropped = torch.ones_like(tokens.keep).scatter(-1, index, False)
    outputs = {
        "tokens": reduced.features.view(frames, -1, tokens.features.shape[-1]),
        "selected_indices": index,
        "complement_indices": _complement(dropped, index.shape[1]),
    }
    if params["adaptive"]:
        (cue,) = pipeline.stages["kept"].selector.needs
        attention = tokens.cues[cue].reshape(1, -1)
        above = attention > outlier_limit(attention, 1.5)
        outputs["outlier_ratio"] = above.double().mean(-1)
    return outputs


def _complement(dropped: Tensor, n_kept: int) -> Tensor:
    """List what was dropped; repeats push the first of it out, as released."""
    left = dropped.shape[1] - n_kept
    return torch.stack([row.nonzero()[len(row.nonzero()) - left :, 0] for row in dropped])


def prumerge(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    overrides: dict[str, Any] = {}
    if not params["adaptive"]:
        selector = {"name": "top-attention", "layer": -1, "query": "any-joint"}
        n_tokens = inputs["key"].shape[1] - 1
        overrides = {
            "kept.selector": selector,
            "kept.n_anchors": int(n_tokens * params["reduction_ratio"]),
        }
    return _run(load_pipeline("prumerge-released", overrides), inputs, params)


def prumerge_plus(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    if params["adaptive"]:
        return _run(load_pipeline("prumerge-plus-released"), inputs, params)
    n_tokens = inputs["key"].shape[1] - 1
    n_anchors = 2 * int(n_tokens * params["reduction_ratio"])
    pipeline = load_pipeline(
        "prumerge-plus-fixed-released", {"kept.n_anchors": n_anchors / n_tokens}
    )
    return _run(pipeline, inputs, params)


ALGORITHMS = {"prumerge": prumerge, "prumerge_plus": prumerge_plus}

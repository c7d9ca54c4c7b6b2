"""PruMerge's algorithms as the golden cases name them, each a run of its released presets.

The mode of a fixed number repeats tokens, which no stage of a pipeline emits
twice: there the strategies of the preset are called on the repeated groups.
"""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.prumerge.outliers import outlier_limit
from torch import Tensor

from tokenred import Pipeline, load_pipeline
from tokenred.kernels.merge import apply_merge, gather_tokens
from tokenred.models.attention import Captured
from tokenred.models.cues.names import parse_cues
from tokenred.types import TokenGroup, VisualTokens

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
        "complement_indices": dropped.nonzero()[:, 1].view(frames, -1),
    }
    if params["adaptive"]:
        (cue,) = pipeline.stages["kept"].selector.needs
        attention = tokens.cues[cue].reshape(1, -1)
        above = attention > outlier_limit(attention, 1.5)
        outputs["outlier_ratio"] = above.double().mean(-1)
    return outputs


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
    first = {"name": "top-attention", "layer": -1, "query": "any-joint"}
    overrides = {
        "kept.selector.first": first,
        "kept.selector.samples": 1.0,
        "kept.selector.released": "fixed",
    }
    pipeline = load_pipeline("prumerge-plus-released", overrides)
    tokens = _tokens(inputs, pipeline)
    stage = pipeline.stages["kept"]
    n_tokens = tokens.keep.shape[1]
    n_anchors = 2 * int(n_tokens * params["reduction_ratio"])
    selected = stage.selector.select(tokens, n_anchors, generator=torch.Generator())
    dropped = torch.ones_like(tokens.keep).scatter(-1, selected, False)
    # Repeats push the first dropped tokens out of the complement, as released.
    complement = torch.stack([mask.nonzero()[n_anchors - n_tokens :, 0] for mask in dropped])
    return {
        "tokens": _merged(pipeline, tokens, selected, complement),
        "selected_indices": selected,
        "complement_indices": complement,
    }


def _merged(
    pipeline: Pipeline, tokens: VisualTokens, selected: Tensor, complement: Tensor
) -> Tensor:
    """Couple and aggregate as the two stages do, on lists that name a token more than once."""
    stages = pipeline.stages
    everything = torch.cat([selected, complement], dim=-1)
    itself = torch.eye(everything.shape[1], dtype=torch.bool)[:, : selected.shape[1]]
    itself = itself.expand(len(everything), -1, -1)
    kept = _solve(stages["kept"], tokens, selected, everything, itself)
    mass = tokens.cues[stages["rest"].config.mass]
    strongest = complement.gather(-1, mass.gather(-1, complement).argmax(-1, keepdim=True))
    others = complement[complement != strongest].view(len(complement), -1)
    return torch.cat([kept, _solve(stages["rest"], tokens, strongest, others)], dim=1)


def _solve(
    stage: Any,
    tokens: VisualTokens,
    anchors: Tensor,
    sources: Tensor,
    forbidden: Tensor | None = None,
) -> Tensor:
    mass = tokens.cues[stage.config.mass]

    def group(index: Tensor) -> TokenGroup:
        cues = {name: gather_tokens(tokens.cues[name], index) for name in stage.transport.needs}
        nowhere = tokens.features.new_zeros(*index.shape, 2)
        features = gather_tokens(tokens.features, index)
        return TokenGroup(features, nowhere, nowhere[..., 0], None, cues)

    left, right = group(sources), group(anchors)
    masses = mass.gather(-1, sources), mass.gather(-1, anchors)
    coupling = stage.transport(left, right, *masses, forbidden)
    return apply_merge(right.features, left.features, stage.aggregator.weights(coupling))


ALGORITHMS = {"prumerge": prumerge, "prumerge_plus": prumerge_plus}

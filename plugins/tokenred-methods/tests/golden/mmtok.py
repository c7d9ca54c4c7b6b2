"""MMTok's algorithm as the golden cases name it, a run of its released preset."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from tokenred import VisualTokens, load_pipeline
from tokenred.models.cues.text import text_similarity

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
NAMES = {
    "alpha": "frame.selector.alpha",
    "tv_temp": "frame.selector.text_temperature",
    "vv_temp": "frame.selector.temperature",
}


def mmtok(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, number = inputs["tokens"], params["n_keep"]
    frames, n_tokens = features.shape[:2]
    settings = {path: params[name] for name, path in NAMES.items() if name in params}
    pipeline = load_pipeline("mmtok-released", {"frame.n_anchors": number, **settings})
    cues = {"tower": inputs["tower"], "text-similarity": text_similarity(features, inputs["text"])}
    tokens = VisualTokens.of(features, (1, n_tokens), cues=cues)
    keep = tokens.keep.clone()
    keep[:, params.get("padding", [])] = False
    reduced = pipeline.run(replace(tokens, keep=keep))
    return {"kept": reduced.token_index.view(frames, -1)}


ALGORITHMS = {"mmtok": mmtok}

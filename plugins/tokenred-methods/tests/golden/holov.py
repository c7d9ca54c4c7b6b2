"""HoloV's algorithms as the golden cases name them, each a run of its released presets."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenred import InputError, ReducedTokens, VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def _run(preset: str, inputs: Tensors, settings: Params) -> tuple[ReducedTokens, Tensor]:
    """Return what is left, and the place of each token in its frame, -1 for zero vectors."""
    pipeline = load_pipeline(preset, settings)
    features = inputs["tokens"]
    (cue,) = pipeline.needs
    if features.ndim != 3:
        raise InputError(f"frames of tokens are expected, got shape {tuple(features.shape)}")
    cues = {cue: inputs["attention"].reshape(features.shape[:2])}
    reduced = pipeline.run(VisualTokens.of(features, (1, features.shape[1]), cues=cues))
    is_zero = (reduced.features == 0).all(-1)
    return reduced, reduced.token_index.masked_fill(is_zero, -1)


def holov_llava(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    number = params["n_keep"]
    settings = {"frame.n_anchors": number, "frame.selector.n_runs": params["num_patches"]}
    reduced, index = _run("holov-released", inputs, settings)
    return {
        "tokens": reduced.features.view(-1, number, reduced.features.shape[-1]),
        "index": index.view(-1, number),
    }


def holov_qwen(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    settings = {
        "frame.n_anchors": params["n_keep"],
        "frame.selector.n_runs": params["num_patches"],
    }
    reduced, position = _run("holov-qwen-released", inputs, settings)
    return {"tokens": reduced.features[None], "position": position}


ALGORITHMS = {"holov_llava": holov_llava, "holov_qwen": holov_qwen}

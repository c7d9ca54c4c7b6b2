"""DyCoke's temporal token merging as the golden cases name it; its cache is in ``in_llm``."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tokenred import VisualTokens, load_pipeline


def dycoke_ttm(inputs: Mapping[str, Tensor], params: Mapping[str, Any]) -> dict[str, Tensor]:
    n = params["num_tokens_per_frame"]
    features = inputs["features"].unflatten(0, (-1, n))
    released = {"drop.keep.decide.drop_ratio": params["merging_ratio"]}
    reduced = load_pipeline("dycoke-released", released).run(VisualTokens.of(features, (1, n)))
    return {
        "tokens": reduced.features,
        "source_index": reduced.frame_index * n + reduced.token_index,
    }


ALGORITHMS = {"dycoke_ttm": dycoke_ttm}

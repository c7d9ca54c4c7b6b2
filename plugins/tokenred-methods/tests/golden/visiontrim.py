"""VisionTrim's algorithm as the golden cases name it, a run of its released preset."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenred import VisualTokens, load_pipeline
from tokenred.models.attention import received_attention
from tokenred.models.cues.text import text_similarity

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
CLASS, PATCHES = "salience@features", "patch-attention@features"
PROJECTED = "projected"


def visiontrim(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    hidden, attention = inputs["hidden"][:, 1:], inputs["attention"]
    frames, n_tokens = hidden.shape[:2]
    dominant, complement = params["dominant"], params["complement"]
    number = dominant + complement
    settings = {
        "budget.retention_ratio": number / n_tokens,
        "dominant.n_anchors": f"budget * {dominant}/{number}",
        "complement.selector": {"name": "like-the-text", "text_of": PROJECTED},
        "complement.cost": [{"name": "through-text", "text_of": PROJECTED}],
    }
    pipeline = load_pipeline("visiontrim-released", settings)
    projected = F.linear(hidden, inputs["visual_projection"])
    unit = torch.eye(n_tokens + 1).expand_as(attention)
    received = received_attention(attention.log(), unit, 1.0, first=1, own=False)
    cues = {
        CLASS: attention[:, :, 0, 1:].mean(1),
        PATCHES: received[:, 1:],
        PROJECTED: projected,
    }
    if params.get("question", True):
        cues["text-similarity"] = text_similarity(projected, inputs["text"][0])
    reduced = pipeline.run(VisualTokens.of(hidden, (1, n_tokens), cues=cues))
    index = reduced.token_index.view(frames, number)
    return {
        "tokens": reduced.features.view(frames, number, -1),
        "dominant": index[:, :dominant],
    }


ALGORITHMS = {"visiontrim": visiontrim}

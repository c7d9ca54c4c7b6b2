"""STTM's algorithm as the golden cases name it: the released preset on a grid of tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from tokenred_methods.sttm.quadtree import QuadtreeGrouper, whole_cells
from torch import Tensor

from tokenred.pipeline import load_pipeline
from tokenred.types import VisualTokens

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def sttm_quadtree(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    temporal = params["temporal_threshold"]
    settings = {
        "threshold": params["threshold"],
        "temporal_threshold": temporal if temporal > 0 else None,
        "root_level": params["root_level"],
        "weighted_avg": params["weighted_avg"],
        "head_dim": params["head_dim"],
    }
    overrides = {f"stages.group.grouper.{name}": value for name, value in settings.items()}
    pipeline = load_pipeline("sttm-released", overrides)
    grid = tuple(inputs["features"].shape[-2:])
    tokens = VisualTokens.of(inputs["features"].flatten(2).mT.contiguous(), grid)
    reduced = pipeline.run(tokens)
    corner = [reduced.frame_index, reduced.token_index // grid[1], reduced.token_index % grid[1]]
    boxes = _boxes(pipeline.stages["group"].grouper, tokens)
    place = reduced.frame_index * tokens.keep.shape[1] + reduced.token_index
    return {
        "tokens": reduced.features,
        "num_patches": reduced.mass.long(),
        "tyxyx": torch.stack([*corner, *boxes[place].T], 1),
    }


def _boxes(grouper: QuadtreeGrouper, tokens: VisualTokens) -> Tensor:
    """Return (places, 2): where the leaf of every token ends, in rows and columns."""
    leaf = whole_cells(tokens, grouper.config).of_token.flatten()
    n, columns = tokens.keep.shape[1], tokens.grid[1]
    place = torch.arange(len(leaf)) % n
    corner = torch.stack([place // columns, place % columns], 1) + 1
    index = leaf[:, None].expand_as(corner)
    ends = torch.zeros_like(corner).scatter_reduce(0, index, corner, "amax")
    return ends[leaf]


ALGORITHMS = {"sttm_quadtree": sttm_quadtree}

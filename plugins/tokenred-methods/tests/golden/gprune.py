"""G-Prune's algorithm as the golden cases name it: its released preset, once for each image."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]


def gprune(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    features, rows, columns = inputs["features"], params["rows"], params["columns"]
    settings = {
        "budget.retention_ratio": params["keep_ratio"],
        "frame.selector.steps": params.get("iterations", 5),
    }
    pipeline = load_pipeline("gprune-released", settings)
    # The overview, then a grid with a newline, which always stays, behind every row.
    place = torch.arange(len(features))
    overview, grid = place.split([len(place) - rows * (columns + 1), rows * (columns + 1)])
    crops, newlines = grid.view(rows, -1).split([columns, 1], dim=1)
    images = (overview, (1, len(overview))), (crops.flatten(), (rows, columns))
    kept = [
        places[pipeline.run(VisualTokens.of(features[places][None], shape)).token_index]
        for places, shape in images
    ]
    return {"kept": torch.cat([*kept, newlines.flatten()]).sort().values}


ALGORITHMS = {"gprune": gprune}

"""DTD and EVS as the golden cases name them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokenred import VisualTokens, load_pipeline
from tokenred.models.cues.pixels import packed_pixels
from tokenred.models.families.qwen_vl import QwenAdapter

Tensors = Mapping[str, Tensor]
Params = Mapping[str, Any]
START, END = 1, 2
MERGE, FRAME_GROUP = 2, 2  # of Qwen2.5-VL, which the release has written down


def dtd_token_drop(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    ids = inputs["input_ids"][0].tolist()
    first, last = ids.index(START) + 1, ids.index(END)
    frames, rows, columns = params["grid_thw"]
    shape, grid = (frames, -1), (rows // MERGE, columns // MERGE)
    features = inputs["hidden_states"][0, first:last].unflatten(0, shape)
    cues = {}
    if params["method"] == "pixel":
        cues = {
            f"pixels@{frame}": packed_pixels(
                inputs["pixel_values_videos"],
                MERGE,
                FRAME_GROUP,
                frame % FRAME_GROUP,
                QwenAdapter.normalisation,
            ).unflatten(0, shape)
            for frame in (0, -1)
        }
    pipeline = load_pipeline("dtd-released", _overrides(params))
    reduced = pipeline.run(VisualTokens.of(features, grid, cues=cues))
    video = first + reduced.frame_index * features.shape[1] + reduced.token_index
    others = [torch.arange(first), torch.arange(last, len(ids))]
    kept = torch.cat((others[0], video, others[1]))
    hidden = inputs["hidden_states"].clone()
    hidden[0, video] = reduced.features
    return {
        "hidden_states": hidden[:, kept],
        "position_ids": inputs["position_ids"][..., kept],
        "keep_index": kept,
    }


def _overrides(params: Params) -> dict[str, Any]:
    threshold, pixel = params["threshold"], params["method"] == "pixel"
    changes: dict[str, Any] = {"drop.keep.decide.tau": threshold if pixel else 1 - threshold}
    if not params["absolute"]:
        changes = {
            "drop.keep.decide": {
                "name": "share",
                "drop_ratio": threshold,
                "rounds_down": "dropped",
                "released": True,
            }
        }
    if pixel:
        far = {"name": "pixel-difference", "frame": -1, "reference_frame": 0}
        changes["drop.cost"] = [far, "aligned"]
    return changes


def evs_retention(inputs: Tensors, params: Params) -> dict[str, Tensor]:
    frames, rows, columns = params["thw"]
    grid = (rows // params["merge"], columns // params["merge"])
    features = inputs["video_embeds"].unflatten(0, (frames, -1))
    pipeline = load_pipeline("evs-released", {"budget.retention_ratio": 1 - params["q"]})
    reduced = pipeline.run(VisualTokens.of(features, grid))
    mask = torch.zeros(features.shape[:2], dtype=torch.bool)
    mask[reduced.frame_index, reduced.token_index] = True
    seconds = params.get("tps", 1.0) * params.get("spg", 1.0)
    positions = [
        (reduced.frame_index * seconds).floor().long(),
        reduced.token_index // grid[1],
        reduced.token_index % grid[1],
        torch.full_like(reduced.token_index, grid[1]),
    ]
    return {
        "retention_mask": mask.flatten(),
        "retained_count": torch.tensor(len(reduced.features)),
        "tokens": reduced.features,
        "mrope_positions_kept": torch.stack(positions, -1),
    }


ALGORITHMS = {"dtd_token_drop": dtd_token_drop, "evs_retention": evs_retention}

"""Which tokens of a prompt are the question."""

import torch
from jaxtyping import Int
from torch import Tensor

from tokenred.types import LayerState


def text_after(state: LayerState) -> Int[Tensor, "text"]:
    """Return the text tokens behind the last image or video; the last token if there are none."""
    places = torch.arange(len(state.clip), device=state.clip.device)
    last_visual = places[state.clip >= 0].max() if bool((state.clip >= 0).any()) else -1
    behind = places[(places > last_visual) & (places <= state.last)]
    return behind if len(behind) else places[[state.last]]

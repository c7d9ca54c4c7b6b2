"""For tests of what acts between layers: a ranked reducer, a run, what is left."""

from typing import Any

from property.cases import make
from torch import Tensor

from tokenred.testing import through_layers
from tokenred.types import LayerReduction, LayerState


def ranked(schedule: Any, **settings: Any) -> Any:
    return make("layer reducer", "ranked", schedule=schedule, **settings)


def by_frame(state: LayerState, candidates: Tensor) -> Tensor:
    """Rank the tokens of later frames first, in a frame those of larger index."""
    return (state.frame_index * 100 + state.token_index)[candidates].float()


def run(reducer: Any, state: LayerState) -> list[LayerReduction | None]:
    return [reduction for _, reduction in through_layers(reducer, state)]


def left(state: LayerState, reduction: LayerReduction | None) -> tuple[list[int], list[int]]:
    """Return frame and place of the visual tokens that are left."""
    assert reduction is not None
    source = reduction.source[reduction.source >= 0]
    visual = source[state.visual[source]]
    return state.frame_index[visual].tolist(), state.token_index[visual].tolist()

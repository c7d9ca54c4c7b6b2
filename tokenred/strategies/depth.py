"""Places in the LLM: an index, or a share of the depth, so that a preset fits any model."""

import re
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from tokenred.errors import ConfigError, quoted

_INDEX, _SHARE = re.compile(r"[0-9]{1,9}"), re.compile(r"0?\.[0-9]{1,30}")

DEEPEST = 1000


def depth_key(value: object) -> int | float:
    """Return a layer as an index or, written with a dot, as a share; text is accepted too."""
    if isinstance(value, str):
        if _INDEX.fullmatch(value):
            value = int(value)
        elif _SHARE.fullmatch(value):
            value = float(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= DEEPEST:
        return value
    if isinstance(value, float) and 0 < value < 1:
        return value
    raise ConfigError(
        f"a layer is an index such as 2 or a share of the depth such as 0.5, got {quoted(value)}"
    )


Depth = Annotated[
    int | float,
    BeforeValidator(depth_key),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": DEEPEST},
                {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            ]
        }
    ),
]
"""An index from 0, or a share of the depth in (0, 1)."""


def layer_at(depth: int | float, n_layers: int) -> int:
    """Return the layer that ``depth`` names: a share rounds down, but not to the first layer.

    Raises
    ------
    ConfigError
        If an index lies beyond the last layer.
    """
    if isinstance(depth, float):
        return min(max(1, int(depth * n_layers)), n_layers - 1)
    if depth >= n_layers:
        raise ConfigError(f"there is no layer {depth} in an LLM of {n_layers} layers")
    return depth

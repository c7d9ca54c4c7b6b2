"""Names of the cues that a vision tower gives, resolved on a tower of a known depth."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenred.errors import CapabilityError, nearest

LAYER_CUES = ("attention", "keys")
POOLER = "pooler"

_INDEX = re.compile(r"-?\d+")
_SHARE = re.compile(r"-?\d*\.\d+|-?\d+\.")


@dataclass(frozen=True)
class Cue:
    """One cue that a pipeline asked for.

    Attributes
    ----------
    name : as the pipeline wrote it, and the key under which it is handed over
    kind : ``attention``, ``keys`` or ``pooler``
    layer : index of the tower's layer, from 0; None for ``pooler``
    """

    name: str
    kind: str
    layer: int | None = None


def resolve_layer(layer: str, depth: int) -> int:
    """Return the index of a layer that is named by index or by share of the depth.

    Parameters
    ----------
    layer : an index (``"5"``, ``"-2"`` from the end) or, with a dot, a share (``"0.2"`` is
        ``int(0.2 * depth)``: layer 5 of 26, layer 0 of 4)
    depth : number of layers of the tower

    Raises
    ------
    CapabilityError
        If ``layer`` is neither, or lies outside the tower.
    """
    if _INDEX.fullmatch(layer):
        index = int(layer)
        index += depth if index < 0 else 0
    elif _SHARE.fullmatch(layer):
        share = float(layer)
        index = int(share * depth) if share >= 0 else -1
    else:
        raise CapabilityError(
            f"layer {layer!r} is neither an index such as -2 nor a share of the depth such as 0.2"
        )
    if not 0 <= index < depth:
        raise CapabilityError(
            f"layer {layer} lies outside this vision tower, which has {depth} layers"
        )
    return index


def parse_cues(names: Iterable[str], depth: int) -> tuple[Cue, ...]:
    """Resolve cue names on a tower of ``depth`` layers, in the order of the names.

    Raises
    ------
    CapabilityError
        If no vision tower gives such a cue, or its layer lies outside this one.
    """
    return tuple(_parse(name, depth) for name in sorted(names))


def _parse(name: str, depth: int) -> Cue:
    kind, marker, layer = name.partition("@")
    if name == POOLER:
        return Cue(name, kind)
    if kind in LAYER_CUES and marker:
        return Cue(name, kind, resolve_layer(layer, depth))
    known = (POOLER, *(f"{each}@LAYER" for each in LAYER_CUES))
    raise CapabilityError(f"a vision tower gives no cue {name!r}{nearest(name, known)}")

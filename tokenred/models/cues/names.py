"""Parse cue names, and resolve their layers on a tower."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tokenred.config import reads_question
from tokenred.errors import CapabilityError, nearest, quoted

LAYER_CUES = ("attention", "class-attention", "keys", "patch-attention", "salience")
"""Cues of one layer of the tower, named ``CUE@LAYER``."""
JOINT = "joint-"
"""In front of a cue of a layer: of all heads side by side, as if they were one."""
POOLER = "pooler"
POOLER_ATTENTION = "attention@pooler"
TOWER = "tower"
PIXELS = "pixels"

_KNOWN = (
    POOLER,
    POOLER_ATTENTION,
    TOWER,
    *(f"{joint}{each}@LAYER" for joint in ("", JOINT) for each in LAYER_CUES),
    f"{PIXELS}@FRAME",
)
_RECEIVED = ("attention", "other-attention", "patch-attention")
_INDEX = re.compile(r"-?\d+")
_SHARE = re.compile(r"-?\d*\.\d+|-?\d+\.")
_FROM_FEATURES = re.compile(r"features([+-]\d{1,3})?")


@dataclass(frozen=True)
class Cue:
    """One cue that a pipeline asked for.

    Attributes
    ----------
    name : as the pipeline wrote it, and the key under which it is handed over
    kind : source in this tower: ``attention``, ``class-attention``, ``keys``, ``patch-attention``,
        or ``other-attention`` if no class token has to be left out of that (these also with
        ``joint-`` in front), ``pooler``, ``attention@pooler``, ``tower`` or ``pixels``;
        ``salience`` is one of the first two
    layer : index of the tower's layer, from 0; None for cues of no layer
    frame : for ``pixels``, which of the frames that the tower reads as one
    """

    name: str
    kind: str
    layer: int | None = None
    frame: int = 0

    @property
    def is_received(self) -> bool:
        """Whether it is attention that tokens receive from many others."""
        return self.layer is not None and self.kind.removeprefix(JOINT) in _RECEIVED


def resolve_layer(layer: str, depth: int, features: int = -1) -> int:
    """Return the index of a layer that is named by index, by share of the depth or by features.

    Parameters
    ----------
    layer : an index (``"5"``, ``"-2"`` from the end) or, with a dot, a share (``"0.2"`` is
        ``int(0.2 * depth)``: layer 5 of 26, layer 0 of 4), or ``features``, the layer whose output
        the model reads, and from there ``features-1``, ``features+1``
    depth : number of layers of the tower
    features : index of the layer whose output the model reads

    Raises
    ------
    CapabilityError
        If ``layer`` is none of these, or lies outside the tower.
    """
    if from_features := _FROM_FEATURES.fullmatch(layer):
        index = features % depth + int(from_features[1] or 0)
    elif _INDEX.fullmatch(layer):
        index = int(layer)
        index += depth if index < 0 else 0
    elif _SHARE.fullmatch(layer):
        share = float(layer)
        index = int(share * depth) if share >= 0 else -1
    else:
        raise CapabilityError(
            f"layer {quoted(layer)} is no index such as -2, no share of the depth such as 0.2, and "
            "not 'features', the layer that gives the features"
        )
    if not 0 <= index < depth:
        raise CapabilityError(
            f"layer {layer} lies outside this vision tower, which has {depth} layers"
        )
    return index


def parse_cues(
    names: Iterable[str],
    depth: int,
    *,
    features: int = -1,
    class_token: bool = False,
    frame_group: int = 1,
) -> tuple[Cue, ...]:
    """Resolve cue names on a tower of ``depth`` layers, in the order of the names.

    Parameters
    ----------
    features : index of the layer whose output the model reads
    class_token : whether the tower puts a class token in front of the patches
    frame_group : frames that the tower reads as one

    Raises
    ------
    CapabilityError
        If no vision tower gives such a cue, its layer or frame lies outside this one, or it needs a
        class token that this one lacks.
    """
    return tuple(_parse(name, depth, features, class_token, frame_group) for name in sorted(names))


def _parse(name: str, depth: int, features: int, class_token: bool, frame_group: int) -> Cue:
    if name in (POOLER, POOLER_ATTENTION, TOWER):
        return Cue(name, name)
    if reads_question((name,)):
        raise CapabilityError(
            f"cue {quoted(name)} comes from a question and the words of an LLM: there is no "
            "question here, or this model's adapter does not read it"
        )
    given, marker, place = name.partition("@")
    kind = given.removeprefix(JOINT)
    joint = JOINT * (kind != given)
    if not marker or kind not in (LAYER_CUES if joint else (*LAYER_CUES, PIXELS)):
        raise CapabilityError(f"a vision tower gives no cue {quoted(name)}{nearest(name, _KNOWN)}")
    if kind == PIXELS:
        return Cue(name, kind, frame=_frame(place, frame_group))
    layer = resolve_layer(place, depth, features)
    if kind == "class-attention" and not class_token:
        raise CapabilityError(
            f"cue {quoted(name)} needs a class token, which this vision tower lacks; "
            f"'{joint}salience@{place}' is the attention received there"
        )
    if kind == "salience":
        kind = "class-attention" if class_token else "attention"
    if kind == "patch-attention" and not class_token:
        kind = "other-attention"
    return Cue(name, joint + kind, layer)


def _frame(frame: str, frame_group: int) -> int:
    index = int(frame) if _INDEX.fullmatch(frame) else None
    if index is None or not -frame_group <= index < frame_group:
        raise CapabilityError(
            f"cue '{PIXELS}@{frame}' names no frame of a token here: they go from 0 to "
            f"{frame_group - 1}, or from the end from -1 to {-frame_group}"
        )
    return index % frame_group

"""Capture the cues of a vision tower while it runs."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tokenred.errors import CapabilityError
from tokenred.models.attention import (
    Captured,
    attention_layers,
    capture,
    pooling_attention,
    pooling_head,
)
from tokenred.models.cues.names import PIXELS, POOLER, POOLER_ATTENTION, TOWER, Cue, parse_cues

Listen = Callable[
    [Mapping[nn.Module, Collection[str]]], AbstractContextManager[dict[nn.Module, Captured]]
]
"""Records what attention modules see, as ``tokenred.models.attention.capture`` does."""


@dataclass(frozen=True)
class Tower:
    """A vision tower, and what decides which cues it can give.

    Attributes
    ----------
    module : what runs
    reader : what reads its tokens, such as a projector; cue ``tower`` is what that is given. By
        default the tower's last hidden state
    features : index of the block whose output the model reads; by default the last one
    class_token : whether a class token stands in front of the patches, which the model drops
    frame_group : frames that the tower reads as one
    pooler : whether its output has a ``pooler_output``
    pixels : gives the pixels that each token stands for, from what the tower reads and the number
        of a frame in its group
    listen : records them; by default for models of transformers
    """

    module: Any
    reader: nn.Module | None = None
    features: int = -1
    class_token: bool = False
    frame_group: int = 1
    pooler: bool = False
    pixels: Callable[[Tensor, int], Tensor] | None = None
    listen: Listen = capture

    def cues(self, needs: Iterable[str]) -> tuple[Cue, ...]:
        """Resolve names of cues on the layers of this tower.

        Raises
        ------
        CapabilityError
            If a cue is unknown, its layer lies outside the tower, or the tower has no class token
            or no pooling head.
        """
        cues = parse_cues(
            needs,
            len(attention_layers(self.module)),
            features=self.features,
            class_token=self.class_token,
            frame_group=self.frame_group,
        )
        kinds = {cue.kind for cue in cues}
        if POOLER in kinds and not self.pooler:
            raise CapabilityError(
                f"cue {POOLER!r} needs a pooling head, which this vision tower lacks"
            )
        if POOLER_ATTENTION in kinds and pooling_head(self.module) is None:
            raise CapabilityError(
                f"cue {POOLER_ATTENTION!r} needs a pooling head with a learnt probe, which this "
                "vision tower lacks"
            )
        return cues


@dataclass(frozen=True)
class CapturedCues:
    """Recorded cues of a tower; read them after the tower and its reader have run."""

    tower: Tower
    cues: Sequence[Cue]
    layers: Mapping[int, Captured]
    seen: Mapping[str, list[Any]] = field(default_factory=dict)

    def values(self) -> dict[str, Tensor]:
        """Return every cue by name, (frames, tokens, ...) or (frames, ...)."""
        return {cue.name: self.value(cue) for cue in self.cues}

    def value(self, cue: Cue) -> Float[Tensor, "frames *tokens width"]:
        """Return one cue, all calls of the tower in a row."""
        if cue.layer is not None:
            return torch.cat(self.calls(cue))
        if cue.kind == PIXELS:
            if self.tower.pixels is None:
                raise CapabilityError(f"cue {cue.name!r} cannot be given by this vision tower")
            return _joined([self.tower.pixels(each, cue.frame) for each in self.seen[PIXELS]])
        return _joined(self.seen[cue.kind])

    def calls(self, cue: Cue) -> list[Float[Tensor, "batch tokens *width"]]:
        """Return the cue of a layer, one tensor a call of its attention, class token left out."""
        assert cue.layer is not None
        found = self.layers[cue.layer].of(cue.kind)
        return [each[:, 1:] for each in found] if self.tower.class_token else found


@contextmanager
def capture_cues(
    tower: Tower, cues: Sequence[Cue], pixels: Tensor | None = None
) -> Iterator[CapturedCues]:
    """Record cues while the context lasts; the tower and what reads its tokens run inside of it.

    Cues carry no gradient, and features stay equal to the last bit.

    Parameters
    ----------
    cues : as ``tower.cues`` resolves them
    pixels : what the tower is about to read, for cue ``pixels``
    """
    kinds = {cue.kind for cue in cues if cue.layer is None}
    seen: dict[str, list[Any]] = {kind: [] for kind in kinds}
    if pixels is not None and PIXELS in kinds:
        seen[PIXELS].append(pixels)
    layers = attention_layers(tower.module) if cues else []
    wanted: dict[nn.Module, set[str]] = {}
    for cue in cues:
        if cue.layer is not None:
            wanted.setdefault(layers[cue.layer], set()).add(cue.kind)
    with ExitStack() as stack:

        def hook(handle: Any) -> None:
            stack.callback(handle.remove)

        def after_tower(module: Any, args: Any, output: Any) -> None:
            if POOLER in kinds:
                seen[POOLER].append(output.pooler_output.detach())
            if TOWER in kinds and tower.reader is None:
                seen[TOWER].append(output.last_hidden_state.detach()[:, int(tower.class_token) :])

        captured = stack.enter_context(tower.listen(wanted)) if wanted else {}
        if {POOLER, TOWER} & kinds:
            hook(tower.module.register_forward_hook(after_tower))
        if TOWER in kinds and tower.reader is not None:
            hook(
                tower.reader.register_forward_pre_hook(
                    lambda module, args: seen[TOWER].append(args[0].detach())
                )
            )
        if POOLER_ATTENTION in kinds:
            hook(
                pooling_head(tower.module).register_forward_pre_hook(
                    lambda head, args: seen[POOLER_ATTENTION].append(
                        pooling_attention(head, args[0])
                    )
                )
            )
        by_layer = {index: captured[each] for index, each in enumerate(layers) if each in captured}
        yield CapturedCues(tower, cues, by_layer, seen)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))

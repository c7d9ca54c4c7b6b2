"""KV caches with fewer entries than the prompt has tokens, which still count in its tokens.

transformers derives positions and masks from the length that the first layer of a cache states. A
shortened layer adds the number of dropped tokens, so that callers notice no difference.
"""

import copy
import functools
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tokenred.errors import CapabilityError

LIVE: set[int] = set()
"""Numbers of live forward passes, each of which filled the layers of one cache."""


def check_cache(cache: Any) -> None:
    """Raise CapabilityError unless all layers of ``cache`` grow as tokens come and keep them all.

    Raises
    ------
    CapabilityError
        If the cache is static, quantised, or forgets tokens outside a window.
    """
    from transformers.cache_utils import DynamicLayer

    made = getattr(cache, "layer_class_to_replicate", None)
    kinds = {type(layer) for layer in getattr(cache, "layers", ())} | ({made} if made else set())
    known = {DynamicLayer, _short_layer()}
    if not kinds or kinds - known:
        other = ", ".join(sorted(kind.__name__ for kind in kinds - known)) or type(cache).__name__
        raise CapabilityError(f"reduction inside the LLM needs a dynamic cache, not {other}")


def readings(cache: Any) -> set[int]:
    """Return the numbers of the forward passes that filled the layers of a cache."""
    numbers = (getattr(layer, "reading", None) for layer in cache.layers)
    return {number for number in numbers if number is not None}


def shorten(
    layer: Any,
    index: Int[Tensor, "rows kept"] | None,
    n_prompt: int,
    memories: list[Any],
    reading: int,
) -> None:
    """Turn a live cache layer, filled by the prompt, into one that counts ``n_prompt`` tokens.

    Parameters
    ----------
    index : the entries that stay; None for all
    memories : objects that follow the rows of the cache when they are sorted or repeated
    reading : number of the reading that filled it; once that is no longer in ``LIVE``, nobody knows
        what the entries stand for, and the layer refuses to be used
    """
    if index is not None:
        where = index[:, None, :, None].to(layer.keys.device)
        for name in ("keys", "values"):
            full = getattr(layer, name)
            setattr(layer, name, full.gather(2, where.expand(-1, full.shape[1], -1, full.shape[3])))
    layer.__class__ = _short_layer()
    layer.dropped = n_prompt - layer.keys.shape[-2]
    layer.n_prompt = n_prompt
    layer.memories = memories
    layer.reading = reading


@functools.cache
def _short_layer() -> type:
    from transformers.cache_utils import DynamicLayer

    class ShortLayer(DynamicLayer):
        keys: Any
        values: Any
        dropped: int
        n_prompt: int
        memories: list[Any]
        reading: int

        def update(self, *args: Any, **kwargs: Any) -> Any:
            if self.reading not in LIVE:
                raise CapabilityError(
                    "this cache lacks tokens that were dropped inside the LLM; it can be used only "
                    "in the same `with`, and not after generate or another prompt"
                )
            return super().update(*args, **kwargs)

        def get_seq_length(self, *args: Any) -> int:
            held = super().get_seq_length(*args)
            return held + self.dropped if held else 0

        def crop(self, tokens: int) -> None:
            # Since 5.23 a negative number of tokens to remove; before, also a length to keep.
            length = self.get_seq_length()
            left = tokens if tokens > 0 else length + tokens
            if left < self.n_prompt:
                raise CapabilityError("a cache cannot be cropped inside a prompt that was reduced")
            if left < length:
                self.keys = self.keys[..., : left - length, :]
                self.values = self.values[..., : left - length, :]

        def reset(self) -> None:
            super().reset()
            self.dropped, self.n_prompt, self.memories = 0, 0, []

        def reorder_cache(self, beam_idx: Tensor) -> None:
            super().reorder_cache(beam_idx)
            self._follow(beam_idx)

        def batch_repeat_interleave(self, repeats: int) -> None:
            super().batch_repeat_interleave(repeats)
            rows = torch.arange(len(self.memories))
            self._follow(rows.repeat_interleave(repeats))

        def batch_select_indices(self, indices: Tensor) -> None:
            super().batch_select_indices(indices)
            self._follow(indices)

        def _follow(self, rows: Tensor) -> None:
            if self.memories:
                # Two rows must not write into one memory.
                self.memories = [copy.copy(self.memories[row]) for row in rows.tolist()]

    return ShortLayer

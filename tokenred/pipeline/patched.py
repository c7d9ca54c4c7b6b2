"""Values of all tokens with some rows replaced: what has not changed is not copied."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.kernels.similarity import chunks


class Patched:
    """A tensor (frames, tokens, dim) and the rows that were written over it.

    The caller's tensor never changes. Rows are kept apart until somebody asks for the ``whole``:
    then all is copied once, and later rows go into that copy. So read before you write.

    Parameters
    ----------
    values : what is there to begin with
    owned : nobody else holds ``values``, so that they may be written over
    """

    def __init__(self, values: Float[Tensor, "frames tokens dim"], *, owned: bool = False) -> None:
        self._values = values.contiguous() if owned else values
        self._owned = owned
        self._places: Tensor | None = None
        self._rows = values.new_empty(0)

    @property
    def pending(self) -> bool:
        """Whether rows wait to be put in place."""
        return self._places is not None

    @property
    def whole(self) -> Float[Tensor, "frames tokens dim"]:
        """All values, with every row in its place."""
        if self._places is not None:
            own = self._values.clone(memory_format=torch.contiguous_format)
            own.view(-1, own.shape[-1]).index_copy_(0, self._places, self._rows)
            # A graph may need what is written over.
            self._values, self._owned, self._places = own, not own.requires_grad, None
        return self._values

    def at(self, places: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """Return the rows at flat places, frame * tokens + token."""
        found = self._flat_at(places.flatten())
        return found.view(*places.shape, found.shape[-1])

    def _flat_at(self, places: Tensor) -> Tensor:
        values = self._values.flatten(0, 1)
        if self._places is None:
            return values.index_select(0, places)
        if torch.equal(places, self._places):
            return self._rows
        row = self._row(places)
        new = (row >= 0).nonzero()[:, 0]
        changed = self._rows.index_select(0, row[new])
        if len(new) == len(places):
            return changed
        return values.index_select(0, places).index_copy_(0, new, changed)

    def write(self, places: Int[Tensor, "n"], rows: Float[Tensor, "n dim"]) -> None:
        """Put rows at flat places, all different."""
        if self._places is None:
            grows = rows.requires_grad or self._values.requires_grad
            if self._owned and not (torch.is_grad_enabled() and grows):
                self._values.view(-1, rows.shape[-1]).index_copy_(0, places, rows)
            else:
                self._places, self._rows = places, rows
        elif torch.equal(places, self._places):
            self._rows = rows
        else:
            self._add(places, rows)

    def _add(self, places: Tensor, rows: Tensor) -> None:
        """Put further rows beside those that wait."""
        assert self._places is not None
        row = self._row(places)
        known, new = (row >= 0).nonzero()[:, 0], (row < 0).nonzero()[:, 0]
        if len(known):
            again = rows if len(new) == 0 else rows.index_select(0, known)
            self._rows = self._rows.index_copy(0, row[known], again)
        if len(new):
            some = rows if len(known) == 0 else rows.index_select(0, new)
            self._places = torch.cat([self._places, places[new]])
            self._rows = torch.cat([self._rows, some])

    def _row(self, places: Tensor) -> Tensor:
        """Return which of the waiting rows belongs to each place; -1: none."""
        assert self._places is not None
        n_tokens = self._values.shape[0] * self._values.shape[1]
        row = torch.full((n_tokens,), -1, device=places.device)
        row[self._places] = torch.arange(len(self._places), device=places.device)
        return row[places]

    def by_frames(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``change`` of the values, frames by frames, without a copy of all of them.

        Parameters
        ----------
        change : (frames, tokens, dim) -> (frames, n, dim), each frame on its own; a new tensor, as
            the one that is given is written over
        """
        if self._places is None or self._rows.requires_grad or self._values.requires_grad:
            return change(self.whole)
        (frames, n), written, room, changed = self._values.shape[:2], self._places, None, None
        frame = written // n
        for chunk in chunks(frames, self._values[:1].numel(), self._values.device):
            part = self._values[chunk]
            if room is None:
                room = torch.empty_like(part, memory_format=torch.contiguous_format)
            now = room[: len(part)].copy_(part)
            here = ((frame >= chunk.start) & (frame < chunk.stop)).nonzero()[:, 0]
            now.flatten(0, 1).index_copy_(0, written[here] - n * chunk.start, self._rows[here])
            new = change(now)
            if changed is None:
                changed = new.new_empty((frames, *new.shape[1:]))
            changed[chunk] = new
        assert changed is not None
        return changed

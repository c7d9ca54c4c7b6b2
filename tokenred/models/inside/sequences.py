"""Batches of ragged sequences inside the LLM: positions and attention masks."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import CapabilityError, InputError


@dataclass(frozen=True)
class PromptTokens:
    """Kind, clip and position of the prompt tokens that enter the LLM, padding included.

    All fields have the shape (rows, tokens), which is checked.

    Attributes
    ----------
    attention_mask : (rows, tokens), 0 or False is padding
    visual : image and video tokens, newline tokens not among them
    newline : newline tokens of the visual layout
    clip : which image or video of the call a visual or newline token belongs to; -1 for text
    frame_index, token_index : place of a visual token on the LLM grid of its clip; a newline has
        the place of the token that it follows; -1 for text
    group : groups with a quota of their own; -1 for text
    """

    attention_mask: Shaped[Tensor, "rows tokens"]
    visual: Bool[Tensor, "_ _"]
    newline: Bool[Tensor, "_ _"]
    clip: Int[Tensor, "_ _"]
    frame_index: Int[Tensor, "_ _"]
    token_index: Int[Tensor, "_ _"]
    group: Int[Tensor, "_ _"]

    def __post_init__(self) -> None:
        for name, values in vars(self).items():
            if values.shape != self.attention_mask.shape:
                raise InputError(
                    f"{name} has shape {tuple(values.shape)}, but the prompts are "
                    f"{tuple(self.attention_mask.shape)}"
                )
        if not bool(self.attention_mask.any(-1).all()):
            raise InputError("every prompt needs at least one token")


@dataclass(frozen=True, eq=False)
class Sequence:
    """The prompts' tokens at one place between the layers, ragged, one row a prompt.

    Tokens are known by name: a column of the prompt that entered the LLM, or a number beyond all
    columns for a token that was made inside it.

    Attributes
    ----------
    names : (rows, width), -1 is padding
    positions : (rows, width) position ids of their own; None: those that the tokens came with
    shift : (rows,) what has to be taken from the position ids of later tokens
    log_weights : (rows, width) what is added to every score of a token as a key; None: nothing
    untouched : nothing was dropped, merged or moved yet
    """

    names: Int[Tensor, "rows width"]
    positions: Int[Tensor, "rows width"] | None = None
    shift: Int[Tensor, "rows"] | None = None
    log_weights: Float[Tensor, "rows width"] | None = None
    untouched: bool = False

    @cached_property
    def valid(self) -> Bool[Tensor, "rows width"]:
        """True where a token stands."""
        return self.names >= 0

    @cached_property
    def padded(self) -> bool:
        """Whether any row has padding."""
        return not bool(self.valid.all())

    @property
    def width(self) -> int:
        """Columns, padding included."""
        return self.names.shape[1]

    def row(self, row: int) -> tuple[Int[Tensor, "tokens"], Int[Tensor, "tokens"]]:
        """Return the columns that hold tokens, and the tokens' names."""
        columns = self.valid[row].nonzero()[:, 0]
        return columns, self.names[row, columns]

    def restricted(self, to: "Sequence") -> tuple[Int[Tensor, "rows kept"], "Sequence"]:
        """Return the columns of the tokens that are also in ``to``, and the sequence of these."""
        columns = []
        for row in range(len(self.names)):
            mine, names = self.row(row)
            columns.append(mine[torch.isin(names, to.row(row)[1])])
        index = pad_left(columns, -1)
        held = index.clamp_min(0)
        names = self.names.gather(1, held).masked_fill(index < 0, -1)
        positions, weights = (
            None if each is None else each.gather(1, held)
            for each in (self.positions, self.log_weights)
        )
        return held, Sequence(names, positions, self.shift, weights)


def pad_left(rows: Rows[Tensor], fill: int) -> Tensor:
    """Stack ragged rows, padded on the left."""
    return pad_sequence(list(rows), batch_first=True, padding_value=fill, padding_side="left")


def positions_of(names: Int[Tensor, "tokens"], of: Int[Tensor, "others"]) -> Int[Tensor, "others"]:
    """Return the index of each of ``of`` in ``names``; -1 if it is missing."""
    if names.shape == of.shape and torch.equal(names, of):
        return torch.arange(len(of), device=of.device)
    size = int(torch.cat((names, of)).max()) + 1 if len(names) + len(of) else 0
    table = names.new_full((size,), -1)
    table[names] = torch.arange(len(names), device=names.device)
    return table[of]


def visible(
    keys: Bool[Tensor, "rows keys"],
    n_queries: int,
    chosen: Bool[Tensor, "rows queries keys"] | None,
) -> Bool[Tensor, "rows queries keys"]:
    """Return which keys a query sees: real ones up to its own, of those that are chosen."""
    n_keys = keys.shape[1]
    seen = torch.ones(n_queries, n_keys, dtype=torch.bool, device=keys.device)
    seen = seen.tril(n_keys - n_queries) & keys[:, None]
    return seen if chosen is None else seen & chosen


def backend_mask(
    backend: str,
    dtype: torch.dtype,
    keys: Bool[Tensor, "rows keys"],
    padded: bool,
    n_queries: int,
    chosen: Bool[Tensor, "rows queries keys"] | None = None,
    two_way: Bool[Tensor, "rows tokens"] | None = None,
    log_weights: Float[Tensor, "rows keys"] | None = None,
) -> Tensor | None:
    """Return the mask that an attention backend of transformers expects.

    Parameters
    ----------
    keys, padded : which keys are real, and whether any is not
    n_queries : queries, the last of the keys
    chosen : further limits of what a query sees
    two_way : which of the first tokens of a row all see each other
    log_weights : what is added to every score of a key

    Raises
    ------
    CapabilityError
        If the backend cannot express it, or is not known.
    """
    dense = any(each is not None for each in (chosen, two_way, log_weights))
    if "flash" in backend and "paged" not in backend:
        if dense:
            raise CapabilityError(
                f"attention backend {backend!r} supports plain causal attention only; use sdpa or "
                "eager"
            )
        return keys if padded else None
    if backend not in ("sdpa", "eager"):
        raise CapabilityError(
            f"reduction inside the LLM supports the attention backends sdpa, eager and flash "
            f"attention, not {backend!r}"
        )
    n_keys = keys.shape[1]
    causal_by_itself = n_queries == 1 or (backend == "sdpa" and n_queries == n_keys)
    if not dense and not padded and causal_by_itself:
        return None
    seen = visible(keys, n_queries, chosen)
    if two_way is not None:
        n_first = two_way.shape[1]
        seen[:, :n_first, :n_first] |= two_way[:, :, None] & two_way[:, None, :]
    # Padding sees itself, so that no row of the softmax is empty.
    diagonal = torch.arange(n_queries, device=keys.device)
    seen[:, diagonal, diagonal + n_keys - n_queries] = True
    mask = seen[:, None]
    if backend == "sdpa" and log_weights is None:
        return mask
    scores = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    if log_weights is not None:
        scores = scores + log_weights[:, None, None].to(dtype)
    return scores.masked_fill(~mask, torch.finfo(dtype).min)

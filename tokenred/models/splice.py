"""Sequence surgery that all model families share: fewer placeholders, the same order.

A prompt holds one placeholder for every visual token that the unreduced LLM would read. Reduction
replaces the placeholders of a video by fewer (or repeated) ones: every token that stays names the
placeholder whose **place** it inherits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import InputError
from tokenred.types import ReducedTokens


@dataclass(frozen=True)
class VisualPart:
    """What one video puts into the sequence, extra tokens such as newlines included.

    Attributes
    ----------
    features : (tokens, dim)
    places : (tokens,) which of its placeholders a token inherits the place of; repeats allowed
    n_placeholders : how many placeholders the unreduced video has in the prompt
    """

    features: Float[Tensor, "tokens dim"]
    places: Int[Tensor, "tokens"]
    n_placeholders: int


@dataclass(frozen=True)
class Layout:
    """The short prompts, and where every column of them comes from.

    Attributes
    ----------
    input_ids, attention_mask : (rows, short)
    source_column : (rows, short) column of the full prompt whose place is inherited; -1 is padding
    visual : (rows, short), True where a visual token goes
    visual_order : (tokens,) which visual token goes there, all videos in one list, row by row
    """

    input_ids: Int[Tensor, "rows short"]
    attention_mask: Int[Tensor, "rows short"]
    source_column: Int[Tensor, "rows short"]
    visual: Bool[Tensor, "rows short"]
    visual_order: Int[Tensor, "tokens"]

    def take(self, values: Tensor, fill: int) -> Tensor:
        """Return what the short columns inherit of ``values`` (rows, full); padding is ``fill``."""
        taken = values.gather(1, self.source_column.clamp_min(0))
        return taken.masked_fill(self.source_column < 0, fill)


@dataclass(frozen=True)
class Spliced:
    """Inputs of the short forward pass; ``position_ids`` None leaves them to the model."""

    layout: Layout
    inputs_embeds: Float[Tensor, "rows short dim"]
    position_ids: Int[Tensor, "rows short"] | None


def token_places(reduced: ReducedTokens, grid: tuple[int, int]) -> Int[Tensor, "kept"]:
    """Return the placeholder of every token, for an LLM that reads frames of ``grid``.

    A pipeline that pools by itself may end on another grid; then the cell under the token's centre
    counts.
    """
    rows, columns = reduced.grid
    row = (2 * (reduced.token_index // columns) + 1) * grid[0] // (2 * rows)
    column = (2 * (reduced.token_index % columns) + 1) * grid[1] // (2 * columns)
    return reduced.frame_index * (grid[0] * grid[1]) + row * grid[1] + column


def placeholder_columns(
    input_ids: Int[Tensor, "rows full"], token_id: int, counts: Sequence[int]
) -> list[tuple[int, Int[Tensor, "placeholders"]]]:
    """Return row and columns of every video's placeholders; videos come in reading order.

    Raises
    ------
    InputError
        If the prompts do not hold exactly the placeholders that the videos need.
    """
    rows, columns = (input_ids == token_id).nonzero(as_tuple=True)
    if len(rows) != sum(counts):
        raise InputError(
            f"the prompts hold {len(rows)} video placeholders, but the videos need "
            f"{' + '.join(map(str, counts))}"
        )
    spans = []
    for row, column in zip(rows.split(list(counts)), columns.split(list(counts)), strict=True):
        if (row != row[0]).any():
            raise InputError("the placeholders of one video are spread over two prompts")
        spans.append((int(row[0]), column))
    return spans


def lay_out(
    input_ids: Int[Tensor, "rows full"],
    attention_mask: Int[Tensor, "rows full"] | None,
    token_id: int,
    parts: Sequence[VisualPart],
    pad_id: int,
) -> Layout:
    """Replace the placeholders of every video by those of the tokens that stay.

    Text keeps its order. A video's placeholders may stand in several runs (with time stamps in
    between): a token goes to the run that holds its place, and inside a run the given order rules.
    Rows are padded again, on the side on which they were padded.

    Shapes
    ------
    input_ids, attention_mask : (rows, full); no mask means no padding
    """
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    spans = placeholder_columns(input_ids, token_id, [part.n_placeholders for part in parts])
    is_text = valid.bool()
    videos: list[list[_Placed]] = [[] for _ in input_ids]
    first = 0
    for part, (row, columns) in zip(parts, spans, strict=True):
        is_text[row, columns] = False
        places = part.places.to(columns.device)
        emitted = torch.arange(first, first + len(places), device=columns.device)
        videos[row].append((columns[places], _run_starts(columns)[places], emitted))
        first += len(places)

    rows = [_order_row(text.nonzero()[:, 0], placed) for text, placed in zip(is_text, videos)]
    side = "left" if bool(valid[:, -1].all()) else "right"
    source_column = pad_sequence([source for source, _ in rows], True, -1, side)
    emitted = torch.cat([visual for _, visual in rows])
    ids = input_ids.gather(1, source_column.clamp_min(0)).masked_fill(source_column < 0, pad_id)
    return Layout(
        input_ids=ids,
        attention_mask=(source_column >= 0).to(valid.dtype),
        source_column=source_column,
        visual=pad_sequence([visual for _, visual in rows], True, -1, side) >= 0,
        visual_order=emitted[emitted >= 0],
    )


_Placed = tuple[Tensor, Tensor, Tensor]
"""Of one video's tokens: column inherited, first column of its run, index among all tokens."""


def _order_row(text: Int[Tensor, "words"], videos: Sequence[_Placed]) -> tuple[Tensor, Tensor]:
    """Return source column and index of the visual token (-1 for text) of one short row."""
    nothing = torch.full_like(text, -1)
    source, start, visual = (
        torch.cat(each) for each in zip((text, text, nothing), *videos, strict=True)
    )
    sequence = start.argsort(stable=True)
    return source[sequence], visual[sequence]


def _run_starts(columns: Int[Tensor, "placeholders"]) -> Int[Tensor, "placeholders"]:
    """Return, for every placeholder, the first column of its run of neighbours."""
    starts = torch.ones_like(columns, dtype=torch.bool)
    starts[1:] = columns.diff() != 1
    return torch.where(starts, columns, 0).cummax(0).values


def scatter_features(
    embeddings: Float[Tensor, "rows short dim"], layout: Layout, parts: Sequence[VisualPart]
) -> Float[Tensor, "rows short dim"]:
    """Put the visual tokens into the embedded short prompts; gradients flow to both."""
    features = torch.cat([part.features.to(embeddings) for part in parts])
    features = features[layout.visual_order.to(features.device)]
    return embeddings.masked_scatter(layout.visual.to(embeddings.device)[..., None], features)


def original_positions(
    layout: Layout, attention_mask: Int[Tensor, "rows full"] | None
) -> Int[Tensor, "rows short"]:
    """Return the positions that the tokens that stay have in the unreduced sequence."""
    if attention_mask is None:
        return layout.source_column.clamp_min(0)
    positions = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    return layout.take(positions, 0)

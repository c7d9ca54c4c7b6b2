"""Splice reduced clips into prompts: fewer placeholders, the same order.

A prompt holds one placeholder for every visual token that the unreduced LLM would read. Reduction
replaces the placeholders of a clip by fewer (or repeated) ones: every token that stays names the
placeholder whose **place** it inherits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import InputError
from tokenred.models.inside.llm import PromptTokens
from tokenred.types import Newlines, NewlineToken, ReducedTokens, VisualTokens


@dataclass(frozen=True)
class ClipLayout:
    """How one clip stands in the prompt.

    Attributes
    ----------
    kind : ``video`` or ``image``; says which placeholder it has
    frames, grid : what the LLM reads of it unreduced
    newlines : where newline tokens stand
    seconds_per_frame : for models whose positions count seconds, where a call says how many
    """

    kind: str
    frames: int
    grid: tuple[int, int]
    newlines: Newlines = "none"
    seconds_per_frame: float | None = None

    @property
    def vanilla_tokens(self) -> int:
        """Visual tokens that the LLM reads of the unreduced clip, newlines excluded."""
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def n_placeholders(self) -> int:
        """Placeholders of the unreduced clip: one a token, newlines included."""
        newlines = {"none": 0, "end": 1, "frame": self.frames, "row": self.frames * self.grid[0]}
        return self.vanilla_tokens + newlines[self.newlines]


@dataclass(frozen=True)
class Clip:
    """The unit of reduction: a video, an image, or one view of an image.

    Attributes
    ----------
    tokens : as the model encodes it, up to where a pipeline takes over
    layout : how it stands in the prompt
    deepstack_features : (levels, tokens, dim) what a model feeds into later layers at the places
        of its tokens
    """

    tokens: VisualTokens
    layout: ClipLayout
    deepstack_features: Float[Tensor, "levels tokens dim"] | None = None


@dataclass(frozen=True)
class VisualPart:
    """The tokens of one clip in the sequence, newline tokens included.

    Attributes
    ----------
    features : (tokens, dim)
    places : (tokens,) which of its placeholders a token inherits the place of; repeats allowed
    newline : (tokens,) bool
    frame_index, token_index : (tokens,) place on the grid; a newline has that of the token before
    layout : of the unreduced clip
    deepstack_features : (levels, tokens, dim), see ``Clip``
    group : (tokens,) see ``ReducedTokens``; a newline has that of the token before
    """

    features: Float[Tensor, "tokens dim"]
    places: Int[Tensor, "tokens"]
    newline: Bool[Tensor, "tokens"]
    frame_index: Int[Tensor, "tokens"]
    token_index: Int[Tensor, "tokens"]
    layout: ClipLayout
    deepstack_features: Float[Tensor, "levels tokens dim"] | None = None
    group: Int[Tensor, "tokens"] | None = None


@dataclass(frozen=True)
class Layout:
    """The short prompts, and the source of every column.

    Attributes
    ----------
    input_ids, attention_mask : (rows, short)
    source_column : (rows, short) column of the full prompt whose place is inherited; -1 is padding
    visual : (rows, short), True where a visual token goes
    visual_order : (tokens,) which visual token goes there, all clips in one list, row by row
    """

    input_ids: Int[Tensor, "rows short"]
    attention_mask: Int[Tensor, "rows short"]
    source_column: Int[Tensor, "rows short"]
    visual: Bool[Tensor, "rows short"]
    visual_order: Int[Tensor, "tokens"]

    def take(self, values: Tensor, fill: int) -> Tensor:
        """Gather ``values`` (rows, full) for the short columns; padding is ``fill``."""
        taken = values.gather(1, self.source_column.clamp_min(0))
        return taken.masked_fill(self.source_column < 0, fill)


@dataclass(frozen=True)
class Spliced:
    """Inputs of the short forward pass; ``position_ids`` None leaves them to the model.

    ``position_ids`` are (rows, short), or (4, rows, short) for multimodal rotary embeddings: the
    place in the text, then time, height and width.
    """

    layout: Layout
    parts: tuple[VisualPart, ...]
    inputs_embeds: Float[Tensor, "rows short dim"]
    position_ids: Int[Tensor, "*axes rows short"] | None


def token_cells(reduced: ReducedTokens, grid: tuple[int, int]) -> Int[Tensor, "kept"]:
    """Return the cell of every token, in raster order, for an LLM that reads frames of ``grid``.

    A pipeline that pools by itself may end on another grid; then the cell under the token's centre
    counts.
    """
    rows, columns = reduced.grid
    row = (2 * (reduced.token_index // columns) + 1) * grid[0] // (2 * rows)
    column = (2 * (reduced.token_index % columns) + 1) * grid[1] // (2 * columns)
    return row * grid[1] + column


def newline_of(layout: ClipLayout, embedding: Tensor | None) -> NewlineToken | None:
    """Return the newline token of a clip; None if the model puts in none."""
    if layout.newlines == "none" or embedding is None:
        return None
    return NewlineToken(layout.newlines, embedding)


def pack(
    reduced: ReducedTokens,
    layout: ClipLayout,
    newline: Float[Tensor, "dim"] | None = None,
    deepstack_features: Float[Tensor, "levels kept dim"] | None = None,
) -> VisualPart:
    """Add newline tokens after every row, frame or clip that has any token left.

    None are added to what has some already.

    Parameters
    ----------
    newline : the model's newline token; not needed if the layout has none
    deepstack_features : (levels, kept, dim) of the reduced tokens; newline tokens have none, so a
        layout with newlines cannot have it
    """
    rows, columns = layout.grid
    cell = token_cells(reduced, layout.grid)
    frame = reduced.frame_index
    width = columns + (layout.newlines == "row")
    per_frame = rows * width + (layout.newlines == "frame")
    places = frame * per_frame + cell // columns * width + cell % columns
    if layout.newlines == "none":
        never = torch.zeros_like(frame, dtype=torch.bool)
        place = (never, frame, cell, layout)
        return VisualPart(reduced.features, places, *place, deepstack_features, reduced.group)
    assert deepstack_features is None
    key = _units(reduced, layout)
    closed = {
        "row": (key // rows) * per_frame + (key % rows) * width + columns,
        "frame": (key + 1) * per_frame - 1,
        "end": torch.full_like(key, layout.n_placeholders - 1),
    }
    if reduced.newline is not None:
        places = closed[layout.newlines].where(reduced.newline, places)
        place = (reduced.newline, frame, cell, layout)
        return VisualPart(reduced.features, places, *place, group=reduced.group)
    assert newline is not None
    ends = _unit_ends(key)
    order = torch.cat((torch.arange(len(key), device=key.device), ends.nonzero()[:, 0]))
    order, slot = order.sort(stable=True)  # a newline comes right after the token it follows
    is_newline = slot >= len(key)
    features = reduced.features[order]
    features[is_newline] = newline.to(features)
    return VisualPart(
        features,
        torch.where(is_newline, closed[layout.newlines][order], places[order]),
        is_newline,
        frame[order],
        cell[order],
        layout,
        group=None if reduced.group is None else reduced.group[order],
    )


def count_newlines(reduced: ReducedTokens, layout: ClipLayout) -> int:
    """Return how many newline tokens there are behind ``pack``."""
    if reduced.newline is not None:
        return int(reduced.newline.sum())
    if layout.newlines == "none":
        return 0
    return int(_unit_ends(_units(reduced, layout)).sum())


def _units(reduced: ReducedTokens, layout: ClipLayout) -> Int[Tensor, "kept"]:
    """Return, for every token, which row, frame or clip it stands in: what a newline closes."""
    frame = reduced.frame_index
    if layout.newlines == "row":
        return frame * layout.grid[0] + token_cells(reduced, layout.grid) // layout.grid[1]
    return frame if layout.newlines == "frame" else torch.zeros_like(frame)


def _unit_ends(units: Int[Tensor, "kept"]) -> Bool[Tensor, "kept"]:
    ends = torch.ones_like(units, dtype=torch.bool)
    ends[:-1] = units[1:] != units[:-1]
    return ends


def placeholder_columns(
    input_ids: Int[Tensor, "rows full"], token_id: int, counts: Sequence[int], kind: str = "video"
) -> list[tuple[int, Int[Tensor, "placeholders"]]]:
    """Return row and columns of every clip's placeholders; clips come in reading order.

    Raises
    ------
    InputError
        If the prompts do not hold exactly the placeholders that the videos need.
    """
    rows, columns = (input_ids == token_id).nonzero(as_tuple=True)
    if len(rows) != sum(counts):
        raise InputError(
            f"the prompts hold {len(rows)} {kind} placeholders, but the {kind}s need "
            f"{' + '.join(map(str, counts)) or '0'}"
        )
    spans = []
    for row, column in zip(rows.split(list(counts)), columns.split(list(counts)), strict=True):
        if (row != row[0]).any():
            raise InputError(f"the placeholders of one {kind} are spread over two prompts")
        spans.append((int(row[0]), column))
    return spans


def lay_out(
    input_ids: Int[Tensor, "rows full"],
    attention_mask: Int[Tensor, "rows full"] | None,
    token_ids: Mapping[str, int],
    parts: Sequence[VisualPart],
    pad_id: int,
) -> Layout:
    """Replace the placeholders of every clip by those of the tokens that stay.

    Text keeps its order. A clip's placeholders may stand in several runs (with time stamps in
    between): a token goes to the run that holds its place, and inside a run the given order rules.
    Rows are padded again, on the side on which they were padded.

    Shapes
    ------
    input_ids, attention_mask : (rows, full); no mask means no padding
    token_ids : kind -> placeholder; clips of one kind come in reading order
    """
    valid = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    spans = {}
    for kind, token_id in token_ids.items():
        counts = [part.layout.n_placeholders for part in parts if part.layout.kind == kind]
        if counts:
            spans[kind] = iter(placeholder_columns(input_ids, token_id, counts, kind))
    is_text = valid.bool()
    placed: list[list[_Placed]] = [[] for _ in input_ids]
    first = 0
    for part in parts:
        row, columns = next(spans[part.layout.kind])
        is_text[row, columns] = False
        places = part.places.to(columns.device)
        emitted = torch.arange(first, first + len(places), device=columns.device)
        placed[row].append((columns[places], _run_starts(columns)[places], emitted))
        first += len(places)

    rows = [_order_row(text.nonzero()[:, 0], clips) for text, clips in zip(is_text, placed)]
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
"""Of one clip's tokens: column inherited, first column of its run, index among all tokens."""


def _order_row(text: Int[Tensor, "words"], clips: Sequence[_Placed]) -> tuple[Tensor, Tensor]:
    """Return source column and index of the visual token (-1 for text) of one short row."""
    nothing = torch.full_like(text, -1)
    source, start, visual = (
        torch.cat(each) for each in zip((text, text, nothing), *clips, strict=True)
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
    """Put the visual tokens into the embedded short prompts; gradients flow to both.

    Without gradients they are written into ``embeddings`` itself, each once.
    """
    flat = embeddings.flatten(0, 1)
    slots = layout.visual.to(embeddings.device).flatten().nonzero()[:, 0]
    order = layout.visual_order.to(embeddings.device)
    places = torch.empty_like(slots)
    places[order] = slots  # of every visual token, clip by clip
    features = [part.features.to(embeddings) for part in parts]
    if torch.is_grad_enabled():
        return flat.index_copy(0, places, torch.cat(features)).view_as(embeddings)
    for each, where in zip(features, places.split([len(each) for each in features]), strict=True):
        flat.index_copy_(0, where, each)
    return flat.view_as(embeddings)


def original_positions(
    layout: Layout, attention_mask: Int[Tensor, "rows full"] | None
) -> Int[Tensor, "rows short"]:
    """Return the positions that the tokens that stay have in the unreduced sequence."""
    if attention_mask is None:
        return layout.source_column.clamp_min(0)
    positions = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)
    return layout.take(positions, 0)


def prompt_tokens(spliced: Spliced) -> PromptTokens:
    """Return kind, clip and position of every token of the short prompts."""
    layout, parts = spliced.layout, spliced.parts
    order = layout.visual_order

    def spread(values: Sequence[Tensor], fill: int) -> Tensor:
        full = torch.full_like(layout.input_ids, fill)
        full[layout.visual] = torch.cat(list(values)).to(full)[order.to(values[0].device)].to(full)
        return full

    clip = spread([torch.full_like(part.places, n) for n, part in enumerate(parts)], -1)
    newline = spread([part.newline.long() for part in parts], 0).bool()
    first = 0  # groups with a quota: every frame of every clip, or what the pipeline made of it
    groups = []
    for part in parts:
        groups.append(first + (part.frame_index if part.group is None else part.group))
        first += 2 * part.layout.frames
    return PromptTokens(
        attention_mask=layout.attention_mask,
        visual=layout.visual & ~newline,
        newline=newline,
        clip=clip,
        frame_index=spread([part.frame_index for part in parts], -1),
        token_index=spread([part.token_index for part in parts], -1),
        group=spread(groups, -1),
    )

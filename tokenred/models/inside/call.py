"""State of one reduced LLM call: sequences, masks and positions."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenred.errors import CapabilityError
from tokenred.models.attention import backend_of
from tokenred.models.inside.sequences import PromptTokens, Sequence, backend_mask, visible

FACTS = ("visual", "newline", "clip", "frame_index", "token_index", "group")
Tables = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary embedding."""


@dataclass
class Prompt:
    """The prompts of the next call, and their tokens; grows as tokens are made.

    Attributes
    ----------
    facts : one tensor (rows, names) a field of ``PromptTokens``, also for tokens that were made
    column : (rows, names) the column whose position a token has
    entered : the prompts as they enter the LLM
    last : (rows,) column of the last token
    number : tells one reading from all others, in copies of a cache as well
    """

    facts: dict[str, Tensor]
    column: Int[Tensor, "rows names"]
    entered: Sequence
    last: Int[Tensor, "rows"]
    number: int = field(default_factory=count().__next__)

    @classmethod
    def of(cls, tokens: PromptTokens, device: torch.device) -> "Prompt":
        """Move the prompts to the device of the LLM."""
        mask = tokens.attention_mask.to(device).bool()
        columns = torch.arange(mask.shape[1], device=device).expand_as(mask)
        entered = Sequence(columns.masked_fill(~mask, -1), untouched=True)
        facts = {name: getattr(tokens, name).to(device) for name in FACTS}
        return cls(facts, columns, entered, entered.names.amax(1))

    @property
    def n_rows(self) -> int:
        """How many prompts there are."""
        return self.entered.names.shape[0]

    @property
    def width(self) -> int:
        """Tokens that entered the LLM, padding included."""
        return self.entered.width

    def add(self, parents: list[Tensor]) -> list[Tensor]:
        """Name tokens that were made, one list of parents a row.

        They are visual, and have clip and position of their parents, but no place in a frame.
        """
        first, width = self.column.shape[1], max(len(row) for row in parents)
        rows = torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in parents])
        new = {name: torch.full_like(rows, -1) for name in FACTS}
        new["visual"] = torch.ones_like(rows, dtype=torch.bool)
        new["newline"] = ~new["visual"]
        new["clip"] = self.facts["clip"].gather(1, rows)
        self.facts = {name: torch.cat((old, new[name]), 1) for name, old in self.facts.items()}
        self.column = torch.cat((self.column, self.column.gather(1, rows)), 1)
        return [first + torch.arange(len(row), device=row.device) for row in parents]


@dataclass
class Recorded:
    """Queries and keys of one attention module, all rows of the batch."""

    sequence: Sequence
    query: Float[Tensor, "rows heads queries head_dim"]
    key: Float[Tensor, "rows key_heads keys head_dim"]
    scaling: float | None
    two_way: bool


@dataclass
class Chosen:
    """Keys chosen by pruners: (rows, new tokens, prompt columns) and (..., later tokens)."""

    prompt: Bool[Tensor, "rows new columns"]
    later: Bool[Tensor, "rows new later"]


@dataclass
class Call:
    """A call on the prompts, on tokens after them, or (without a cache) on both.

    Attributes
    ----------
    copies : rows of the batch for each prompt, as beams need them
    n_later : tokens after the prompt that attention sees
    n_new : those of them that this call reads, always the last ones
    later : (rows, n_later) which of them are no padding; None: all
    tables, position_ids : what the model would give its layers
    reads_prompt : whether the prompts are read in this call
    now : the prompts' tokens where the call stands; ``entering`` as they entered each layer
    inputs : hidden states that entered a layer, for steps that ask for them
    recorded : queries and keys of the layers that are read
    memories : what reducers remember, by reducer and row
    cuts : sequences to which the caches of all layers before a layer are cut
    views : for single queries, the cache entries that a layer looks at
    middle, result : full and short hidden states between attention and MLP; the layer's output
    """

    model: Any
    prompt: Prompt
    copies: int
    n_later: int
    n_new: int
    later: Bool[Tensor, "rows later"] | None
    tables: Tables
    position_ids: Int[Tensor, "_ columns"] | None
    cache: Any
    reads_prompt: bool
    embeddings: Tensor
    now: Sequence
    entering: list[Sequence] = field(default_factory=list)
    inputs: dict[int, tuple[Tensor, Sequence]] = field(default_factory=dict)
    recorded: dict[int, Recorded] = field(default_factory=dict)
    memories: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    cuts: list[tuple[int, Sequence]] = field(default_factory=list)
    chosen: Chosen | None = None
    views: dict[int, Tensor] = field(default_factory=dict)
    middle: tuple[Tensor, Tensor] | None = None
    result: Tensor | None = None
    # By the sequence itself: the number of one that is gone may be given to another.
    _memo: dict[Any, Any] = field(default_factory=dict)

    def spread(self, rows: Tensor) -> Tensor:
        """Repeat values of prompts for every row of the batch."""
        return rows if self.copies == 1 else rows.repeat_interleave(self.copies, 0)

    def forget(self, before: int) -> None:
        """Drop recordings of earlier layers."""
        for store in (self.recorded, self.inputs):
            for index in [index for index in store if index < before]:
                del store[index]

    # What a layer gets

    def arguments(
        self, index: int, sequence: Sequence, hidden: Tensor, two_way: bool
    ) -> dict[str, Any]:
        """Return mask and positions for a layer that works on ``sequence``."""
        key = ("mask", sequence, two_way)
        if key not in self._memo:
            self._memo[key] = self._mask(sequence, hidden.dtype, two_way)
        mask, view = self._memo[key]
        if view is not None:
            self.views[index] = view
        arguments: dict[str, Any] = {"attention_mask": mask}
        moved = sequence.positions is not None
        if moved or (self.reads_prompt and not sequence.untouched):
            arguments["position_embeddings"], ids = self.tables_of(sequence, hidden)
            # Flash attention takes position ids with gaps for several packed prompts.
            flash = "flash" in backend_of(self.model.config)
            arguments["position_ids"] = None if flash else ids
        return arguments

    def keys(self, sequence: Sequence) -> Bool[Tensor, "rows keys"]:
        """Return which keys of a layer are real, later tokens included."""
        valid = self.spread(sequence.valid)
        later = self.later
        if later is None:
            later = valid.new_ones(len(valid), self.n_later)
        return torch.cat((valid, later), 1)

    def log_weights(self, sequence: Sequence) -> Float[Tensor, "rows keys"] | None:
        """Return what is added to every score of a layer's keys; later tokens weigh nothing."""
        if sequence.log_weights is None:
            return None
        weights = self.spread(sequence.log_weights)
        return torch.cat((weights, weights.new_zeros(len(weights), self.n_later)), 1)

    def chosen_keys(
        self, sequence: Sequence, n_queries: int
    ) -> Bool[Tensor, "rows queries keys"] | None:
        """Return which keys of a layer the pruners chose; generated tokens are always visible."""
        if self.chosen is None:
            return None
        prompt, later = self.chosen.prompt, self.chosen.later
        names = self.spread(sequence.names)[:, None].expand(-1, self.n_new, -1)
        entered = (names >= 0) & (names < self.prompt.width)
        seen = prompt.gather(2, names.where(entered, 0)) | ~entered
        seen = torch.cat((seen, later), 2)
        free = seen.new_ones(len(seen), n_queries - self.n_new, seen.shape[2])
        return torch.cat((free, seen), 1)

    def _mask(
        self, sequence: Sequence, dtype: torch.dtype, two_way: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the mask and, for single queries after pruning, the chosen entries."""
        n_queries = self.n_new + (sequence.width if self.reads_prompt else 0)
        keys, padded = self.keys(sequence), sequence.padded or self.later is not None
        chosen, view = self.chosen_keys(sequence, n_queries), None
        weights = self.log_weights(sequence)
        if chosen is not None and n_queries == 1:
            seen = visible(keys, 1, chosen)[:, 0]
            # Stable: what is seen comes last, in its order.
            view = seen.byte().argsort(dim=1, stable=True)[:, -int(seen.sum(1).max()) :]
            keys, chosen = seen.gather(1, view), None
            weights = None if weights is None else weights.gather(1, view)
            padded = not bool(keys.all())
        mutual = self._mutual(sequence) if two_way else None
        backend = backend_of(self.model.config)
        mask = backend_mask(backend, dtype, keys, padded, n_queries, chosen, mutual, weights)
        return mask, view

    def _mutual(self, sequence: Sequence) -> Bool[Tensor, "rows width"]:
        """Return the tokens of prompts with visual tokens; prompts without are left alone."""
        visual = self.prompt.facts["visual"].gather(1, sequence.names.clamp_min(0))
        return self.spread(sequence.valid & (visual & sequence.valid).any(1, keepdim=True))

    # Positions

    @property
    def multimodal(self) -> bool:
        """Whether positions have a time, a row and a column."""
        rope = getattr(self.model.config, "rope_parameters", None) or {}
        return self.tables[0].ndim > 3 or "mrope_section" in rope

    def columns_of(self, sequence: Sequence) -> Int[Tensor, "prompts width"]:
        """Return the columns of the prompt whose positions a sequence has; 0 for padding."""
        return self.prompt.column.gather(1, sequence.names.clamp_min(0))

    def tables_of(self, sequence: Sequence, hidden: Tensor) -> tuple[Tables, Tensor | None]:
        """Return rotary tables and position ids of what this call reads of a sequence."""
        key = ("tables", sequence)
        if key not in self._memo:
            self._memo[key] = self._make_tables(sequence, hidden)
        return self._memo[key]

    def _make_tables(self, sequence: Sequence, hidden: Tensor) -> tuple[Tables, Tensor | None]:
        ids = self.position_ids
        if sequence.untouched:
            return self.tables, ids
        if sequence.positions is not None and sequence.shift is not None and ids is not None:
            new = ids[:, ids.shape[1] - self.n_new :] - self.spread(sequence.shift)[:, None]
            if self.reads_prompt:
                new = torch.cat((self.spread(sequence.positions), new), 1)
            return self.model.rotary_emb(hidden, new), new
        columns = self.spread(self.columns_of(sequence))
        later = self.prompt.width + torch.arange(self.n_new, device=columns.device)
        columns = torch.cat((columns, later.expand(len(columns), -1)), 1)
        if ids is not None:
            ids = ids.expand(len(columns), -1).gather(1, columns)
        cos, sin = self.tables
        return (gather(cos, columns), gather(sin, columns)), ids

    def row_tables(self, sequence: Sequence, row: int, columns: Tensor, hidden: Tensor) -> Tables:
        """Return the rotary tables of one prompt's tokens, with a batch of one."""
        (cos, sin), _ = self.tables_of(sequence, hidden)
        first = row * self.copies if cos.shape[-3] > 1 else 0
        return (
            cos[..., first, columns, :].unsqueeze(-3),
            sin[..., first, columns, :].unsqueeze(-3),
        )

    def prompt_positions(self) -> Int[Tensor, "prompts columns"]:
        """Return the position ids that the prompts came with.

        Raises
        ------
        CapabilityError
            If they are no plain numbers, or the model does not show them.
        """
        if self.multimodal:
            raise CapabilityError(
                "M-RoPE positions locate a token in the video and cannot be renumbered; keep them"
            )
        if self.position_ids is None:
            raise CapabilityError(f"{type(self.model).__name__} does not show its position ids")
        return self.position_ids.expand(len(self.embeddings), -1)[:: self.copies]

    # The end of the call

    def full_length(
        self, hidden: Float[Tensor, "rows short dim"]
    ) -> Float[Tensor, "rows full dim"]:
        """Scatter hidden states to the columns of the full prompt; dropped ones are zero."""
        names, width = self.spread(self.now.names), self.prompt.width
        rows, columns = ((names >= 0) & (names < width)).nonzero(as_tuple=True)
        full = hidden.new_zeros(hidden.shape[0], width, hidden.shape[2])
        full = full.index_put((rows, names[rows, columns]), hidden[rows, columns])
        return torch.cat((full, hidden[:, self.now.width :]), 1)

    def inherited(self, full: Float[Tensor, "rows full dim"]) -> Float[Tensor, "rows width dim"]:
        """Gather full-length values for the tokens of the prompt."""
        names = self.spread(self.now.names)
        entered = (names >= 0) & (names < self.prompt.width)
        return gather(full, names.where(entered, 0)) * entered[..., None]

    def counts(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Return visual tokens and all tokens that entered each layer, for every prompt."""
        visual, alive = [], []
        for sequence in self.entering:
            facts = self.prompt.facts["visual"].gather(1, sequence.names.clamp_min(0))
            visual.append((facts & sequence.valid).sum(1))
            alive.append(sequence.valid.sum(1))
        both = torch.stack(visual, 1).tolist(), torch.stack(alive, 1).tolist()
        return [tuple(row) for row in both[0]], [tuple(row) for row in both[1]]


def gather(table: Tensor, index: Int[Tensor, "*lead entries"]) -> Tensor:
    """Take entries along the next to last dimension; leading dimensions broadcast."""
    lead = torch.broadcast_shapes(table.shape[:-2], index.shape[:-1])
    table = table.expand(*lead, *table.shape[-2:])
    where = index[..., None].expand(*lead, index.shape[-1], table.shape[-1])
    return table.gather(-2, where.to(table.device))

"""The segment stage as AOT's release has it: anchors come twice, before and after the merge."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.config import is_of_frames
from tokenred.errors import BudgetError
from tokenred.kernels.sparse import sparse_identity, sparse_map
from tokenred.pipeline.flow import Flow, Output
from tokenred.stages.segment import SegmentStage
from tokenred.types import Segments, VisualTokens


class AotReleasedSegmentStage(SegmentStage):
    """Merge later frames into the first one of a segment, and send its tokens unmerged as well.

    Of a segment with several frames the LLM sees the anchors as they were, what stays of later
    frames, and the merged anchors, in this order; an exact budget counts the anchors twice.
    Where the model closes rows with newline tokens, these are tokens like all others, anchors and
    sources, and the model adds none. Nor does it add one behind the video, as the line of the
    release that would do so never runs.

    Source
    ------
    TyroneLi/AOT@88455ee ``ota_merge_N_to_M_time``. Licence of source: Apache-2.0 (written from our
    description).
    Differs: nothing.
    """

    own_sequence = True

    def run(self, flow: Flow) -> None:
        """Merge across frames, newline tokens included where the model has them in the grid."""
        newline = flow.unflushed.newline
        if newline is None or newline.closes != "row":
            super().run(flow)
            if newline is not None and newline.closes == "end" and flow.output is not None:
                never = torch.zeros_like(flow.output.place, dtype=torch.bool)
                flow.output = replace(flow.output, newline=never)
            return
        if flow.exact:
            raise BudgetError(
                "this model's newline tokens are merged with the others, as released, so that no "
                "exact budget can be met; use budget.mode: as-released, or aot-paper"
            )
        columns = flow.unflushed.grid[1]
        wide = _widened(flow, newline.embedding)
        super().run(wide)
        assert wide.output is not None
        row, column = wide.output.place // (columns + 1), wide.output.place % (columns + 1)
        closed = row * columns + column.clamp_max(columns - 1)
        flow.output = replace(wide.output, place=closed, newline=column == columns)
        keep = wide.unflushed.keep.unflatten(1, (-1, columns + 1))[..., :columns]
        flow.update(keep=keep.flatten(1), segments=wide.unflushed.segments)

    def _copies(self, frames: range) -> int:
        return 2 if len(frames) > 1 else 1

    def _merge_segments(self, flow: Flow, segments: Segments, quotas: Sequence[int | None]) -> None:
        if flow.tracing and flow.trace is None:
            flow.trace = sparse_identity(flow.mass.numel(), flow.mass.device)
        twice = [frames[0] for frames in segments if self._copies(frames) > 1]
        first = torch.zeros_like(flow.unflushed.keep)
        first[twice] = flow.unflushed.keep[twice]
        original = Output.at(flow, first.flatten().nonzero()[:, 0])
        super()._merge_segments(flow, segments, quotas)
        keep = flow.unflushed.keep
        merged = Output.at(flow, keep.flatten().nonzero()[:, 0])
        flow.output = merged.then(original).reordered(_sequence(keep, segments, twice))


def with_newline_column(tokens: VisualTokens, newline: Float[Tensor, "dim"]) -> VisualTokens:
    """Return the tokens with a newline token behind every row of every frame."""
    rows, columns = tokens.grid

    def wider(values: Tensor, fill: Tensor) -> Tensor:
        grid = values.unflatten(1, (rows, columns))
        return torch.cat([grid, fill.to(values).expand_as(grid[:, :, :1])], 2).flatten(1, 2)

    cues = {
        name: cue if is_of_frames(name) else wider(cue, cue.new_zeros(()))
        for name, cue in tokens.cues.items()
    }
    return replace(
        tokens,
        features=wider(tokens.features, newline),
        keep=wider(tokens.keep, tokens.keep.new_ones(())),
        grid=(rows, columns + 1),
        cues=cues,
    )


def _widened(flow: Flow, newline: Tensor) -> Flow:
    """Return a flow of the tokens and of the newline tokens behind their rows."""
    tokens = flow.tokens
    (frames, n), columns = tokens.keep.shape, tokens.grid[1]
    place = torch.arange(frames * n, device=flow.mass.device)
    place = place // columns * (columns + 1) + place % columns
    wide = Flow.start(
        with_newline_column(tokens, newline), flow.budget, flow.generator, flow.tracing
    )
    wide.notes = flow.notes
    wide.mass.view(-1)[place] = flow.mass.flatten()
    if flow.tracing:
        trace = sparse_identity(len(place), place.device) if flow.trace is None else flow.trace
        trace = trace.coalesce()
        row, column = trace.indices()
        shape = (wide.mass.numel(), trace.shape[1])
        wide.trace = sparse_map(torch.stack([place[row], column]), trace.values(), shape)
    return wide


def _sequence(keep: Tensor, segments: Segments, twice: Sequence[int]) -> Tensor:
    """Return the order of the output: which living token, or, behind all these, which original."""
    n_alive = int(keep.sum())
    alive = torch.arange(n_alive, device=keep.device).split(keep.sum(-1).tolist())
    order, original = [], n_alive
    for frames in segments:
        first, kept = alive[frames[0]], [alive[t] for t in frames[1:]]
        if frames[0] not in twice:
            order += [first, *kept]
            continue
        order += [torch.arange(original, original + len(first), device=keep.device), *kept, first]
        original += len(first)
    return torch.cat(order)

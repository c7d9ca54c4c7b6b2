"""The segment stage as AOT's release has it: anchors come twice, before and after the merge."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenred.kernels.sparse import sparse_identity
from tokenred.pipeline.flow import Flow, Output
from tokenred.stages.segment import SegmentStage
from tokenred.types import Segments


class AotReleasedSegmentStage(SegmentStage):
    """Merge later frames into the first one of a segment, and send its tokens unmerged as well.

    Of a segment with several frames the LLM sees the anchors as they were, what stays of later
    frames, and the merged anchors, in this order; an exact budget counts the anchors twice.

    Source
    ------
    TyroneLi/AOT@88455ee ``ota_merge_N_to_M_time``. Licence of source: Apache-2.0 (written from our
    description).
    Differs: nothing.
    """

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

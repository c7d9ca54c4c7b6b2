"""The frame stage as HoloV's release has it: zero vectors where the number falls short."""

import torch

from tokenred.pipeline.flow import Flow, Output
from tokenred.stages.frame import FrameStage


class HolovReleasedFrameStage(FrameStage):
    """Fill every frame up to its number with zero vectors, which stand last, at its last token.

    Source
    ------
    obananas/HoloV@1d2e65e. Licence of source: Apache-2.0 (written from our description).
    Differs: nothing for LLaVA. For Qwen the release gives a zero vector the place of the last
    token of the image, whichever that is; here it is the last that stays in its frame.
    """

    own_sequence = True

    def run(self, flow: Flow) -> None:
        """Select as ever, then fill up."""
        counts = self._counts(flow)
        super().run(flow)
        tokens = Output.at(flow, flow.in_order())
        n = flow.unflushed.keep.shape[1]
        frame = tokens.place // n
        have = frame.bincount(minlength=flow.frames)
        missing = (torch.tensor(counts, device=have.device) - have).clamp_min(0)
        if not bool(missing.any()):
            return
        empty = torch.arange(flow.frames, device=have.device).repeat_interleave(missing)
        last = have.cumsum(0) - 1
        place = tokens.place[last[empty]]
        features = tokens.features.new_zeros(len(empty), tokens.features.shape[-1])
        zeros = tokens.of_nothing(place, features)
        order = torch.cat([2 * frame, 2 * empty + 1]).argsort(stable=True)
        flow.output = tokens.then(zeros).reordered(order)

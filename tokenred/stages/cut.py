"""The cut stage: say which runs of frames belong together; later stages work inside them."""

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.interfaces import TemporalSegmenter
from tokenred.pipeline.flow import Flow
from tokenred.pipeline.stage import Stage, StageConfig
from tokenred.slots import Slot, build
from tokenred.types import Segments

Descriptor = Literal["mean-feature", "pooler"]
DESCRIPTOR_TEXT = (
    "what a frame is to the segmenter: its mean token, or the output of the vision tower's pooling "
    "head; a segmenter that reads tokens gets all of them"
)


class CutStageConfig(StageConfig):
    """Settings of the cut stage."""

    segmenter: Slot[TemporalSegmenter] = Field(
        description="which runs of frames are treated together"
    )
    descriptor: Descriptor = Field("mean-feature", description=DESCRIPTOR_TEXT)


class CutStage(Stage):
    """Say which runs of frames belong together, for the stages after it; no token is dropped."""

    config: CutStageConfig

    def __init__(self, config: CutStageConfig) -> None:
        super().__init__(config)
        self.segmenter = build(TemporalSegmenter, config.segmenter)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the descriptor asks for."""
        return descriptor_needs(self.segmenter, self.config.descriptor)

    def run(self, flow: Flow) -> None:
        """Cut the video."""
        segments = cut(flow, self.segmenter, self.config.descriptor)
        flow.notes.n_segments = len(segments)
        flow.update(segments=segments)


def descriptor_needs(segmenter: Any, descriptor: Descriptor) -> frozenset[str]:
    """Return the cues that describing the frames takes."""
    pooler = descriptor == "pooler" and not _reads_tokens(segmenter)
    return frozenset({"pooler"} if pooler else ())


def cut(flow: Flow, segmenter: TemporalSegmenter, descriptor: Descriptor) -> Segments:
    """Describe the frames and let a segmenter cut them."""
    described = _descriptors(flow, segmenter, descriptor)
    return segmenter.segment(described, frame_times=flow.tokens.frame_times)


def _descriptors(flow: Flow, segmenter: Any, descriptor: Descriptor) -> Tensor:
    features = flow.tokens.features
    if segmenter.static:  # it reads how many there are, and nothing else
        return features.new_zeros((flow.frames, 1), dtype=torch.float32)
    if _reads_tokens(segmenter):
        return features.to(torch.promote_types(features.dtype, torch.float32))
    return (
        flow.tokens.cues["pooler"]
        if descriptor == "pooler"
        else features.mean(1, dtype=torch.float32)
    )


def _reads_tokens(segmenter: Any) -> bool:
    return bool(segmenter.reads == "tokens")

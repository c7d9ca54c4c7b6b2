"""The frame stage as PruneVid's release has it."""

from pydantic import Field

from tokenred.pipeline.flow import Flow
from tokenred.stages.frame import FrameStage, FrameStageConfig


class PruneVidReleasedFrameStageConfig(FrameStageConfig):
    """Settings of the frame stage, and when a frame is spared."""

    spare_up_to: int = Field(
        0,
        ge=0,
        le=2**20,
        description="a frame with at most so many tokens in the part is left as it is",
    )


class PruneVidReleasedFrameStage(FrameStage):
    """Leave frames alone that have few tokens of the part.

    Source
    ------
    Visual-AI/PruneVid@b12600c ``merge_frames_dynamic``, which clusters more than 14 tokens only.
    Licence of source: CC BY-NC-SA 4.0 (written from our description).
    Differs: nothing.
    """

    config: PruneVidReleasedFrameStageConfig

    def _counts(self, flow: Flow) -> list[int]:
        have = self.config.pools(flow.open(self.config.part))
        spared = self.config.spare_up_to
        return [n if n <= spared else count for n, count in zip(have, super()._counts(flow))]

    def _asks(self, count: int) -> bool:
        return count > self.config.spare_up_to and super()._asks(count)

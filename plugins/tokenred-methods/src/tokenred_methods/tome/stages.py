"""The frame stage in rounds: a bipartite match halves the tokens of a frame at the most."""

from pydantic import Field

from tokenred.pipeline.flow import Flow
from tokenred.stages.frame import FrameStage, FrameStageConfig


class RoundsFrameStageConfig(FrameStageConfig):
    """Settings of the frame stage, and how much a round may drop."""

    max_drop: float = Field(
        0.5, gt=0, lt=1, description="share of the tokens of a frame that may go in one round"
    )


class RoundsFrameStage(FrameStage):
    """Select and merge again and again, until every frame has as many tokens as it shall keep.

    Source
    ------
    ToMe, arXiv 2210.09461, merges some tokens in every block of the tower; here all rounds come
    after it.
    Differs: a round goes as far as it may; ToMe spreads them over the blocks.
    """

    config: RoundsFrameStageConfig

    def run(self, flow: Flow) -> None:
        """Go on while a frame has more tokens than it shall keep."""
        goal = self._counts(flow)
        if self.config.rest == "leave":
            return super().run(flow)
        while True:
            tokens = flow.open(self.config.part)
            # One at a time where the share is less than one, so that it ends.
            least = (n - max(1, int(n * self.config.max_drop)) for n in self.config.pools(tokens))
            counts = [max(pair) for pair in zip(goal, least)]
            self._step(flow, tokens, counts)
            if counts == goal:
                break
        if self.config.part != "all":
            flow.decided |= {self.config.part}

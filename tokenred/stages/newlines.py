"""The newlines stage: where newline tokens go is the pipeline's business, not the model's."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from tokenred.errors import ConfigError
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.flow import Flow, Output
from tokenred.pipeline.stage import Stage, StageConfig


class NewlinesStageConfig(StageConfig):
    """Settings of the newlines stage."""

    after: Literal["row", "frame", "token"] = Field(
        "row", description="what each newline token stands after"
    )
    of: Literal["row", "frame", "end"] = Field(
        "row",
        description="of models that put one after each row or frame, or at the end, and on no "
        "others: there nothing is done",
    )
    every: bool = Field(
        False, description="rows and frames of which nothing is left have one as well"
    )
    behind: Literal["it", "frame"] = Field(
        "it", description="'frame': all newline tokens of a frame stand behind its other tokens"
    )


class NewlinesStage(Stage):
    """Put the model's newline token in, in place of the model, as some released codes do.

    Newline tokens count apart: an exact budget is that of the others. Tokens of a frame stand row
    by row where its rows are closed. Comes last.

    Source
    ------
    Ours; what VisionZip, VidCom2 and others do on LLaVA-Video, taken apart.
    """

    config: NewlinesStageConfig

    def check(self, before: Sequence[Stage], after: Sequence[Stage], budget: BudgetConfig) -> None:
        """It comes last, but for what acts inside the LLM."""
        self._check_only(before)
        if after:
            raise ConfigError("the newlines stage comes last")

    def run(self, flow: Flow) -> None:
        """Put the newline tokens between the others."""
        newline = flow.unflushed.newline
        if newline is None or newline.closes != self.config.of:
            return
        tokens = flow.output or Output.at(flow, flow.in_order())
        closed, own, key = self._closed(flow, tokens.place)
        embedding = newline.embedding.to(tokens.features)
        between = tokens.of_nothing(closed, embedding.expand(len(closed), -1))
        order = torch.cat([2 * own, 2 * key + 1]).argsort(stable=True)
        flow.output = tokens.then(between).reordered(order, newline=len(tokens.place))

    def _closed(self, flow: Flow, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the places that newline tokens get, and sort keys of all tokens and of these."""
        n, columns = flow.unflushed.keep.shape[1], flow.unflushed.grid[1]
        if self.config.after == "token":
            unit = torch.arange(len(place), device=place.device)
            if self.config.behind == "it":
                return place, unit, unit
            return place, place // n, place // n
        size = columns if self.config.after == "row" else n
        unit = place // size
        last = torch.arange(flow.mass.numel() // size, device=place.device)
        if not self.config.every:
            last = last[torch.isin(last, unit)]
        closed = (last + 1) * size - 1
        if self.config.behind == "it":
            return closed, unit, last
        return closed, place // n, closed // n

"""The group stage: one strategy partitions or blends all tokens of the video at once."""

from typing import Literal

import torch
from pydantic import Field

from tokenred.errors import InputError
from tokenred.interfaces import TokenGrouper
from tokenred.pipeline.flow import Flow
from tokenred.pipeline.merges import Grouped
from tokenred.pipeline.stage import Stage, StageConfig
from tokenred.slots import Slot, build
from tokenred.types import Grouping


class GroupStageConfig(StageConfig):
    """Settings of the group stage."""

    grouper: Slot[TokenGrouper] = Field(description="which tokens go on, and what each is made of")
    merge: Literal["mean", "head"] = Field(
        "mean", description="'head': the token that stands for a group goes on as it is"
    )


class GroupStage(Stage):
    """Partition or blend all tokens of the video at once.

    How many are left follows from the thresholds of the grouper.
    """

    config: GroupStageConfig
    decides = "adaptive"

    def __init__(self, config: GroupStageConfig) -> None:
        super().__init__(config)
        self.grouper = build(TokenGrouper, config.grouper)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the grouper asks for."""
        return self.grouper.needs

    def cannot_decide(self) -> str:
        """Return that thresholds decide."""
        return (
            "how many tokens a group stage leaves follows from its thresholds: use "
            "budget.mode: calibrated"
        )

    def run(self, flow: Flow) -> None:
        """Apply the grouper's map."""
        grouping = self.grouper.group(flow.tokens, generator=flow.generator)
        heads = grouping.head
        self._check(flow, grouping)
        keep = torch.zeros_like(flow.tokens.keep).flatten()
        keep[heads] = True
        if self.config.merge == "mean":
            flow.merge([Grouped(grouping)], len(heads))
        flow.update(keep=keep.view_as(flow.tokens.keep))

    def _check(self, flow: Flow, grouping: Grouping) -> None:
        heads, alive = grouping.head, flow.tokens.keep.flatten()
        size = (len(heads), len(alive))
        if tuple(grouping.map.shape) != size or len(heads.unique()) < len(heads):
            raise InputError(
                f"token grouper '{self.config.grouper.name}' gave a map of shape "
                f"{tuple(grouping.map.shape)} for {len(heads.unique())} different heads"
            )
        used = grouping.map.coalesce().indices()[1]
        if not bool(alive[heads].all()) or not bool(alive[used].all()):
            raise InputError(f"token grouper '{self.config.grouper.name}' used a dropped token")

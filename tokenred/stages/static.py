"""The static stage: what stands still all through a segment is merged into its first frame."""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from tokenred.errors import InputError
from tokenred.interfaces import Aggregator, StaticRule
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.flow import Flow, uniform_mass
from tokenred.pipeline.merges import Merge, Problem, Solved
from tokenred.pipeline.stage import Stage, StageConfig
from tokenred.slots import Slot, build
from tokenred.types import Coupling


class StaticStageConfig(StageConfig):
    """Settings of the static stage."""

    rule: Slot[StaticRule] = Field(description="which places of a segment stand still")
    aggregator: Slot[Aggregator] = Field(
        "mean", validate_default=True, description="how the tokens of one place become one"
    )


class StaticStage(Stage):
    """Merge what stands still all through a segment into its first frame.

    Every place of the grid that the rule calls static keeps one token a segment, in its first
    frame. These tokens are the part ``static`` of what later stages work on, all others the part
    ``dynamic``. In a segment of one frame everything is dynamic. Under an exact budget no more is
    merged than leaves tokens enough to keep.
    """

    config: StaticStageConfig
    splits = True

    def __init__(self, config: StaticStageConfig) -> None:
        super().__init__(config)
        self.rule = build(StaticRule, config.rule)
        self.aggregator = build(Aggregator, config.aggregator)

    def check(self, before: Sequence[Stage], after: Sequence[Stage], budget: BudgetConfig) -> None:
        """There are two parts at most."""
        self._check_only(before)

    def run(self, flow: Flow) -> None:
        """Split the tokens, and merge the static ones over time."""
        keep = flow.tokens.keep.clone()
        static, merges = torch.zeros_like(keep), []
        for frames in flow.segments:
            if len(frames) == 1:
                continue
            inside = slice(frames[0], frames[-1] + 1)
            still = self.rule.static(flow.tokens.features[inside])
            if still.shape != keep.shape[1:] or still.dtype != torch.bool:
                raise InputError(
                    f"static rule '{self.config.rule.name}' gave {still.dtype} of shape "
                    f"{tuple(still.shape)}, the frames have {keep.shape[1]} tokens"
                )
            static[frames[0]] = still & flow.open()[inside].all(0)
        if flow.exact:
            self._spare(flow, static)
        for frames in flow.segments:
            if len(frames) == 1:
                continue
            still = static[frames[0]]
            keep[frames[1] : frames[-1] + 1] &= ~still
            if self.aggregator.merges and bool(still.any()):
                merges.append(self._merge(still.nonzero()[:, 0], frames, keep.shape[1]))
        flow.merge(merges, int(static.sum()))
        flow.notes.n_segments = len(flow.segments)
        flow.static, flow.split = static, int(keep.sum())
        flow.update(keep=keep)

    def _spare(self, flow: Flow, static: Tensor) -> None:
        """Call fewer places static, last ones first, where too few tokens would be left to keep."""
        saved = [int(static[frames[0]].sum()) * (len(frames) - 1) for frames in flow.segments]
        missing = flow.target - (int(flow.tokens.keep.sum()) - sum(saved))
        if missing > 0:
            flow.remark("more stood still than the budget allows to merge")
        for frames in reversed(list(flow.segments)):
            places = static[frames[0]].nonzero()[:, 0]
            if missing <= 0 or len(frames) == 1 or len(places) == 0:
                continue
            n = min(len(places), -(-missing // (len(frames) - 1)))
            static[frames[0], places[-n:]] = False
            missing -= n * (len(frames) - 1)

    def _merge(self, places: Tensor, frames: range, tokens: int) -> Merge:
        """Merge each place (a problem of its own) over the frames."""
        later = torch.arange(frames[1], frames[-1] + 1, device=places.device) * tokens
        anchors, sources = places[:, None] + frames[0] * tokens, places[:, None] + later
        left, right = (torch.ones_like(side, dtype=torch.bool) for side in (sources, anchors))
        mass = uniform_mass(left), uniform_mass(right)
        plan = mass[0][..., None]
        coupling = Coupling.direct(plan, torch.zeros_like(plan), *mass)
        return Solved(Problem(anchors, right, sources, left), self.aggregator.weights(coupling))

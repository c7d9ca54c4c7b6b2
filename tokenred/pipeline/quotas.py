"""How many anchors a frame stage gives each frame."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tokenred.errors import InputError
from tokenred.interfaces import BudgetAllocator
from tokenred.pipeline.budget import (
    AnchorCount,
    Rounding,
    anchor_share,
    apportion,
    of_budget,
    resolve_anchors,
    rounded,
    shares,
)
from tokenred.pipeline.flow import Flow, Part
from tokenred.pipeline.stage import StageConfig
from tokenred.slots import Slot


class QuotaConfig(StageConfig):
    """How many anchors a frame gets."""

    n_anchors: AnchorCount = Field(  # type: ignore[valid-type]
        "budget",
        description="anchors a frame: 'budget' (what is left of it), 'budget * 54/64' or "
        "'budget - 1' (of all that it gives a frame), a number, a share of the grid (of the open "
        "tokens if the stage works on a part), or a table from retention ratio to share",
    )
    rounding: Rounding = Field("nearest", description="of a share of the budget or of a part")
    allocator: Slot[BudgetAllocator] = Field(
        "equal", validate_default=True, description="how the anchors are divided among the frames"
    )
    budget_scope: Literal["frame", "video"] = Field(
        "frame",
        description="'video': the selector sees the tokens of all frames as one pool and a number "
        "for the whole video, so how many a frame keeps follows from its choice, and may be none",
    )
    part: Literal["all", "static", "dynamic"] = Field(
        "all", description="work on all tokens, or on one part that a static stage made"
    )
    added: ClassVar[frozenset[str]] = frozenset({"budget_scope"})

    def pools(self, mask: Tensor) -> list[int]:
        """Return the number of tokens in every frame of a mask, or in the whole video."""
        per_frame: list[int] = mask.sum(-1).tolist()
        return per_frame if self.budget_scope == "frame" else [sum(per_frame)]


PARTS: tuple[Part, ...] = ("static", "dynamic")


def anchor_counts(flow: Flow, config: QuotaConfig, allocator: BudgetAllocator) -> list[int]:
    """Return the number of anchors of every frame, or the one number of the whole video.

    Under an exact budget ``budget`` means all that is left to spend; what a frame cannot take goes
    to others. Otherwise it is what the budget gives a frame, less what is pinned in it.

    Raises
    ------
    BudgetError
        If the open tokens are fewer than an exact budget wants, or pinned ones exceed it.
    InputError
        If a frame, or the video, has fewer open tokens than the number asked for.
    """
    open_ = flow.open(config.part)
    have = config.pools(open_)
    frames = flow.frames // len(have)
    if config.part != "all":
        return _of_part(flow, config, have)
    # A share of the budget is one of what the LLM would see, whatever this grid is.
    number = resolve_anchors(
        config.n_anchors,
        open_.shape[1],
        flow.budget.retention_ratio,
        quota=flow.quota_of(frames) if flow.pooled else None,
        rounding=config.rounding,
        frames=frames,
    )
    wanted = [number] * len(have)
    if config.n_anchors == "budget" and flow.pinned is not None:
        wanted = [max(0, number - n) for n in config.pools(flow.pinned)]
    total = sum(wanted)
    last = flow.exact and config.n_anchors == "budget"
    if last and flow.pooled:
        total = _left(flow, sum(have))
    elif last and total > sum(have):
        raise flow.unreachable("most", sum(have))
    if allocator.divides:
        view = replace(flow.tokens, keep=open_)
        if flow.exact:
            return apportion(total, allocator.allocate(view, total / flow.frames).tolist(), have)
        each = _unrounded(flow, config)
        if config.n_anchors == "budget" and flow.pinned is not None:
            each = max(0.0, each - int(flow.pinned.sum()) / flow.frames)
        wanted_ = allocator.allocate(view, each).tolist()
        return [min(rounded(n, allocator.rounding), cap) for n, cap in zip(wanted_, have)]
    if last:
        return apportion(total, [float(n) for n in wanted], have)
    if flow.pinned is not None:  # what was pinned may be all that a frame had
        pinned = config.pools(flow.pinned)
        wanted = [min(n, cap) if some else n for n, cap, some in zip(wanted, have, pinned)]
    short = [cap for n, cap in zip(wanted, have) if n > cap]
    if short:
        whose = "a frame" if config.budget_scope == "frame" else "the video"
        raise InputError(f"{number} anchors asked for, {whose} has {min(short)} tokens left")
    return wanted


def _unrounded(flow: Flow, config: QuotaConfig) -> float:
    """Return the number of anchors that a frame gets on average, for an allocator to round.

    With ``budget.rounding: floor`` a frame's budget is rounded before parts of it are taken.
    """
    spec, ratio = config.n_anchors, flow.budget.retention_ratio
    cells = flow.vanilla_cells if flow.pooled else flow.tokens.features.shape[1]
    part = of_budget(spec)
    if part is not None:
        quota = flow.quota if flow.budget.rounding == "floor" else cells * ratio
        return max(0.0, quota * part.share - part.less)
    return float(spec) if isinstance(spec, int) else cells * anchor_share(spec, ratio)


def _left(flow: Flow, available: int) -> int:
    """Return what an exact budget leaves for the open tokens of all parts."""
    pinned = int(flow.tokens.keep.sum()) - int(flow.open().sum())
    if pinned > flow.target:
        raise flow.unreachable("least", pinned)
    if flow.target - pinned > available:
        raise flow.unreachable("most", pinned + available)
    return flow.target - pinned


def _of_part(flow: Flow, config: QuotaConfig, have: Sequence[int]) -> list[int]:
    """Divide what a part may keep among the frames, in proportion to what they have of it."""
    spec, frames = config.n_anchors, flow.frames // len(have)
    if spec == "budget":
        return _budget_of_part(flow, config, have)
    if of_budget(spec) is not None or isinstance(spec, int):
        number = resolve_anchors(
            spec,
            flow.vanilla_cells,
            flow.budget.retention_ratio,
            quota=flow.quota_of(frames),
            rounding=config.rounding,
            frames=frames,
        )
        counts = [min(number, n) for n in have]
    else:
        share = anchor_share(spec, flow.budget.retention_ratio)
        counts = [rounded(n * share, config.rounding) for n in have]
    return counts


def _budget_of_part(flow: Flow, config: QuotaConfig, have: Sequence[int]) -> list[int]:
    if not flow.exact:
        # What merging over time has saved already may be spent on the rest.
        alive = flow.split or int(flow.tokens.keep.sum())
        wanted = flow.budget.retention_ratio * flow.frames * flow.vanilla_cells
        return [rounded(n * min(1.0, wanted / alive), config.rounding) for n in have]
    undecided: dict[str, list[int]] = {
        part: config.pools(flow.open(part)) for part in PARTS if part not in flow.decided
    }
    decided = sum(int(flow.open(part).sum()) for part in flow.decided)
    available = sum(map(sum, undecided.values()))
    total = _left(flow, available + decided) - decided
    if total < 0:
        raise flow.unreachable("least", flow.target - total)
    if total > available:
        raise flow.unreachable("most", flow.target - total + available)
    cells = [n for part in undecided.values() for n in part]
    parts = shares(total, cells)
    first = list(undecided).index(config.part) * len(have)
    return parts[first : first + len(have)]

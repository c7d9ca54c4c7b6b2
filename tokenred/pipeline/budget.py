"""Token budgets: how many tokens a pipeline may keep, counted so that methods are comparable.

``retention_ratio`` is kept tokens over vanilla tokens of the LLM grid, newline tokens apart. The
number is rounded up per frame, ``ceil(cells * ratio) * frames``: that is what the FLOPs of AOT's
Table 1 imply (196 cells: 20 a frame at 10 %).
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from tokenred.config import FrozenModel, fraction
from tokenred.errors import BudgetError, ConfigError, quoted

MOST_ANCHORS = 2**20
Mode = Literal["exact", "calibrated", "as-released"]
Rounding = Literal["floor", "ceil", "nearest"]


Bound = Annotated[float, Field(ge=-1e6, le=1e6)]


class BudgetConfig(FrozenModel):
    """What may be kept, and who makes sure of it."""

    retention_ratio: float = Field(1.0, gt=0, le=1, description="kept / vanilla LLM visual tokens")
    mode: Mode = Field(
        "exact",
        description="'exact': the last deciding stage keeps exactly the number, for every video; "
        "'calibrated': one knob is solved on held-out videos, then frozen; "
        "'as-released': the method's own knobs decide and the realised ratio is reported",
    )
    rounding: Rounding = Field(
        "ceil",
        description="how a frame's share is rounded ('nearest': halves to even), or the video's "
        "where a stage has budget_scope: video; all but 'ceil' for mode 'as-released' only",
    )
    at_least: int = Field(
        1,
        ge=0,
        le=MOST_ANCHORS,
        description="what a share is raised to that rounds to fewer tokens; all but 1 for mode "
        "'as-released' only",
    )
    knob: str | None = Field(None, description="dotted path that a calibrated budget solves for")
    knob_range: tuple[Bound, Bound] | None = Field(
        None, description="where a calibrated budget searches"
    )
    added: ClassVar[frozenset[str]] = frozenset({"at_least"})


def frame_quota(
    cells: int, retention_ratio: float, rounding: Rounding = "ceil", at_least: int = 1
) -> int:
    """Return the tokens that one frame of ``cells`` tokens may keep, ``at_least`` if it can."""
    return min(cells, max(at_least, rounded(cells * retention_ratio, rounding)))


def rounded(number: float, rounding: Rounding) -> int:
    """Round a number of tokens; ``nearest`` goes to the even neighbour of two."""
    number = round(number, 9)
    if rounding == "nearest":
        return round(number)
    return math.floor(number) if rounding == "floor" else math.ceil(number)


def unreachable(
    target: int, bound: Literal["most", "least"], possible: int, frames: int, cells: int
) -> BudgetError:
    """Return the error of a budget that cannot be met, with the nearest ratio that can."""
    quota = possible // frames if bound == "most" else -(-possible // frames)
    ratio = math.floor(1e4 * quota / cells) / 1e4  # rounded down: quotas are rounded up
    return BudgetError(
        f"{target} tokens (retention_ratio {target / frames / cells:.4g}) cannot be met: at "
        f"{bound} {possible} tokens are possible here; nearest retention_ratio {ratio:.4f}"
    )


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights``, at most the weight each (largest remainders).

    The parts sum to ``min(total, sum(weights))``; earlier parts win ties.
    """
    capacity = sum(weights)
    total = min(total, capacity)
    if capacity == 0:
        return [0] * len(weights)
    exact = [Fraction(total * weight, capacity) for weight in weights]
    parts = [int(part) for part in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def apportion(total: int, weights: Sequence[float], caps: Sequence[int]) -> list[int]:
    """Split ``total`` in proportion to ``weights``, part ``i`` at most ``caps[i]``.

    What a capped part cannot take goes to the others, if need be to those of no weight. Fractions
    go by largest remainders, earlier parts first. The parts sum to ``min(total, sum(caps))``.
    """
    total = min(total, sum(caps))
    parts = [0.0] * len(caps)
    free = [i for i, weight in enumerate(weights) if weight > 0 and caps[i] > 0]
    left = float(total)
    while free:
        scale = left / sum(weights[i] for i in free)
        full = [i for i in free if weights[i] * scale >= caps[i]]
        for i in full or free:
            parts[i] = float(caps[i]) if full else weights[i] * scale
        if not full:
            break
        left -= sum(caps[i] for i in full)
        free = [i for i in free if i not in set(full)]
    whole = [int(round(part, 9)) for part in parts]
    while sum(whole) < total:
        open_ = [i for i, cap in enumerate(caps) if whole[i] < cap]
        by_remainder = sorted(open_, key=lambda i: (whole[i] - parts[i], i))
        for i in by_remainder[: total - sum(whole)]:
            whole[i] += 1
    return whole


def trim(counts: Sequence[int], copies: Sequence[int], total: int) -> list[int]:
    """Lower ``counts``, each at least to one, until ``sum(counts * copies)`` is within ``total``.

    The cuts are in proportion to what a count has beyond one. At most one token of ``total`` stays
    unused, when every count that could still grow is emitted twice.
    """
    spare = [count - 1 for count in counts]
    left = total - sum(copies)
    emitted = shares(left, [more * n for more, n in zip(spare, copies)])
    parts = [part // n for part, n in zip(emitted, copies)]
    left -= sum(part * n for part, n in zip(parts, copies))
    for i, n in enumerate(copies):  # give back what halving rounded away
        if n <= left and parts[i] < spare[i]:
            parts[i] += 1
            left -= n
    return [part + 1 for part in parts]


def _share(value: object) -> float:
    if isinstance(value, str):
        value = fraction(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"a share lies in (0, 1], got {quoted(value)}")
    return float(value)


@dataclass(frozen=True)
class OfBudget:
    """A part of what the budget gives: ``share`` of it, less ``less`` tokens a frame."""

    share: float = 1.0
    less: int = 0

    def number(self, quota: int, rounding: Rounding, frames: int = 1) -> int:
        """Return the part of a quota of some frames, never below zero."""
        return max(0, rounded(quota * self.share, rounding) - self.less * frames)


_WHOLE = re.compile(r"[0-9]{1,6}")
_OF_BUDGET = re.compile(r"budget *(?:([*-]) *(\S+))?")


def of_budget(spec: object) -> OfBudget | None:
    """Read ``budget``, ``budget * 54/64`` or ``budget - 1``; None if it is something else."""
    found = _OF_BUDGET.fullmatch(spec.strip()) if isinstance(spec, str) else None
    if found is None:
        return None
    sign, number = found.groups()
    if sign == "*":
        return OfBudget(share=_share(number))
    if sign == "-" and not _WHOLE.fullmatch(number):
        raise ConfigError(f"expected a whole number after 'budget -', got {quoted(number)}")
    return OfBudget(less=int(number or 0))


def _number(ratio: object) -> float:
    """Return the ratio of a table, which is a text where the table comes from JSON."""
    if isinstance(ratio, str):
        return fraction(ratio)
    is_ratio = isinstance(ratio, int | float) and 0 < ratio <= 1
    return float(ratio) if is_ratio else math.nan  # type: ignore[arg-type]


def _anchor_count(value: object) -> object:
    if of_budget(value) is not None:
        return str(value).strip()
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ConfigError(f"a frame needs at least one anchor, got {quoted(value)}")
        if value > MOST_ANCHORS:
            raise ConfigError(f"a frame has at most {MOST_ANCHORS} anchors, got {quoted(value)}")
        return value
    if isinstance(value, Mapping):
        ratios = [_number(ratio) for ratio in value]
        table = {ratio: _share(share) for ratio, share in zip(ratios, value.values())}
        if not table or len(table) < len(ratios) or any(not 0 < ratio <= 1 for ratio in table):
            raise ConfigError("a table of anchors maps retention ratios in (0, 1] to shares")
        return dict(sorted(table.items()))
    return _share(value)


_SHARE_SCHEMA = [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "string"}]
_ANCHOR_SCHEMA = [
    {"type": "string", "pattern": "^budget( *[*-] *[0-9./]+)?$"},
    {"type": "integer", "minimum": 1, "maximum": MOST_ANCHORS},
    *_SHARE_SCHEMA,
    {"type": "object", "additionalProperties": {"anyOf": _SHARE_SCHEMA}, "minProperties": 1},
]
AnchorCount = Annotated[
    str | int | float | dict[float, float],
    BeforeValidator(_anchor_count),
    WithJsonSchema({"anyOf": _ANCHOR_SCHEMA}),
]
"""``budget`` (what the budget leaves), ``budget * 54/64`` or ``budget - 1`` (of what it gives a
frame), a number, a share of the grid (0.17 or "126/729"), or a table from retention ratio to share,
interpolated linearly and extended in proportion."""


def anchor_share(spec: object, retention_ratio: float) -> float:
    """Return the share that a share or a table of shares means at a retention ratio."""
    return _interpolate(spec, retention_ratio) if isinstance(spec, dict) else float(str(spec))


def resolve_anchors(
    spec: object,
    tokens_per_frame: int,
    retention_ratio: float,
    *,
    quota: int | None = None,
    rounding: Rounding = "nearest",
    frames: int = 1,
) -> int:
    """Return the number of anchors of a frame with a grid of ``tokens_per_frame``.

    Parameters
    ----------
    quota : what the budget gives; by default its share of this grid
    rounding : of parts of the budget
    frames : number of frames that share the anchors, and the quota; all is rounded once for them
    """
    part, cells = of_budget(spec), frames * tokens_per_frame
    if part is not None:
        quota = frame_quota(cells, retention_ratio) if quota is None else quota
        return part.number(quota, rounding, frames)
    if isinstance(spec, int):
        return min(spec * frames, cells)
    share = anchor_share(spec, retention_ratio)
    return max(1, min(cells, round(cells * share)))


def _interpolate(table: dict[float, float], ratio: float) -> float:
    points = list(table.items())
    if ratio <= points[0][0]:
        return points[0][1] * ratio / points[0][0]
    if ratio >= points[-1][0]:
        return min(1.0, points[-1][1] * ratio / points[-1][0])
    (left, low), (right, high) = next(
        pair for pair in zip(points, points[1:]) if pair[0][0] <= ratio <= pair[1][0]
    )
    return low + (high - low) * (ratio - left) / (right - left)

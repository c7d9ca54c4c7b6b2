"""Token budgets: how many tokens a pipeline may keep, counted so that methods are comparable.

``retention_ratio`` is kept tokens over vanilla tokens of the LLM grid, newline tokens apart. The
number is rounded up per frame, ``ceil(cells * ratio) * frames``: that is what the FLOPs of AOT's
Table 1 imply (196 cells: 20 a frame at 10 %).
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from tokenred.config import FrozenModel
from tokenred.errors import BudgetError, ConfigError

Mode = Literal["exact", "calibrated", "as-released"]


class BudgetConfig(FrozenModel):
    """What may be kept, and who makes sure of it."""

    retention_ratio: float = Field(1.0, gt=0, le=1, description="kept / vanilla LLM visual tokens")
    mode: Mode = Field(
        "exact",
        description="'exact': the last deciding stage keeps exactly the number, for every video; "
        "'calibrated': one knob is solved on held-out videos, then frozen; "
        "'as-released': the method's own knobs decide and the realised ratio is reported",
    )
    knob: str | None = Field(None, description="dotted path that a calibrated budget solves for")
    knob_range: tuple[float, float] | None = Field(
        None, description="where a calibrated budget searches"
    )


def frame_quota(cells: int, retention_ratio: float) -> int:
    """Return the tokens that one frame of ``cells`` tokens may keep, at least one."""
    return max(1, min(cells, math.ceil(round(cells * retention_ratio, 9))))


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
        try:
            value = float(Fraction(value))
        except (ValueError, ZeroDivisionError):
            raise ConfigError(f"'{value}' is no share; write 0.17 or 126/729") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ConfigError(f"a share lies in (0, 1], got {value!r}")
    return float(value)


def _anchor_count(value: object) -> object:
    if value == "budget":
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ConfigError(f"a frame needs at least one anchor, got {value}")
        return value
    if isinstance(value, Mapping):
        table = {float(ratio): _share(share) for ratio, share in value.items()}
        if not table or any(not 0 < ratio <= 1 for ratio in table):
            raise ConfigError("a table of anchors maps retention ratios in (0, 1] to shares")
        return dict(sorted(table.items()))
    return _share(value)


_SHARE_SCHEMA = [{"type": "number", "exclusiveMinimum": 0, "maximum": 1}, {"type": "string"}]
_ANCHOR_SCHEMA = [
    {"const": "budget"},
    {"type": "integer", "minimum": 1},
    *_SHARE_SCHEMA,
    {"type": "object", "additionalProperties": {"anyOf": _SHARE_SCHEMA}, "minProperties": 1},
]
AnchorCount = Annotated[
    Literal["budget"] | int | float | dict[float, float],
    BeforeValidator(_anchor_count),
    WithJsonSchema({"anyOf": _ANCHOR_SCHEMA}),
]
"""``budget`` (what the budget leaves), a number, a share of the grid (0.17 or "126/729"), or a
table from retention ratio to share, interpolated linearly and extended in proportion."""


def resolve_anchors(spec: object, tokens_per_frame: int, retention_ratio: float) -> int:
    """Return the number of anchors a frame for a grid of ``tokens_per_frame``."""
    if spec == "budget":
        return frame_quota(tokens_per_frame, retention_ratio)
    if isinstance(spec, int):
        return min(spec, tokens_per_frame)
    share = _interpolate(spec, retention_ratio) if isinstance(spec, dict) else float(str(spec))
    return max(1, min(tokens_per_frame, round(tokens_per_frame * share)))


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

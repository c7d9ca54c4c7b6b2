"""FLOPs of an LLM by named formulas, from the number of tokens that enter each layer.

A reducer in front of the LLM gives every layer the same number; one inside it gives a schedule.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tokenred.errors import ConfigError, InputError, nearest


@dataclass(frozen=True)
class LlmShape:
    """The sizes of a decoder that the formulas read."""

    hidden_size: int
    ffn_size: int
    n_layers: int

    @classmethod
    def of(cls, text_config: Any) -> "LlmShape":
        """Read the sizes from the text configuration of a transformers model."""
        return cls(
            text_config.hidden_size, text_config.intermediate_size, text_config.num_hidden_layers
        )


def _paper_layer(n: int, d: int, m: int) -> int:
    return 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * m


FORMULAS: MappingProxyType[str, Callable[[int, int, int], int]] = MappingProxyType(
    {"paper": _paper_layer}
)
"""Prefill cost of one layer as ``formula(n_tokens, hidden_size, ffn_size)``, by name."""


def prefill_flops(
    schedule: Sequence[int] | int,
    hidden_size: int,
    ffn_size: int,
    n_layers: int,
    formula: str = "paper",
) -> int:
    """Return the cost of one prefill over the visual tokens.

    ``paper`` adds ``4 n d^2 + 2 n^2 d + 2 n d m`` over the layers. As in the field, it counts four
    square projections and two FFN matrices (Qwen2 has smaller keys and values, and three), so it
    compares budgets; it does not predict time.

    Parameters
    ----------
    schedule : visual tokens entering each layer, one number a layer; one number for all layers
    hidden_size, ffn_size, n_layers : width ``d``, FFN width ``m`` and depth of the LLM
    formula : a key of ``FORMULAS``

    Raises
    ------
    ConfigError
        If there is no such formula.
    InputError
        If the schedule does not have one number of tokens a layer.

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 17.
    """
    if formula not in FORMULAS:
        raise ConfigError(f"unknown FLOPs formula '{formula}'{nearest(formula, FORMULAS)}")
    layer = FORMULAS[formula]
    return sum(layer(n, hidden_size, ffn_size) for n in _per_layer(schedule, n_layers))


def decode_flops(
    schedule: Sequence[int] | int,
    hidden_size: int,
    ffn_size: int,
    n_layers: int,
    n_generated: int = 100,
) -> int:
    """Return the cost of generating ``n_generated`` tokens after the visual tokens.

    With ``R`` generated tokens every layer adds ``R (4 d^2 + 2 d m + 2 (d n + d (R + 1) / 2))``.

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 18.
    """
    d, m, r = hidden_size, ffn_size, n_generated
    fixed = 4 * d**2 + 2 * d * m
    return sum(r * (fixed + 2 * d * n) + r * (r + 1) * d for n in _per_layer(schedule, n_layers))


def _per_layer(schedule: Sequence[int] | int, n_layers: int) -> Sequence[int]:
    if isinstance(schedule, int):
        schedule = [schedule] * n_layers
    if len(schedule) != n_layers:
        raise InputError(f"{n_layers} layers need {n_layers} token counts, got {len(schedule)}")
    if any(n < 0 for n in schedule):
        raise InputError(f"token counts cannot be negative, got {min(schedule)}")
    return schedule

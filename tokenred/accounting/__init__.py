"""FLOPs by named formulas, term by term."""

from tokenred.accounting.flops import (
    FORMULAS,
    UNITS,
    Flops,
    Formula,
    Term,
    decode_flops,
    flops_text,
    flops_unit,
    prefill_flops,
)
from tokenred.accounting.schedule import parse_schedule, schedule_of, schedule_text
from tokenred.accounting.shape import SHAPES, LlmShape, find_shape

__all__ = [
    "FORMULAS",
    "SHAPES",
    "UNITS",
    "Flops",
    "Formula",
    "LlmShape",
    "Term",
    "decode_flops",
    "find_shape",
    "flops_text",
    "flops_unit",
    "parse_schedule",
    "prefill_flops",
    "schedule_of",
    "schedule_text",
]

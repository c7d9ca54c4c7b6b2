"""FLOPs by named formulas, term by term."""

from tokenred.accounting.flops import FORMULAS, Flops, Formula, Term, decode_flops, prefill_flops
from tokenred.accounting.schedule import parse_schedule, schedule_of, schedule_text
from tokenred.accounting.shape import SHAPES, LlmShape, find_shape

__all__ = [
    "FORMULAS",
    "SHAPES",
    "Flops",
    "Formula",
    "LlmShape",
    "Term",
    "decode_flops",
    "find_shape",
    "parse_schedule",
    "prefill_flops",
    "schedule_of",
    "schedule_text",
]

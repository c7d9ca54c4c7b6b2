"""FLOPs of an LLM by named formulas, from the number of tokens that enter each layer.

A reducer in front of the LLM gives every layer the same number; one inside it gives a schedule.

A formula says what every token costs in a layer and how wide attention is. Prefill (Eq. 17 of AOT)
and decoding (Eq. 18) follow from that: ``n`` tokens that attend to ``n``, and ``R`` tokens of which
the ``r``-th attends to ``n + r``. As in the field, a multiply-add counts once, causal masks save
nothing in prefill, and vision tower, reducer, norms and output head are left out.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

from tokenred.accounting.schedule import schedule_of
from tokenred.accounting.shape import LlmShape
from tokenred.errors import ConfigError, InputError, nearest

UNITS = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "": 1.0}
"""Prefix of a printed unit -> FLOPs, largest first."""


@dataclass(frozen=True)
class Term:
    """One term of a formula: its name, what it adds for one layer, and its sum over the layers."""

    name: str
    expression: str
    value: int


@dataclass(frozen=True)
class Flops:
    """A cost, term by term."""

    terms: tuple[Term, ...]

    @property
    def total(self) -> int:
        """The sum of the terms, in FLOPs as the formula counts them."""
        return sum(term.value for term in self.terms)


@dataclass(frozen=True)
class Formula:
    """What a layer costs, in the symbols ``d m q k`` of :class:`LlmShape`.

    Attributes
    ----------
    summary : what it counts, in a line
    source : where it comes from
    per_token : name of a term -> (factor, symbols): what each token costs, whatever it attends to
    attention : symbol of the width of attention
    """

    summary: str
    source: str
    per_token: Mapping[str, tuple[int, str]]
    attention: str


FORMULAS: MappingProxyType[str, Formula] = MappingProxyType(
    {
        "paper": Formula(
            "four square projections and two FFN matrices",
            "AOT, arXiv 2603.01400, Eqs. 17 and 18",
            {"projections": (4, "dd"), "FFN": (2, "dm")},
            "d",
        ),
        "gqa-swiglu": Formula(
            "keys and values as narrow as they are, and three FFN matrices",
            "ours; it gives the 8.3 % that FastVID published",
            {
                "query, output": (2, "dq"),
                "key, value": (2, "dk"),
                "FFN": (3, "dm"),
            },
            "q",
        ),
        "sparsevlm": Formula(
            "four square projections and three FFN matrices",
            "the code of SparseVLM, modelling_sparse_llama.py",
            {"projections": (4, "dd"), "FFN": (3, "dm")},
            "d",
        ),
    }
)
"""The formulas by name."""


def prefill_flops(schedule: Sequence[int] | int, shape: LlmShape, formula: str = "paper") -> Flops:
    """Return the cost of one prefill.

    ``paper`` adds ``4 n d^2 + 2 n^2 d + 2 n d m`` over the layers. It counts keys and values as
    wide as queries and two FFN matrices where Qwen2 has narrower ones and three, so it compares
    budgets; it does not predict time.

    Parameters
    ----------
    schedule : tokens ``n`` entering each layer, one number a layer; one number for all layers
    shape : sizes of the LLM
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
    chosen, tokens = _formula(formula), schedule_of(schedule, shape.n_layers)
    width = shape.sizes[chosen.attention]
    attention = sum(2 * n**2 * width for n in tokens)
    return Flops(
        (
            *_per_token(chosen, "n", sum(tokens), shape),
            Term("attention", f"2 n^2 {chosen.attention}", attention),
        )
    )


def decode_flops(
    schedule: Sequence[int] | int,
    shape: LlmShape,
    n_generated: int = 100,
    formula: str = "paper",
) -> Flops:
    """Return the cost of generating ``R = n_generated`` tokens after the prompt.

    Every layer adds what each of the ``R`` tokens costs for itself and, with the attention width
    ``w``, ``2 w (n + r)`` for the ``r``-th of them: ``2 R n w + R (R + 1) w`` in all. For ``paper``
    that is Eq. 18, ``R (4 d^2 + 2 d m + 2 (d n + d (R + 1) / 2))``; the other formulas are extended
    in the same way.

    Parameters
    ----------
    schedule : tokens ``n`` in each layer's cache after prefill; one number for all layers
    shape : sizes of the LLM
    n_generated : ``R``; 100 in the papers
    formula : a key of ``FORMULAS``

    Raises
    ------
    ConfigError
        If there is no such formula.
    InputError
        If the schedule does not have one number of tokens a layer, or if ``R`` is negative.

    Source
    ------
    AOT, arXiv 2603.01400, Eq. 18.
    """
    chosen, tokens, r = _formula(formula), schedule_of(schedule, shape.n_layers), n_generated
    if r < 0:
        raise InputError(f"the number of generated tokens cannot be negative, got {r}")
    w, width = chosen.attention, shape.sizes[chosen.attention]
    return Flops(
        (
            *_per_token(chosen, "R", r * shape.n_layers, shape),
            Term("attention to the prompt", f"2 R n {w}", 2 * r * sum(tokens) * width),
            Term("attention to new tokens", f"R (R + 1) {w}", r * (r + 1) * shape.n_layers * width),
        )
    )


def _formula(name: str) -> Formula:
    if name not in FORMULAS:
        raise ConfigError(f"unknown FLOPs formula '{name}'{nearest(name, FORMULAS)}")
    return FORMULAS[name]


def flops_unit(values: Sequence[int | float]) -> str:
    """Return the name in ``UNITS`` of the largest unit that fits into the largest value."""
    return next((name for name, size in UNITS.items() if max(values) >= size), "")


def flops_text(value: int | float, unit: str) -> str:
    """Return FLOPs in a unit, with three digits."""
    return f"{value / UNITS[unit]:#.3g}".rstrip(".")


def _per_token(formula: Formula, count: str, total: int, shape: LlmShape) -> Iterator[Term]:
    """Yield the terms that are linear in a token count; ``total`` is its sum over the layers."""
    for name, (factor, symbols) in formula.per_token.items():
        powers = [f"{s}^{power}" if power > 1 else s for s, power in Counter(symbols).items()]
        cost = factor * prod(shape.sizes[symbol] for symbol in symbols)
        yield Term(name, " ".join([str(factor), count, *powers]), cost * total)

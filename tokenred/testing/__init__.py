"""For people who write strategies: contracts, Hypothesis strategies, problems with known answers.

Needs ``pip install 'tokenred[testing]'``.
"""

from tokenred.testing._aggregators import aggregator_checks
from tokenred.testing._costs import cost_term_checks
from tokenred.testing._couplers import coupler_checks
from tokenred.testing._keep import keep_checks
from tokenred.testing._run import Check
from tokenred.testing._segmenters import segmenter_checks
from tokenred.testing._selectors import anchor_mask, selector_checks
from tokenred.testing.checks import (
    parametrize_aggregator_checks,
    parametrize_cost_term_checks,
    parametrize_coupler_checks,
    parametrize_keep_checks,
    parametrize_segmenter_checks,
    parametrize_selector_checks,
)
from tokenred.testing.generators import KnownProblem, known_problems

__all__ = [
    "Check",
    "KnownProblem",
    "aggregator_checks",
    "anchor_mask",
    "cost_term_checks",
    "coupler_checks",
    "keep_checks",
    "known_problems",
    "parametrize_aggregator_checks",
    "parametrize_cost_term_checks",
    "parametrize_coupler_checks",
    "parametrize_keep_checks",
    "parametrize_segmenter_checks",
    "parametrize_selector_checks",
    "segmenter_checks",
    "selector_checks",
]

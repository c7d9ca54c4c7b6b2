"""For people who write strategies or adapters: contracts, problems with known answers, tiny models.

Needs ``pip install 'tokenred[testing]'``.
"""

from tokenred.testing._adapters import adapter_checks
from tokenred.testing._aggregators import aggregator_checks
from tokenred.testing._allocators import allocator_checks
from tokenred.testing._costs import cost_term_checks
from tokenred.testing._couplers import coupler_checks
from tokenred.testing._groupers import grouper_checks
from tokenred.testing._inside_ranking import merger_checks, ranker_checks
from tokenred.testing._inside_reducers import cache_pruner_checks, layer_reducer_checks
from tokenred.testing._keep import keep_checks
from tokenred.testing._references import reference_checks
from tokenred.testing._run import Check
from tokenred.testing._segmenters import segmenter_checks
from tokenred.testing._selectors import anchor_mask, selector_checks
from tokenred.testing._static_rules import static_rule_checks
from tokenred.testing.checks import (
    parametrize_adapter_checks,
    parametrize_aggregator_checks,
    parametrize_allocator_checks,
    parametrize_cache_pruner_checks,
    parametrize_cost_term_checks,
    parametrize_coupler_checks,
    parametrize_field_checks,
    parametrize_grouper_checks,
    parametrize_keep_checks,
    parametrize_layer_reducer_checks,
    parametrize_merger_checks,
    parametrize_ranker_checks,
    parametrize_reference_checks,
    parametrize_segmenter_checks,
    parametrize_selector_checks,
    parametrize_static_rule_checks,
)
from tokenred.testing.fields import Change, field_checks
from tokenred.testing.generators import KnownProblem, known_problems
from tokenred.testing.inside import cache_states, layer_state, through_layers
from tokenred.testing.models import TinyFamily
from tokenred.testing.videos import drawn_cue, video_tokens

__all__ = [
    "Change",
    "Check",
    "KnownProblem",
    "TinyFamily",
    "adapter_checks",
    "aggregator_checks",
    "allocator_checks",
    "anchor_mask",
    "cache_pruner_checks",
    "cache_states",
    "cost_term_checks",
    "coupler_checks",
    "drawn_cue",
    "field_checks",
    "grouper_checks",
    "keep_checks",
    "known_problems",
    "layer_reducer_checks",
    "layer_state",
    "merger_checks",
    "parametrize_adapter_checks",
    "parametrize_aggregator_checks",
    "parametrize_allocator_checks",
    "parametrize_cache_pruner_checks",
    "parametrize_cost_term_checks",
    "parametrize_coupler_checks",
    "parametrize_field_checks",
    "parametrize_grouper_checks",
    "parametrize_keep_checks",
    "parametrize_layer_reducer_checks",
    "parametrize_merger_checks",
    "parametrize_ranker_checks",
    "parametrize_reference_checks",
    "parametrize_segmenter_checks",
    "parametrize_selector_checks",
    "parametrize_static_rule_checks",
    "ranker_checks",
    "reference_checks",
    "segmenter_checks",
    "selector_checks",
    "static_rule_checks",
    "through_layers",
    "video_tokens",
]

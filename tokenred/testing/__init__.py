"""For people who write strategies or adapters: contracts, problems with known answers, tiny models.

Needs ``pip install 'tokenred[testing]'``.
"""

from tokenred.testing._adapters import adapter_checks
from tokenred.testing._run import Check
from tokenred.testing._selectors import anchor_mask
from tokenred.testing.checks import (
    parametrize_adapter_checks,
    parametrize_checks,
    parametrize_field_checks,
    strategy_checks,
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
    "anchor_mask",
    "cache_states",
    "drawn_cue",
    "field_checks",
    "known_problems",
    "layer_state",
    "parametrize_adapter_checks",
    "parametrize_checks",
    "parametrize_field_checks",
    "strategy_checks",
    "through_layers",
    "video_tokens",
]

"""FLOPs formulas against the paper's published figures."""

import math

import pytest

from tokenred.accounting.flops import decode_flops, prefill_flops
from tokenred.errors import ConfigError, InputError

QWEN2_7B = {"hidden_size": 3584, "ffn_size": 18944, "n_layers": 28}
FRAMES, TOKENS_PER_FRAME = 32, 196


@pytest.mark.parametrize(
    ("retention_ratio", "published"), [(1, 40.8), (0.25, 8.7), (0.2, 7.0), (0.15, 5.2), (0.1, 3.4)]
)
def test_prefill_equals_table_1(retention_ratio: float, published: float) -> None:
    n_tokens = math.ceil(TOKENS_PER_FRAME * retention_ratio) * FRAMES
    assert round(prefill_flops(n_tokens, **QWEN2_7B) / 1e12, 1) == published


def test_prefill_of_a_schedule_adds_its_layers() -> None:
    sizes = {"hidden_size": 8, "ffn_size": 24}
    layers = [prefill_flops(n, n_layers=1, **sizes) for n in (50, 20, 5)]
    assert prefill_flops([50, 20, 5], n_layers=3, **sizes) == sum(layers)
    assert layers[2] == 4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 8 * 24


def test_decoding_a_hundred_tokens_is_about_two_per_cent() -> None:
    n_tokens = TOKENS_PER_FRAME * FRAMES
    share = decode_flops(n_tokens, **QWEN2_7B) / prefill_flops(n_tokens, **QWEN2_7B)
    assert 0.01 < share < 0.025


def test_decode_equals_the_sum_over_generated_tokens() -> None:
    """Eq. 18's closed form is a sum: token r attends to n visual and r generated tokens."""
    n, d, m = 7, 4, 12
    by_hand = sum(4 * d**2 + 2 * d * m + 2 * d * (n + r) for r in range(1, 6))
    assert decode_flops(n, d, m, n_layers=1, n_generated=5) == by_hand


def test_a_schedule_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(InputError, match="28 layers need 28 token counts, got 2"):
        prefill_flops([10, 10], **QWEN2_7B)


def test_an_unknown_formula_is_refused_with_the_valid_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper'"):
        prefill_flops(10, **QWEN2_7B, formula="papers")

"""Features and attention as plain tensors: the same as by hand, and shapes in every refusal."""

from typing import Any

import pytest
import torch

import tokenred
from tokenred.errors import CapabilityError, InputError

FRAMES, TOKENS, LAYERS = 4, 36, 10


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(FRAMES, TOKENS, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def attention() -> torch.Tensor:
    return torch.rand(LAYERS, FRAMES, TOKENS, generator=torch.Generator().manual_seed(1))


def by_hand(
    features: torch.Tensor, cues: dict[str, torch.Tensor], retention: float
) -> torch.Tensor:
    tokens = tokenred.VisualTokens.of(features, (6, 6), cues=cues)
    pipeline = tokenred.load_pipeline("aot-paper", {"budget.retention_ratio": retention})
    return pipeline.run(tokens).features


def test_tensors_are_reduced_as_by_hand(features: torch.Tensor, attention: torch.Tensor):
    cues = {"attention@-2": attention[8], "attention@0.2": attention[2]}
    expected = by_hand(features, cues, 0.25)
    kept = tokenred.reduce(features, "aot-paper", attention=attention, retention=0.25)
    assert torch.equal(kept.features, expected)
    assert torch.equal(
        tokenred.reduce(features, "aot-paper", cues=cues, retention=0.25).features, expected
    )
    loaded = tokenred.load_pipeline("aot-paper")
    other = tokenred.reduce(features, loaded, attention=attention, retention=0.25)
    assert torch.equal(other.features, expected)
    assert loaded.config.budget.retention_ratio != 0.25


def test_a_cue_that_is_given_goes_before_the_stack(features: torch.Tensor, attention: torch.Tensor):
    own = {"attention@-2": attention[0]}
    kept = tokenred.reduce(features, "aot-paper", attention=attention, cues=own, retention=0.25)
    expected = by_hand(features, {**own, "attention@0.2": attention[2]}, 0.25)
    assert torch.equal(kept.features, expected)


def test_one_layer_is_enough_where_one_is_read(features: torch.Tensor, attention: torch.Tensor):
    one = tokenred.reduce(features, "top-attention", attention=attention[8])
    stack = tokenred.reduce(features, "top-attention", attention=attention)
    assert torch.equal(one.features, stack.features)
    assert not torch.equal(
        one.features, tokenred.reduce(features, "top-attention", attention=attention[7]).features
    )


def test_pipelines_that_read_no_attention_need_none(features: torch.Tensor):
    assert torch.equal(tokenred.reduce(features, "vanilla").features, features.flatten(0, 1))


@pytest.mark.parametrize(
    ("pipeline", "options", "error", "said"),
    [
        (
            "aot-paper",
            {},
            CapabilityError,
            "pipeline 'aot-paper' needs attention@-2 (4, 36), attention@0.2 (4, 36): give "
            "attention=(layers, 4, 36) or cues={name: tensor}",
        ),
        (
            {
                "extends": "random",
                "set": {
                    "stages.frame.allocator": "given",
                    "stages.frame.selector": {"name": "dpp", "of": "text-similarity"},
                },
            },
            {},
            CapabilityError,
            "needs frame-weights (4,), text-similarity (4, 36, words): give cues={name: tensor}",
        ),
        ("aot-paper", {"attention": torch.rand(4, 36)}, InputError, "got shape (4, 36)"),
        (
            "aot-paper",
            {"attention": torch.rand(LAYERS, 4, 35)},
            InputError,
            "attention must be (layers, 4, 36), one of each layer of the tower, of which "
            "attention@-2, attention@0.2 are read, got shape (10, 4, 35)",
        ),
        ("random", {"grid": (5, 7)}, InputError, "grid 5x7 does not hold 36 tokens a frame"),
    ],
)
def test_refusals_name_shapes(
    features: torch.Tensor,
    pipeline: str,
    options: dict[str, Any],
    error: type[Exception],
    said: str,
):
    with pytest.raises(error) as caught:
        tokenred.reduce(features, pipeline, **options)
    assert said in str(caught.value)
    assert len(str(caught.value)) <= 300


def test_features_of_another_shape_are_refused(features: torch.Tensor):
    # With shape checks on, jaxtyping speaks first where the number of axes is wrong.
    said = r"\(frames, tokens, dim\), got shape \(36, 8\)|Type-check error"
    with pytest.raises((InputError, TypeError), match=said):
        tokenred.reduce(features[0], "random")
    with pytest.raises(InputError, match=r"35 tokens a frame are no square: give grid="):
        tokenred.reduce(features[:, 1:], "random")
    assert tokenred.reduce(features[:, 1:], "random", grid=(5, 7)).features.shape[-1] == 8


def test_stages_inside_the_llm_are_refused(features: torch.Tensor):
    names = tokenred.registry().presets()
    inside = next(name for name in names if tokenred.load_pipeline(name).inside_llm)
    with pytest.raises(CapabilityError, match=rf"'{inside}' works inside the LLM.*attach"):
        tokenred.reduce(features, inside)

"""Running a pipeline: what it checks beforehand and what it reports."""

from dataclasses import replace

import pytest
import torch

from tokenred import CapabilityError, InputError, VisualTokens, load_pipeline


def tokens(frames: int = 3, native_pool: str = "none", **cues: torch.Tensor) -> VisualTokens:
    features = torch.randn(frames, 36, 4, generator=torch.Generator().manual_seed(0))
    return VisualTokens.of(features, (6, 6), native_pool=native_pool, cues=cues)


def test_missing_cues_are_named_with_the_pipeline() -> None:
    with pytest.raises(
        CapabilityError,
        match=r"pipeline 'aot-paper' needs cues that are missing: attention@-2, attention@0\.2",
    ):
        load_pipeline("aot-paper").run(tokens())


def test_a_pooling_model_needs_a_pool_stage() -> None:
    pipeline = load_pipeline("random", {"stages.pool": None})
    assert pipeline.run(tokens()).grid == (6, 6)
    with pytest.raises(CapabilityError, match="pipeline 'random' has no pool stage"):
        pipeline.run(tokens(native_pool="average"))


def test_a_misspelt_pooling_is_refused() -> None:
    with pytest.raises(InputError, match="unknown native_pool 'biliner'; did you mean 'bilinear'"):
        load_pipeline("random").run(tokens(native_pool="biliner"))


def test_a_cue_of_another_grid_is_refused() -> None:
    cues = {"attention@-2": torch.rand(3, 16)}
    with pytest.raises(InputError, match=r"cue attention@-2 has shape \(3, 16\), the tokens have"):
        load_pipeline("top-attention").run(replace(tokens(), cues=cues))


def test_a_frame_without_tokens_is_refused() -> None:
    keep = torch.ones(3, 36, dtype=torch.bool)
    keep[1] = False
    with pytest.raises(InputError, match="a frame has no token left to begin with"):
        load_pipeline("random").run(replace(tokens(), keep=keep))


def test_realised_says_what_happened() -> None:
    reduced = load_pipeline("random", {"budget.retention_ratio": 0.3}).run(
        tokens(native_pool="bilinear")
    )
    realised = reduced.realised
    assert realised.n_tokens == 9
    assert realised.vanilla_tokens == 27
    assert realised.tokens_per_frame == (3, 3, 3)
    assert realised.retention_ratio == pytest.approx(1 / 3)
    assert realised.newline_tokens == 0
    assert [(stage.name, stage.kind, stage.n_tokens) for stage in realised.stages] == [
        ("pool", "pool", 27),
        ("frame", "frame", 9),
    ]
    assert realised.reducer_ms == pytest.approx(sum(stage.ms for stage in realised.stages))


def test_a_generator_of_ones_own_decides_the_draw() -> None:
    pipeline = load_pipeline("random", {"seed": 5})
    own = pipeline.run(tokens(), generator=torch.Generator().manual_seed(5))
    assert torch.equal(own.token_index, pipeline.run(tokens()).token_index)
    generator = torch.Generator().manual_seed(5)
    first, second = (pipeline.run(tokens(), generator=generator) for _ in range(2))
    assert not torch.equal(first.token_index, second.token_index)


def test_trace_is_sparse_and_only_on_request() -> None:
    pipeline = load_pipeline("random")
    assert pipeline.run(tokens()).trace is None
    trace = pipeline.run(tokens(), trace=True).trace
    assert trace is not None
    assert trace.is_sparse
    assert trace.shape == (12, 108)
    assert trace.coalesce().values().tolist() == [1.0] * 12


def test_inputs_are_left_alone() -> None:
    pipeline = load_pipeline("downsample")
    video = tokens(native_pool="bilinear")
    copy = video.features.clone()
    reduced = pipeline.run(video, trace=True)
    reduced.features.zero_()
    assert torch.equal(video.features, copy)
    vanilla = load_pipeline("vanilla").run(tokens())
    assert torch.equal(vanilla.features, tokens().features.flatten(0, 1))


def test_keep_of_the_input_is_respected() -> None:
    keep = torch.ones(3, 36, dtype=torch.bool)
    keep[:, :30] = False
    reduced = load_pipeline("random").run(replace(tokens(), keep=keep))
    assert bool((reduced.token_index >= 30).all())

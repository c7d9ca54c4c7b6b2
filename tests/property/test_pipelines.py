"""Every preset, and random compositions of everything registered, as pipelines."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from profiles import combinations, examples, share

from property.cases import (
    EXACT_PRESETS,
    INSIDE_KINDS,
    PRESETS,
    Case,
    as_it_can,
    averages,
    composition_cases,
    enough,
    frame_by_frame,
    kinds,
    nearest_ratio,
    pipeline_video,
    preset_cases,
)
from tokenred import (
    BudgetError,
    InputError,
    Pipeline,
    ReducedTokens,
    TokenredError,
    VisualTokens,
    load_pipeline,
    registry,
)
from tokenred.kernels.pooling import pooled_grid
from tokenred.pipeline import load_config
from tokenred.pipeline.budget import frame_quota

every_preset = pytest.mark.parametrize("name", PRESETS)
# Presets share their parts: what holds for a third of them, each time another one, holds for all.
some_presets = [pytest.mark.parametrize("name", share(PRESETS, 3, n)) for n in range(3)]


@pytest.mark.parametrize("name", registry().presets())
def test_preset_loads(name: str) -> None:
    load_config(name)


def vanilla_cells(tokens: VisualTokens) -> int:
    rows, columns = pooled_grid(tokens.grid, tokens.native_pool, 2)  # type: ignore[arg-type]
    return rows * columns


def check_sound(pipeline: Pipeline, tokens: VisualTokens, reduced: ReducedTokens) -> None:
    """What holds for the output of any pipeline, whatever it does."""
    config, realised = pipeline.config, reduced.realised
    frames, cells = tokens.keep.shape[0], reduced.grid[0] * reduced.grid[1]
    kept = len(reduced.features)
    assert realised.n_tokens == kept
    assert realised.vanilla_tokens == frames * vanilla_cells(tokens)
    assert sum(realised.tokens_per_frame) == kept
    assert realised.tokens_per_frame == tuple(
        int((reduced.frame_index == frame).sum()) for frame in range(frames)
    )
    assert realised.stages[-1].n_tokens == kept
    before_llm = [k for k, stage in config.stages.items() if stage.kind not in INSIDE_KINDS]
    assert [report.name for report in realised.stages] == before_llm
    if config.budget.mode == "exact":
        quota = frame_quota(vanilla_cells(tokens), config.budget.retention_ratio)
        assert kept == frames * quota
    assert bool(torch.isfinite(reduced.features).all())
    assert reduced.features.dtype == tokens.features.dtype
    assert bool((reduced.mass > 0).all())
    assert bool(((reduced.frame_index >= 0) & (reduced.frame_index < frames)).all())
    assert bool(((reduced.token_index >= 0) & (reduced.token_index < cells)).all())
    check_order(pipeline, reduced)
    check_trace(pipeline, tokens, reduced)


def check_order(pipeline: Pipeline, reduced: ReducedTokens) -> None:
    """Places are unique and in the order of the raster, unless a stage says otherwise."""
    place = reduced.frame_index * reduced.grid[0] * reduced.grid[1] + reduced.token_index
    stages = list(pipeline.config.stages.values())
    twice = any(stage.own_sequence for stage in pipeline.stages.values())
    orders = {getattr(stage, "order", "raster") for stage in stages} - {"raster"}
    unique = place.unique()
    assert twice or len(unique) == len(place)
    if not orders and not twice:
        assert torch.equal(place, unique)
    if not twice:  # frame by frame, in whatever order inside
        assert bool((reduced.frame_index.diff() >= 0).all())


def check_trace(pipeline: Pipeline, tokens: VisualTokens, reduced: ReducedTokens) -> None:
    """The trace is the linear map that was applied; it averages if all parts do."""
    if reduced.trace is None:
        return
    trace = reduced.trace.to_dense().double()
    encoder = tokens.features.flatten(0, 1).double()
    assert trace.shape == (len(reduced.features), len(encoder))
    torch.testing.assert_close(trace @ encoder, reduced.features.double(), atol=1e-4, rtol=1e-4)
    if averages(pipeline):
        assert bool((trace >= 0).all())
        ones = torch.ones(len(trace), dtype=torch.float64)
        torch.testing.assert_close(trace.sum(-1), ones, atol=1e-4, rtol=0)


def same(first: ReducedTokens, second: ReducedTokens, exact: bool = True) -> bool:
    """Return whether two results are equal, to the last bit or to rounding."""
    places = torch.equal(first.frame_index, second.frame_index) and torch.equal(
        first.token_index, second.token_index
    )
    if not places or first.features.shape != second.features.shape:
        return False
    if exact:
        return torch.equal(first.features, second.features) and torch.equal(first.mass, second.mass)
    return torch.allclose(first.features, second.features, atol=1e-5)


@every_preset
@given(data=st.data())
@settings(max_examples=examples(8))
def test_preset_is_sound_at_every_ratio(name: str, data: st.DataObject) -> None:
    pipeline, tokens = data.draw(preset_cases(name)).build()
    outcome = attempt(pipeline, tokens)
    event(type(outcome).__name__)
    if isinstance(outcome, BudgetError):
        check_the_way_out(pipeline, tokens, outcome)
    elif isinstance(outcome, ReducedTokens):
        check_sound(pipeline, tokens, outcome)
        assert same(outcome, pipeline.run(tokens))
    else:  # released code does not take every video
        assert pipeline.config.budget.mode == "as-released", outcome


def cells_of(grid: tuple[int, int], native_pool: str) -> int:
    rows, columns = pooled_grid(grid, native_pool, 2)  # type: ignore[arg-type]
    return rows * columns


LAYOUTS = {"14x14 bilinear": "bilinear", "13x13 average": "average"}
"""What LLaVA-OneVision and LLaVA-Video make of 27x27 tokens a frame."""


@pytest.mark.parametrize(("name", "layout"), combinations(EXACT_PRESETS, list(LAYOUTS)))
def test_preset_meets_the_budgets_of_the_tables(name: str, layout: str) -> None:
    """Exactly 25, 20, 15 and 10 %, or an error with the nearest ratio, which can then be had."""
    native_pool = LAYOUTS[layout]
    settings_ = {"frames": 8, "grid": (27, 27), "native_pool": native_pool, "seed": 1}
    cells = cells_of((27, 27), native_pool)
    for ratio in share((0.25, 0.20, 0.15, 0.10), 2, native_pool == "average"):
        pipeline = load_pipeline(name, {"budget.retention_ratio": ratio})
        tokens = pipeline_video(pipeline, **settings_)
        try:
            reduced = pipeline.run(tokens)
        except BudgetError as error:
            ratio = nearest_ratio(error)
            reduced = load_pipeline(name, {"budget.retention_ratio": ratio}).run(tokens)
        assert reduced.realised.n_tokens == 8 * frame_quota(cells, ratio)


def attempt(pipeline: Pipeline, tokens: VisualTokens) -> ReducedTokens | TokenredError:
    """Return what a run gives: tokens, or the error that says why there are none."""
    try:
        return pipeline.run(tokens, trace=True)
    except TokenredError as error:
        return error


@given(case=composition_cases("exact"))
@settings(max_examples=examples(50))
def test_composition_meets_an_exact_budget_or_names_the_nearest(case: Case) -> None:
    pipeline, tokens = case.build()
    outcome = attempt(pipeline, tokens)
    event(type(outcome).__name__)
    if isinstance(outcome, ReducedTokens):
        check_sound(pipeline, tokens, outcome)
        assert same(outcome, pipeline.run(tokens))
    elif isinstance(outcome, BudgetError):
        check_the_way_out(pipeline, tokens, outcome)
    else:
        assert "anchors asked for" in str(outcome)


def check_the_way_out(pipeline: Pipeline, tokens: VisualTokens, error: BudgetError) -> None:
    """The ratio that a budget error names can be had, unless the anchors move with it."""
    if "these stages keep" in str(error):  # a part that does not count on its own has the last word
        assert "as-released accepts" in str(error)
        return
    nearest = nearest_ratio(error)
    stages = pipeline.config.stages.values()
    if nearest > 0 and all(isinstance(getattr(s, "n_anchors", 1), int) for s in stages):
        changed = load_pipeline(pipeline.config, {"budget.retention_ratio": nearest})
        check_sound(changed, tokens, changed.run(tokens))


@given(case=composition_cases("as-released"))
@settings(max_examples=examples(30))
def test_composition_without_a_quota_is_sound(case: Case) -> None:
    pipeline, tokens = case.build()
    outcome = attempt(pipeline, tokens)
    event(type(outcome).__name__)
    if isinstance(outcome, ReducedTokens):
        check_sound(pipeline, tokens, outcome)
    else:
        assert "anchors asked for" in str(outcome)


@pytest.mark.parametrize("native_pool", ["bilinear", "average", "none"])
@pytest.mark.parametrize("grid", [(27, 27), (13, 13)])
@pytest.mark.parametrize("ratio", [0.1, 0.25])
def test_exact_budget_on_real_grids(native_pool: str, grid: tuple[int, int], ratio: float) -> None:
    pipeline = load_pipeline("aot-paper", {"budget.retention_ratio": ratio})
    tokens = pipeline_video(pipeline, frames=5, grid=grid, native_pool=native_pool)
    reduced = pipeline.run(tokens)
    assert reduced.realised.n_tokens == 5 * frame_quota(vanilla_cells(tokens), ratio)
    if grid == (27, 27) and native_pool == "bilinear":
        assert reduced.realised.n_tokens == 5 * {0.1: 20, 0.25: 49}[ratio]


@pytest.mark.parametrize(("name", "grid"), combinations(PRESETS, [(1, 1), (4, 4)]))
def test_one_frame_or_one_token_is_enough(name: str, grid: tuple[int, int]) -> None:
    native_pool = "none" if grid == (1, 1) else "bilinear"
    for frames in (1, 3) if grid == (1, 1) else (1,):
        video = {"frames": frames, "grid": grid, "native_pool": native_pool}
        if load_config(name).budget.mode == "as-released":
            pipeline = load_pipeline(name)
            if isinstance(attempt(pipeline, pipeline_video(pipeline, **video)), InputError):
                continue  # released code does not take every video
        pipeline = as_it_can(name, **video)
        tokens = pipeline_video(pipeline, **video)
        check_sound(pipeline, tokens, pipeline.run(tokens, trace=True))


@pytest.mark.parametrize(
    ("name", "dtype"), combinations(PRESETS, [torch.float16, torch.bfloat16, torch.float64])
)
def test_features_keep_their_dtype(name: str, dtype: torch.dtype) -> None:
    video = enough(name, 5)
    pipeline = as_it_can(name, **video)
    tokens = pipeline_video(pipeline, **video)
    cast = replace(tokens, features=tokens.features.to(dtype))
    reduced = pipeline.run(cast, trace=True)
    assert reduced.features.dtype == dtype
    assert bool(torch.isfinite(reduced.features).all())
    trace = reduced.trace
    assert trace is not None
    wanted = trace.to_dense().double() @ cast.features.flatten(0, 1).double()
    slack = {torch.float16: 1e-2, torch.bfloat16: 6e-2}.get(dtype, 1e-5)
    torch.testing.assert_close(reduced.features.double(), wanted, atol=slack, rtol=slack)


@some_presets[0]
def test_it_does_not_matter_how_features_lie_in_memory(name: str) -> None:
    video = enough(name, 5)
    pipeline = as_it_can(name, **video)
    tokens = pipeline_video(pipeline, **video)
    tokens = replace(tokens, features=tokens.features.double())
    turned = replace(tokens, features=tokens.features.mT.contiguous().mT)
    wanted, found = pipeline.run(tokens), pipeline.run(turned)
    assert torch.equal(found.token_index, wanted.token_index)
    torch.testing.assert_close(found.features, wanted.features)


@some_presets[1]
def test_constant_features_stay_constant(name: str) -> None:
    video = enough(name, 6)
    pipeline = as_it_can(name, **video)
    if not averages(pipeline):
        pytest.skip("says of itself that it does not average")
    tokens = pipeline_video(pipeline, **video)
    constant = torch.tensor([1.0, -2.0, 0.0, 30.0, 0.5])
    tokens = replace(tokens, features=constant.expand_as(tokens.features).clone())
    features = pipeline.run(tokens).features
    torch.testing.assert_close(features, constant.expand_as(features), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(("name", "bad"), combinations(share(PRESETS, 3), [math.nan, math.inf]))
def test_what_is_not_finite_is_refused(name: str, bad: float) -> None:
    pipeline = load_pipeline(name)
    tokens = pipeline_video(pipeline, native_pool="bilinear")
    features = tokens.features.clone()
    features[1, 2, 3] = bad
    with pytest.raises(InputError, match="features hold NaN or infinity"):
        pipeline.run(replace(tokens, features=features))
    for cue in tokens.cues:
        broken = tokens.cues[cue].clone()
        broken.view(-1)[0] = bad
        with pytest.raises(InputError, match=f"{cue} hold NaN or infinity"):
            pipeline.run(replace(tokens, cues={**tokens.cues, cue: broken}))


@some_presets[2]
def test_a_video_does_not_depend_on_the_one_before(name: str) -> None:
    video = enough(name, 5)
    pipeline = as_it_can(name, **video, seed=1)
    first = pipeline_video(pipeline, **video, seed=1)
    second = pipeline_video(pipeline, **{**video, "frames": video["frames"] + 2}, seed=2)
    before = pipeline.run(first)
    features = first.features.clone()
    pipeline.run(second)
    assert same(before, pipeline.run(first))
    assert torch.equal(features, first.features)
    again = load_pipeline(pipeline.config)
    assert same(before, again.run(first, generator=torch.Generator().manual_seed(0)))


@some_presets[0]
def test_the_seed_decides_everything_random(name: str) -> None:
    runs = []
    video = enough(name, 4)
    for seed in (0, 0, 1):
        pipeline = as_it_can(name, {"seed": seed}, **video)
        torch.manual_seed(len(runs))  # the global state has no say
        runs.append(pipeline.run(pipeline_video(pipeline, **video)))
    assert same(runs[0], runs[1])
    assert same(runs[0], runs[2]) == (name != "random")


def each_frame_alone(preset: str, changes: dict[str, Any]) -> list[bool]:
    """Return, for each frame, whether it is treated alone as it is in the video."""
    pipeline = load_pipeline(preset, {"budget.mode": "as-released", **changes})
    tokens = pipeline_video(pipeline, frames=4, grid=(9, 9), native_pool="bilinear")
    features = tokens.features.clone()
    features[:3] = 1 + 0.01 * features[:3]  # three frames are solved at once, the last is not
    tokens = replace(tokens, features=features)
    whole = pipeline.run(tokens)
    equal = []
    for frame in range(4):
        one = slice(frame, frame + 1)
        alone = pipeline.run(
            replace(
                tokens,
                features=tokens.features[one],
                keep=tokens.keep[one],
                frame_times=tokens.frame_times[one],
                cues={name: cue[one] for name, cue in tokens.cues.items()},
            )
        )
        mine = whole.frame_index == frame
        equal.append(
            torch.equal(whole.token_index[mine], alone.token_index)
            and torch.allclose(whole.features[mine], alone.features, atol=1e-6)
        )
    return equal


WITHOUT_TIME = {
    name: {
        f"stages.{label}": None
        for label, s in load_config(name).stages.items()
        if s.kind == "segment"
    }
    for name in PRESETS
}
"""What has to be left out of a preset so that it looks at each frame alone."""


def without_time(name: str) -> Pipeline | None:
    """Return what a preset does inside the frames, None if it does more than that."""
    if kinds(name) - {"segment", "frame", "pool"}:
        return None
    pipeline = load_pipeline(name, {"budget.mode": "as-released", **WITHOUT_TIME[name]})
    return pipeline if frame_by_frame(pipeline) else None


@pytest.mark.parametrize(
    "name", [n for n in PRESETS if n not in ("random", "aot-released") and without_time(n)]
)
def test_a_frame_does_not_depend_on_other_frames(name: str) -> None:
    assert all(each_frame_alone(name, WITHOUT_TIME[name]))


def test_the_released_stop_rule_lets_frames_depend_on_each_other() -> None:
    """So it is in the release; the stop rule is the only thing that does it."""
    alone = WITHOUT_TIME["aot-released"]
    assert not all(each_frame_alone("aot-released", alone))
    per_problem = {**alone, "stages.intra_frame.coupler.stop": "scaling"}
    assert all(each_frame_alone("aot-released", per_problem))


def test_ragged_frames_do_not_depend_on_each_other() -> None:
    """Frames of different size are padded inside a stage; padding must not show."""
    stage = {
        "kind": "frame",
        "n_anchors": 3,
        "selector": "uniform-grid",
        "cost": [{"name": "cosine", "shift": "minimum"}, "spatial"],
        "combine": "product",
        "coupler": {"name": "sinkhorn", "stop": "scaling", "tolerance": 0.01},
        "aggregator": {"name": "mass-normalised", "mass": "unit"},
    }
    pipeline = load_pipeline({"budget": {"mode": "as-released"}, "stages": {"frame": stage}})
    tokens = pipeline_video(pipeline, frames=4)
    keep = torch.rand(4, 36, generator=torch.Generator().manual_seed(0)) < 0.6
    keep[1] = torch.arange(36) < 3  # nothing but anchors: no sources at all
    keep[2] = torch.arange(36) < 30
    whole = pipeline.run(replace(tokens, keep=keep), trace=True)
    check_sound(pipeline, tokens, whole)
    for frame in range(4):
        one = slice(frame, frame + 1)
        alone = pipeline.run(
            replace(
                tokens,
                features=tokens.features[one],
                keep=keep[one],
                frame_times=tokens.frame_times[one],
            )
        )
        mine = whole.frame_index == frame
        assert torch.equal(whole.token_index[mine], alone.token_index)
        torch.testing.assert_close(whole.features[mine], alone.features, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["aot-paper", "aot-released", "aot-dynamic", "cosine-merge"])
def test_gradients_reach_kept_and_merged_tokens(name: str) -> None:
    pipeline = load_pipeline(name)
    tokens = pipeline_video(pipeline, frames=5, native_pool="bilinear")
    features = tokens.features.clone().requires_grad_()
    reduced = pipeline.run(replace(tokens, features=features), trace=True)
    reduced.features.square().sum().backward()
    assert features.grad is not None
    assert bool(torch.isfinite(features.grad).all())
    assert reduced.trace is not None
    assert not reduced.trace.requires_grad
    reached = (features.grad.abs().sum(-1) > 0).flatten()
    used = reduced.trace.to_dense().sum(0) > 1e-6
    assert int(used.sum()) > reduced.realised.n_tokens
    assert bool((reached | ~used).all())


def test_pipeline_gradient_is_right() -> None:
    """Anchors are chosen by attention, so the map is smooth in the features."""
    pipeline = load_pipeline(
        "aot-paper",
        {
            "budget.mode": "as-released",
            "stages.inter_frame.keep.decide": {"name": "threshold", "tau": 0},
            "stages.intra_frame.coupler.epsilon": 0.5,
            "stages.inter_frame.coupler.epsilon": 0.5,
        },
    )
    tokens = pipeline_video(pipeline, frames=2, grid=(3, 3), dim=2)
    start = tokens.features.double().requires_grad_()

    def run(features: torch.Tensor) -> torch.Tensor:
        return pipeline.run(replace(tokens, features=features)).features

    assert torch.autograd.gradcheck(run, (start,))


def test_anchors_of_the_release_of_aot_stand_around_their_segment() -> None:
    """The original ones before what stays of later frames, the merged ones behind."""
    changes = {
        "stages.pool.keep": 0.2,
        "stages.inter_frame.segmenter": {"name": "fixed-length", "segment_frames": 3},
    }
    pipeline = load_pipeline("aot-released", changes)
    tokens = pipeline_video(pipeline, frames=7, grid=(9, 9), native_pool="bilinear")
    reduced = pipeline.run(tokens, trace=True)
    unmerged = load_pipeline(
        "aot-released", {"stages.pool.keep": 0.2, "stages.inter_frame": None}
    ).run(tokens)
    original = {
        (int(f), int(t)): x
        for f, t, x in zip(unmerged.frame_index, unmerged.token_index, unmerged.features)
    }
    places = [(int(f), int(t)) for f, t in zip(reduced.frame_index, reduced.token_index)]
    start = 0
    for frames in ((0, 1, 2), (3, 4, 5), (6,)):
        anchors = [place for place in sorted(original) if place[0] == frames[0]]
        n = sum(place[0] in frames for place in places)
        mine, feats = places[start : start + n], reduced.features[start : start + n]
        mass = reduced.mass[start : start + n]
        kept = [place for place in mine if place[0] != frames[0]]
        assert kept == sorted(kept)
        assert set(kept) <= set(original)
        a = len(anchors)
        if len(frames) == 1:
            assert mine == anchors
            first, second = torch.arange(a), torch.arange(a)
        else:
            assert mine == anchors + kept + anchors
            first, second = torch.arange(a), torch.arange(n - a, n)
        for i, anchor in zip(first.tolist(), anchors):
            torch.testing.assert_close(feats[i], original[anchor])
        assert bool((mass[second] >= mass[first]).all())
        if len(frames) > 1:
            assert not torch.equal(feats[first], feats[second])
        start += n
    assert start == len(places)


def test_mass_counts_the_tokens_that_were_averaged() -> None:
    """Nothing is dropped by a down-sampling that merges everything, so mass is conserved."""
    pipeline = load_pipeline("downsample", {"budget.retention_ratio": 0.2})
    tokens = pipeline_video(pipeline, frames=3, grid=(6, 6))
    mass = pipeline.run(tokens).mass
    torch.testing.assert_close(mass.view(3, -1).sum(-1), torch.full((3,), 36.0))
    plain = load_pipeline("random").run(pipeline_video(load_pipeline("random"), frames=3))
    assert bool((plain.mass == 1).all())


def test_downsample_averages_the_nearest_tokens() -> None:
    pipeline = load_pipeline("downsample", {"budget.retention_ratio": 4 / 36})
    tokens = pipeline_video(pipeline, frames=2, grid=(6, 6))
    reduced = pipeline.run(tokens)
    blocks = tokens.features.view(2, 2, 3, 2, 3, 5).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(reduced.features.view(2, 4, 5), blocks)


def test_vanilla_is_the_models_own_pooling() -> None:
    tokens = pipeline_video(load_pipeline("vanilla"), frames=2, grid=(5, 7), native_pool="bilinear")
    image = tokens.features.view(2, 5, 7, 5).permute(0, 3, 1, 2).contiguous()
    wanted = torch.nn.functional.interpolate(image, size=(3, 4), mode="bilinear")
    reduced = load_pipeline("vanilla").run(tokens)
    assert reduced.grid == (3, 4)
    assert torch.equal(reduced.features, wanted.permute(0, 2, 3, 1).reshape(-1, 5))
    none = replace(tokens, native_pool="none")
    assert torch.equal(load_pipeline("vanilla").run(none).features, tokens.features.flatten(0, 1))

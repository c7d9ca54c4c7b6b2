"""The built-in strategies, registered through the same hooks as everybody else's.

A strategy lives in one file of the folder of its role; this module is the plugin that lists them.
"""

from importlib.resources import files
from pathlib import Path

from tokenred.hookspecs import Register, hookimpl
from tokenred.strategies.aggregators import (
    blend,
    centre_weighted,
    keep_only,
    mass_normalised,
    mean,
    row_normalised,
)
from tokenred.strategies.aggregators import sum as plain_sum
from tokenred.strategies.allocators import anchor_frames, equal
from tokenred.strategies.cache_pruners import dycoke
from tokenred.strategies.costs import aligned, euclidean, spatial, temporal
from tokenred.strategies.costs import cosine as cosine_cost
from tokenred.strategies.couplers import cosine, exact, nearest, none, sinkhorn
from tokenred.strategies.keep import (
    count,
    expected_cost,
    max_probability,
    quantile,
    share,
    threshold,
)
from tokenred.strategies.layer_mergers import drop, fold, recycle
from tokenred.strategies.layer_reducers import framefusion, ranked
from tokenred.strategies.rankers import last_query, next_layer, position_free, text_raters
from tokenred.strategies.rankers import random as random_ranker
from tokenred.strategies.references import first, previous
from tokenred.strategies.segmenters import clustering, dynamic, fixed_count, fixed_length, single
from tokenred.strategies.selectors import (
    density_peaks,
    local,
    local_global,
    random,
    top_attention,
    uniform_grid,
)


@hookimpl
def register_anchor_selectors(register: Register) -> None:
    """Register the built-in selectors."""
    register("local-global", local_global.LocalGlobalSelector, local_global.LocalGlobalConfig)
    register("top-attention", top_attention.TopAttentionSelector, top_attention.TopAttentionConfig)
    register("local", local.LocalSelector, local.LocalConfig)
    register("random", random.RandomSelector, random.RandomConfig)
    register("density-peaks", density_peaks.DensityPeaksSelector, density_peaks.DensityPeaksConfig)
    register("uniform-grid", uniform_grid.UniformGridSelector, uniform_grid.UniformGridConfig)


@hookimpl
def register_couplers(register: Register) -> None:
    """Register the built-in couplers."""
    register("sinkhorn", sinkhorn.SinkhornCoupler, sinkhorn.SinkhornConfig)
    register("exact", exact.ExactCoupler, exact.ExactConfig)
    register("cosine", cosine.CosineCoupler, cosine.CosineCouplerConfig)
    register("nearest", nearest.NearestCoupler, nearest.NearestConfig)
    register("none", none.NoCoupler, none.NoCouplerConfig)


@hookimpl
def register_aggregators(register: Register) -> None:
    """Register the built-in aggregators."""
    register(
        "mass-normalised",
        mass_normalised.MassNormalisedAggregator,
        mass_normalised.MassNormalisedConfig,
    )
    register(
        "row-normalised",
        row_normalised.RowNormalisedAggregator,
        row_normalised.RowNormalisedConfig,
    )
    register(
        "centre-weighted",
        centre_weighted.CentreWeightedAggregator,
        centre_weighted.CentreWeightedConfig,
    )
    register("sum", plain_sum.SumAggregator, plain_sum.SumConfig)
    register("mean", mean.MeanAggregator, mean.MeanConfig)
    register("blend", blend.BlendAggregator, blend.BlendConfig)
    register("keep-only", keep_only.KeepOnlyAggregator, keep_only.KeepOnlyConfig)


@hookimpl
def register_temporal_segmenters(register: Register) -> None:
    """Register the built-in segmenters."""
    register("fixed-length", fixed_length.FixedLengthSegmenter, fixed_length.FixedLengthConfig)
    register("fixed-count", fixed_count.FixedCountSegmenter, fixed_count.FixedCountConfig)
    register("dynamic", dynamic.DynamicSegmenter, dynamic.DynamicConfig)
    register("clustering", clustering.ClusteringSegmenter, clustering.ClusteringConfig)
    register("single", single.SingleSegmenter, single.SingleConfig)


@hookimpl
def register_cost_terms(register: Register) -> None:
    """Register the built-in cost terms."""
    register("cosine", cosine_cost.CosineCost, cosine_cost.CosineConfig)
    register("euclidean", euclidean.EuclideanCost, euclidean.EuclideanConfig)
    register("aligned", aligned.AlignedCost, aligned.AlignedConfig)
    register("spatial", spatial.SpatialCost, spatial.SpatialConfig)
    register("temporal", temporal.TemporalCost, temporal.TemporalConfig)


@hookimpl
def register_keep_scores(register: Register) -> None:
    """Register the built-in keep scores."""
    register(
        "max-probability",
        max_probability.MaxProbabilityScore,
        max_probability.MaxProbabilityConfig,
    )
    register("expected-cost", expected_cost.ExpectedCostScore, expected_cost.ExpectedCostConfig)


@hookimpl
def register_keep_decisions(register: Register) -> None:
    """Register the built-in keep decisions."""
    register("threshold", threshold.ThresholdDecision, threshold.ThresholdConfig)
    register("share", share.ShareDecision, share.ShareConfig)
    register("quantile", quantile.QuantileDecision, quantile.QuantileConfig)
    register("count", count.CountDecision, count.CountConfig)


@hookimpl
def register_frame_references(register: Register) -> None:
    """Register the built-in frame references."""
    register("first", first.FirstReference, first.FirstConfig)
    register("previous", previous.PreviousReference, previous.PreviousConfig)


@hookimpl
def register_budget_allocators(register: Register) -> None:
    """Register the built-in budget allocators."""
    register("equal", equal.EqualAllocator, equal.EqualConfig)
    register("anchor-frames", anchor_frames.AnchorFramesAllocator, anchor_frames.AnchorFramesConfig)


@hookimpl
def register_token_rankers(register: Register) -> None:
    """Register the built-in rankers inside the LLM."""
    register("last-query", last_query.LastQueryRanker, last_query.LastQueryConfig)
    register("next-layer", next_layer.NextLayerRanker, next_layer.NextLayerConfig)
    register("text-raters", text_raters.TextRatersRanker, text_raters.TextRatersConfig)
    register("position-free", position_free.PositionFreeRanker, position_free.PositionFreeConfig)
    register("random", random_ranker.RandomRanker, random_ranker.RandomRankerConfig)


@hookimpl
def register_layer_mergers(register: Register) -> None:
    """Register the built-in mergers inside the LLM."""
    register("drop", drop.DropMerger, drop.DropConfig)
    register("fold", fold.FoldMerger, fold.FoldConfig)
    register("recycle", recycle.RecycleMerger, recycle.RecycleConfig)


@hookimpl
def register_layer_reducers(register: Register) -> None:
    """Register the built-in reducers inside the LLM."""
    register("ranked", ranked.RankedReducer, ranked.RankedConfig)
    register("framefusion", framefusion.FrameFusionReducer, framefusion.FrameFusionConfig)


@hookimpl
def register_cache_pruners(register: Register) -> None:
    """Register the built-in pruners of the cache."""
    register("dycoke", dycoke.DycokeCachePruner, dycoke.DycokeCacheConfig)


@hookimpl
def register_presets(register: Register) -> None:
    """Register the pipeline files that ship with the package."""
    for path in sorted(Path(str(files("tokenred"))).joinpath("presets").glob("*.yaml")):
        register(path.stem, path)

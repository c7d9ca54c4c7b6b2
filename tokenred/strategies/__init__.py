"""The built-in strategies, registered through the same hooks as everybody else's.

A strategy lives in one file of the folder of its role; this module is the plugin that lists them.
"""

from tokenred.files import shipped_files
from tokenred.hookspecs import Register, hookimpl


@hookimpl
def register_selectors(register: Register) -> None:
    """Register the built-in selectors."""
    register("local-global", ".selectors.local_global:LocalGlobalSelector", "LocalGlobalConfig")
    register("top-attention", ".selectors.top_attention:TopAttentionSelector", "TopAttentionConfig")
    register("local", ".selectors.local:LocalSelector", "LocalConfig")
    register("random", ".selectors.random:RandomSelector", "RandomConfig")
    register("density-peaks", ".selectors.density_peaks:DensityPeaksSelector", "DensityPeaksConfig")
    register("uniform-grid", ".selectors.uniform_grid:UniformGridSelector", "UniformGridConfig")


@hookimpl
def register_couplers(register: Register) -> None:
    """Register the built-in couplers."""
    register("sinkhorn", ".couplers.sinkhorn:SinkhornCoupler", "SinkhornConfig")
    register("exact", ".couplers.exact:ExactCoupler", "ExactConfig")
    register("cosine", ".couplers.cosine:CosineCoupler", "CosineCouplerConfig")
    register("nearest", ".couplers.nearest:NearestCoupler", "NearestConfig")
    register("none", ".couplers.none:NoCoupler", "NoCouplerConfig")


@hookimpl
def register_aggregators(register: Register) -> None:
    """Register the built-in aggregators."""
    register(
        "mass-normalised",
        ".aggregators.mass_normalised:MassNormalisedAggregator",
        "MassNormalisedConfig",
    )
    register(
        "row-normalised",
        ".aggregators.row_normalised:RowNormalisedAggregator",
        "RowNormalisedConfig",
    )
    register(
        "centre-weighted",
        ".aggregators.centre_weighted:CentreWeightedAggregator",
        "CentreWeightedConfig",
    )
    register("sum", ".aggregators.sum:SumAggregator", "SumConfig")
    register("mean", ".aggregators.mean:MeanAggregator", "MeanConfig")
    register("blend", ".aggregators.blend:BlendAggregator", "BlendConfig")
    register("keep-only", ".aggregators.keep_only:KeepOnlyAggregator", "KeepOnlyConfig")


@hookimpl
def register_segmenters(register: Register) -> None:
    """Register the built-in segmenters."""
    register("fixed-length", ".segmenters.fixed_length:FixedLengthSegmenter", "FixedLengthConfig")
    register("fixed-count", ".segmenters.fixed_count:FixedCountSegmenter", "FixedCountConfig")
    register("dynamic", ".segmenters.dynamic:DynamicSegmenter", "DynamicConfig")
    register("clustering", ".segmenters.clustering:ClusteringSegmenter", "ClusteringConfig")
    register("single", ".segmenters.single:SingleSegmenter", "SingleConfig")


@hookimpl
def register_cost_terms(register: Register) -> None:
    """Register the built-in cost terms."""
    register("cosine", ".costs.cosine:CosineCost", "CosineConfig")
    register("euclidean", ".costs.euclidean:EuclideanCost", "EuclideanConfig")
    register("aligned", ".costs.aligned:AlignedCost", "AlignedConfig")
    register("spatial", ".costs.spatial:SpatialCost", "SpatialConfig")
    register("temporal", ".costs.temporal:TemporalCost", "TemporalConfig")


@hookimpl
def register_keep_scores(register: Register) -> None:
    """Register the built-in keep scores."""
    register("max-probability", ".keep.max_probability:MaxProbabilityScore", "MaxProbabilityConfig")
    register("expected-cost", ".keep.expected_cost:ExpectedCostScore", "ExpectedCostConfig")


@hookimpl
def register_keep_decisions(register: Register) -> None:
    """Register the built-in keep decisions."""
    register("threshold", ".keep.threshold:ThresholdDecision", "ThresholdConfig")
    register("share", ".keep.share:ShareDecision", "ShareConfig")
    register("quantile", ".keep.quantile:QuantileDecision", "QuantileConfig")
    register("count", ".keep.count:CountDecision", "CountConfig")


@hookimpl
def register_frame_references(register: Register) -> None:
    """Register the built-in frame references."""
    register("first", ".references.first:FirstReference", "FirstConfig")
    register("previous", ".references.previous:PreviousReference", "PreviousConfig")


@hookimpl
def register_budget_allocators(register: Register) -> None:
    """Register the built-in budget allocators."""
    register("equal", ".allocators.equal:EqualAllocator", "EqualConfig")
    register(
        "anchor-frames", ".allocators.anchor_frames:AnchorFramesAllocator", "AnchorFramesConfig"
    )


@hookimpl
def register_token_rankers(register: Register) -> None:
    """Register the built-in rankers inside the LLM."""
    register("last-query", ".rankers.last_query:LastQueryRanker", "LastQueryConfig")
    register("next-layer", ".rankers.next_layer:NextLayerRanker", "NextLayerConfig")
    register("text-raters", ".rankers.text_raters:TextRatersRanker", "TextRatersConfig")
    register("position-free", ".rankers.position_free:PositionFreeRanker", "PositionFreeConfig")
    register("random", ".rankers.random:RandomRanker", "RandomRankerConfig")


@hookimpl
def register_layer_mergers(register: Register) -> None:
    """Register the built-in mergers inside the LLM."""
    register("drop", ".layer_mergers.drop:DropMerger", "DropConfig")
    register("fold", ".layer_mergers.fold:FoldMerger", "FoldConfig")
    register("recycle", ".layer_mergers.recycle:RecycleMerger", "RecycleConfig")


@hookimpl
def register_layer_reducers(register: Register) -> None:
    """Register the built-in reducers inside the LLM."""
    register("ranked", ".layer_reducers.ranked:RankedReducer", "RankedConfig")
    register("framefusion", ".layer_reducers.framefusion:FrameFusionReducer", "FrameFusionConfig")


@hookimpl
def register_cache_pruners(register: Register) -> None:
    """Register the built-in pruners of the cache."""
    register("dycoke", ".cache_pruners.dycoke:DycokeCachePruner", "DycokeCacheConfig")


@hookimpl
def register_presets(register: Register) -> None:
    """Register the pipeline files that ship with the package."""
    for name, path in shipped_files("presets").items():
        register(name, path)

"""The built-in strategies, registered through the same hook as everybody else's.

Strategies of a role share a module or, where they are longer, a folder; this module is the plugin
that lists them.
"""

from tokenred.files import shipped_files
from tokenred.hookspecs import Register, hookimpl

STRATEGIES = {
    "selector": {
        "local-global": ".selectors.local_global:LocalGlobalSelector",
        "top-attention": ".selectors.top_attention:TopAttentionSelector",
        "local": ".selectors.local:LocalSelector",
        "random": ".selectors.random:RandomSelector",
        "density-peaks": ".selectors.density_peaks:DensityPeaksSelector",
        "uniform-grid": ".selectors.uniform_grid:UniformGridSelector",
    },
    "coupler": {
        "sinkhorn": ".couplers:SinkhornCoupler",
        "exact": ".couplers:ExactCoupler",
        "cosine": ".couplers:CosineCoupler",
        "nearest": ".couplers:NearestCoupler",
        "none": ".couplers:NoCoupler",
    },
    "aggregator": {
        "mass-normalised": ".aggregators:MassNormalisedAggregator",
        "row-normalised": ".aggregators:RowNormalisedAggregator",
        "centre-weighted": ".aggregators:CentreWeightedAggregator",
        "sum": ".aggregators:SumAggregator",
        "mean": ".aggregators:MeanAggregator",
        "blend": ".aggregators:BlendAggregator",
        "keep-only": ".aggregators:KeepOnlyAggregator",
    },
    "segmenter": {
        "fixed-length": ".segmenters:FixedLengthSegmenter",
        "fixed-count": ".segmenters:FixedCountSegmenter",
        "dynamic": ".segmenters:DynamicSegmenter",
        "clustering": ".segmenters:ClusteringSegmenter",
        "single": ".segmenters:SingleSegmenter",
    },
    "cost term": {
        "cosine": ".costs:CosineCost",
        "euclidean": ".costs:EuclideanCost",
        "aligned": ".costs:AlignedCost",
        "spatial": ".costs:SpatialCost",
        "temporal": ".costs:TemporalCost",
    },
    "keep score": {
        "max-probability": ".keep:MaxProbabilityScore",
        "expected-cost": ".keep:ExpectedCostScore",
    },
    "keep decision": {
        "threshold": ".keep:ThresholdDecision",
        "share": ".keep:ShareDecision",
        "quantile": ".keep:QuantileDecision",
        "count": ".keep:CountDecision",
    },
    "frame reference": {
        "first": ".references:FirstReference",
        "previous": ".references:PreviousReference",
    },
    "budget allocator": {
        "equal": ".allocators:EqualAllocator",
        "anchor-frames": ".allocators:AnchorFramesAllocator",
        "given": ".allocators:GivenAllocator",
    },
    "token ranker": {
        "last-query": ".rankers:LastQueryRanker",
        "random": ".rankers:RandomRanker",
    },
    "layer merger": {
        "drop": ".layer_mergers:DropMerger",
    },
    "layer reducer": {"ranked": ".layer_reducers:RankedReducer"},
}


@hookimpl
def register_strategies(register: Register) -> None:
    """Register the built-in strategies."""
    for role, classes in STRATEGIES.items():
        for name, target in classes.items():
            register(name, target, role)


@hookimpl
def register_presets(register: Register) -> None:
    """Register the pipeline files that ship with the package."""
    for name, path in shipped_files("presets").items():
        register(name, path)

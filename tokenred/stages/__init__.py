"""The built-in stages, registered through the same hook as everybody else's."""

from tokenred.hookspecs import Register, hookimpl

STAGES = {
    "frame": "frame:FrameStage",
    "pool": "pool:PoolStage",
    "cut": "cut:CutStage",
    "static": "static:StaticStage",
    "reference": "reference:ReferenceStage",
    "group": "group:GroupStage",
    "segment": "segment:SegmentStage",
    "newlines": "newlines:NewlinesStage",
    "aot-released-segment": "aot_released:AotReleasedSegmentStage",
    "llm": "inside:LlmStage",
    "cache": "inside:CacheStage",
}


@hookimpl
def register_strategies(register: Register) -> None:
    """Register the stages of this package."""
    for kind, target in STAGES.items():
        register(kind, f".{target}", "stage")

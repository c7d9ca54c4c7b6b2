"""All algorithms that golden cases name and tokenred or its plugins implement."""

from golden import (
    aot,
    clip_pruners,
    dycoke,
    fastvid,
    frame_difference,
    holitom,
    in_llm,
    prumerge,
    prunevid,
    scissor,
    sttm,
    tiny,
    tome,
    vidcom2,
    visionzip,
)

_MODULES = (
    aot,
    clip_pruners,
    dycoke,
    fastvid,
    frame_difference,
    holitom,
    in_llm,
    prumerge,
    prunevid,
    scissor,
    sttm,
    tiny,
    tome,
    vidcom2,
    visionzip,
)
ALGORITHMS = {name: run for module in _MODULES for name, run in module.ALGORITHMS.items()}

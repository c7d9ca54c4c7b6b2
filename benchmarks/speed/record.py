"""All parts of one run, and on what it ran."""

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import (
    contenders,
    goals,
    gradients,
    limits,
    real,
    scaling,
    solvers,
    stages,
    statistics,
    whole_path,
)
from benchmarks.speed.session import ROOT, Session, Sizes
from tokenred.evaluation.bench.environment import describe_environment

PACKAGES = ("torch", "numpy", "POT", "ott-jax", "jax", "geomloss", "tokenred")
GPU_RESULTS = Path(__file__).parent / "results" / "gpu.json"


def _whole_path(session: Session) -> dict[str, Any]:
    dtypes = (torch.float32, torch.bfloat16)
    # A tower and a model cost more time to load than a quick run has.
    if not session.sizes.thorough:
        return {"capture": [], "runner": {"configurations": {}}}
    capture = [whole_path.capture(dtype=dtype) for dtype in dtypes]
    return {"capture": capture, "runner": whole_path.runner()}


PARTS: dict[str, tuple[str, Callable[[Session], Any]]] = {
    "equal_iterations": ("Sinkhorn: equal iterations", solvers.equal_iterations),
    "time_to_accuracy": ("Sinkhorn: time to accuracy", solvers.time_to_accuracy),
    "limits": ("limits of this machine", limits.limits),
    "sweeps": ("sweeps on synthetic features", solvers.sweeps_needed),
    "real": ("sweeps on real features", real.sweeps_on_clips),
    "frame_stage": ("frame stage", stages.frame_stage),
    "default_malloc": ("frame stage, default malloc", stages.default_malloc),
    "segment_stage": ("segment stage", stages.segment_stage),
    "reducer": ("whole reducer", stages.whole_reducer),
    "whole_path": ("around the reducer: cues, and many configurations of one clip", _whole_path),
    "memory": ("memory, in processes of their own", stages.frame_memory),
    "gradients": ("gradients", gradients.gradients),
    **{
        f"scaling.{axis}": (f"growth with {axis}", partial(scaling.curve, axis=axis))
        for axis in Sizes().curves
    },
}
"""Where a part stands in the record: what is said while it runs, and what runs."""


def measure(
    session: Session, parts: Iterable[str] = PARTS, old: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Run parts in turn; return the record that the page is made of.

    Parameters
    ----------
    parts : names of ``PARTS``
    old : a record that has the other parts and fits; ``runs`` says which run a part is from
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load, commit = statistics.load_average(), _commit()
    found: dict[str, Any] = {**(old or {}), **_facts(session)}
    left_out = {f"scaling.{axis}" for axis in Sizes().curves if axis not in session.sizes.curves}
    parts = [part for part in parts if part not in left_out]
    for part in parts:
        said, run = PARTS[part]
        session.say(said)
        session.measure({})  # the canary, where no round follows
        table, _, axis = part.partition(".")
        value = run(session)
        found[table] = {**found.get(table, {}), axis: value} if axis else value
    noise = statistics.verdict(session.canary_ms)
    earlier = [
        {**run, "parts": [part for part in run["parts"] if part not in parts]}
        for run in found.get("runs", [])
    ]
    now = {
        "parts": parts,
        "commit": commit,
        "trimming_disabled": session.trimming_disabled,
        "noise": {**vars(noise), "noisy": noise.noisy, "sentence": str(noise)},
        "load_average": {"start": load, "end": statistics.load_average()},
    }
    found["runs"] = [run for run in earlier if run["parts"]] + [now]
    found["gpu"] = json.loads(GPU_RESULTS.read_text()) if GPU_RESULTS.is_file() else None
    found["goals"] = goals.judge(found)
    return json.loads(json.dumps(found))  # what is printed is what is stored


def misfits(session: Session, old: Mapping[str, Any]) -> list[str]:
    """Return what is not as it was for an old record, so that parts must not be put into it."""
    facts: dict[str, Any] = json.loads(json.dumps(_facts(session)))
    return [name for name, fact in facts.items() if old[name] != fact]


def _facts(session: Session) -> dict[str, Any]:
    """Return what all parts of a record have in common."""
    sizes = {name: value for name, value in vars(session.sizes).items() if name != "curves"}
    return {
        "machine": _machine(),
        "versions": _versions(),
        "sizes": sizes,
        "native": contenders.native_is_built(),
    }


def _machine() -> dict[str, Any]:
    facts = vars(describe_environment(torch.device("cpu"), torch.float32, "none"))
    wanted = ("system", "cpu", "n_cores", "threads", "python")
    return {name: facts[name] for name in wanted}


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _commit() -> str:
    """Return the commit, with ``+`` where files differ from it."""
    head, changed = (
        subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False).stdout
        for args in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain"])
    )
    return head.strip() + ("+" if changed.strip() else "") if head else "unknown"


def summary(found: dict[str, Any]) -> str:
    """Return what is printed at the end: noise, and the goals beside their figures."""
    from benchmarks.speed.page import goals_table

    run = found["runs"][-1]
    load = run["load_average"]["start"]
    shown = "unknown" if load is None else f"{load:.1f}"
    lines = ["", run["noise"]["sentence"], f"Load average at the start: {shown}.", ""]
    return "\n".join([*lines, goals_table(found)])

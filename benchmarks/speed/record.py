"""All parts of one run, and on what it ran."""

import json
import subprocess
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
from benchmarks.speed.session import ROOT, Session
from tokenred.evaluation.bench.environment import describe_environment

PACKAGES = ("torch", "numpy", "POT", "ott-jax", "jax", "geomloss", "tokenred")
GPU_RESULTS = Path(__file__).parent / "results" / "gpu.json"


def measure(session: Session) -> dict[str, Any]:
    """Run every part in turn; return the record that the page is made of."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    load = statistics.load_average()
    found: dict[str, Any] = {"machine": _machine(), "commit": _commit(), "versions": _versions()}
    found["sizes"] = {
        name: value for name, value in vars(session.sizes).items() if name != "curves"
    }
    found["native"] = contenders.native_is_built()

    session.say("Sinkhorn: equal iterations")
    given = solvers.problems(session)
    found["equal_iterations"] = solvers.equal_iterations(session, given)
    session.say("Sinkhorn: time to accuracy")
    found["time_to_accuracy"] = solvers.time_to_accuracy(session, given)
    session.say("limits of this machine")
    found["limits"] = limits.limits(session, given)
    session.say("sweeps on synthetic features")
    found["sweeps"] = solvers.sweeps_needed(session)
    session.say("sweeps on real features")
    found["real"] = real.sweeps_on_clips(session)
    session.say("frame stage")
    found["frame_stage"] = stages.frame_stage(session)
    session.say("segment stage")
    found["segment_stage"] = stages.segment_stage(session)
    session.say("whole reducer")
    found["reducer"] = stages.whole_reducer(session)
    session.say("around the reducer: cues, and many configurations of one clip")
    found["whole_path"] = _whole_path(session.sizes.thorough)
    session.say("memory, in processes of their own")
    found["memory"] = stages.frame_memory(session)
    session.say("gradients")
    found["gradients"] = gradients.gradients(session)
    session.say("scaling curves")
    found["scaling"] = scaling.curves(session)

    noise = statistics.verdict(session.canary_ms)
    found["noise"] = {**vars(noise), "noisy": noise.noisy, "sentence": str(noise)}
    found["load_average"] = {"start": load, "end": statistics.load_average()}
    found["gpu"] = json.loads(GPU_RESULTS.read_text()) if GPU_RESULTS.is_file() else None
    found["goals"] = goals.judge(found)
    return json.loads(json.dumps(found))  # what is printed is what is stored


def _whole_path(thorough: bool) -> dict[str, Any]:
    dtypes = (torch.float32, torch.bfloat16)
    if not thorough:  # a tower and a model cost more time to load than a quick run has
        return {"capture": [], "runner": {"configurations": {}}}
    capture = [whole_path.capture(dtype=dtype) for dtype in dtypes]
    return {"capture": capture, "runner": whole_path.runner()}


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

    load = found["load_average"]["start"]
    shown = "unknown" if load is None else f"{load:.1f}"
    lines = ["", found["noise"]["sentence"], f"Load average at the start: {shown}.", ""]
    return "\n".join([*lines, goals_table(found)])

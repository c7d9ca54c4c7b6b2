"""Break a strategy of a preset: the run is refused by a sentence, or what it gives is sound.

``PYTHONPATH=tests python -m fuzz.strategies --n 3000 --seed 0`` (``make fuzz``). One strategy of a
preset raises something, or gives an answer that is damaged in type, shape, kind of numbers, values
or range, or writes into what it is given. Exits with 4 if something got through.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from fuzz.runner import Kind, main
from tokenred.errors import TokenredError
from tokenred.promises import PROMISES
from tokenred.strategy import Strategy
from tokenred.types import Segments


class Unspeakable(Exception):
    """An exception without a text."""

    def __str__(self) -> str:
        """Raise."""
        raise ValueError


RAISED: tuple[BaseException, ...] = (
    *(RuntimeError("boom\nin two lines"), ValueError("x" * 5000), SystemExit(3), Unspeakable()),
    *(
        KeyError("a"),
        ZeroDivisionError(),
        AssertionError(),
        StopIteration(),
        RecursionError("deep"),
    ),
    *(NotImplementedError(), IndexError("index 9 is out of bounds"), TypeError("NoneType")),
)
ANSWERS: tuple[Any, ...] = (None, 1, -1, 0.5, "x", [], {}, (), object(), torch.zeros(0), True)
VALUES = (torch.nan, torch.inf, -torch.inf, -1.0, 1e30, -1e30, 0.0, 10**6)
CHANGES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "one value": lambda t, v: (
        t.clone().index_put_((torch.zeros(t.ndim, 1).long().unbind()), _of(t, v))
        if t.numel() and t.ndim
        else t
    ),
    "all values": lambda t, v: torch.full_like(t, _number(t, v)),
    "shorter": lambda t, v: t[..., :-1],
    "longer": lambda t, v: torch.cat([t, t[..., -1:]], -1) if t.ndim else t,
    "fewer": lambda t, v: t[:-1] if t.ndim else t,
    "flat": lambda t, v: t.flatten(),
    "deeper": lambda t, v: t[None],
    "float": lambda t, v: t.double(),
    "half": lambda t, v: t.half() if t.is_floating_point() else t.float(),
    "whole": lambda t, v: torch.nan_to_num(t.float()).clamp(-9, 9).long(),
    "bool": lambda t, v: t.bool(),
    "complex": lambda t, v: t.to(torch.complex64),
    "negated": lambda t, v: ~t if t.dtype == torch.bool else -t,
    "shifted": lambda t, v: t if t.dtype == torch.bool else t + _number(t, v),
}


def _number(tensor: Tensor, value: float) -> float:
    whole = not tensor.is_floating_point()
    return (10**6 if value != value or abs(value) > 1e9 else int(value)) if whole else value


def _of(tensor: Tensor, value: float) -> Tensor:
    return torch.tensor(_number(tensor, value)).to(tensor.dtype)


def cases(n: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield faults, each as JSON."""
    random = Random(seed)
    for _ in range(n):
        fault = {
            "preset": random.choice(presets()),
            "part": random.random(),
            "method": random.random(),
            "how": random.choice(("raise", "answer", "tensor", "tensor", "tensor", "write")),
            "which": random.randrange(10**6),
            "change": random.choice(list(CHANGES)),
            "value": random.randrange(len(VALUES)),
            "seed": random.randrange(1000),
        }
        yield "fault.json", json.dumps(fault).encode(), {}


@cache
def presets() -> list[str]:
    """Return the presets that run on the video of ``attempt``."""
    from tokenred import load_pipeline, registry

    found = []
    for name in registry().presets():
        try:
            pipeline = load_pipeline(name)
            pipeline.run(_video(pipeline, 0))
        except TokenredError:
            continue
        found.append(name)
    return found


def _video(pipeline: Any, seed: int) -> Any:
    from tokenred.testing import video_tokens

    return video_tokens(
        8, (14, 14), needs=pipeline.needs, native_pool="bilinear", seed=seed, cues={"relevance": 0}
    )


def parts_of(stage: Any) -> Iterator[Strategy]:
    """Yield a stage and all strategies in it."""
    seen: list[Any] = [stage]
    for each in seen:
        if isinstance(each, Strategy):
            yield each
        held = list(vars(each).values()) if hasattr(each, "__dict__") else []
        if type(each).__name__ == "Transport":
            held += [term for _, _, term in each.terms]
        seen += [
            value
            for value in held
            if isinstance(value, Strategy) or type(value).__name__ == "Transport"
        ]


def attempt(path: Path, given: dict[str, Any]) -> str:
    """Run a preset with one broken strategy."""
    from tokenred import load_pipeline

    fault = json.loads(path.read_text())
    pipeline = load_pipeline(fault["preset"])
    parts = [part for stage in pipeline.stages.values() for part in parts_of(stage)]
    part = parts[int(fault["part"] * len(parts))]
    methods = [name for name in PROMISES[part.role] if hasattr(type(part), name)]
    name = methods[int(fault["method"] * len(methods))]
    part.__class__ = type("Faulty", (type(part),), {name: _broken(type(part), name, fault)})
    tokens = _video(pipeline, fault["seed"])
    before = tokens.features.clone()
    reduced = pipeline.run(tokens)
    through(pipeline)
    for values in (reduced.features, reduced.mass):
        if not bool(torch.isfinite(values).all()):
            return f"silent NaN or infinity: {fault}"
    if not torch.equal(tokens.features, before):
        return f"the input changed silently: {fault}"
    return "harmless"


def through(pipeline: Any) -> None:
    """Send a prompt through what acts inside the LLM."""
    from tokenred.testing import cache_states, layer_state, through_layers

    for _, reducer in pipeline.inside_llm.reducers:
        list(through_layers(reducer, layer_state(5, (3, 3), n_layers=8)))
    for _, pruner in pipeline.inside_llm.pruners:
        pruner.layer(8)
        for state in cache_states(2):
            pruner.prune(state)


def _broken(base: type, name: str, fault: dict[str, Any]) -> Callable[..., Any]:
    real = getattr(base, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if fault["how"] == "raise":
            raise RAISED[fault["which"] % len(RAISED)]
        if fault["how"] == "answer":
            return ANSWERS[fault["which"] % len(ANSWERS)]
        answer = real(self, *args, **kwargs)
        if fault["how"] == "write":
            for each in args:
                features = getattr(each, "features", each)
                if isinstance(features, Tensor) and features.is_floating_point():
                    features.mul_(2)
            return answer
        return _damaged(answer, fault)

    return method


def _damaged(answer: Any, fault: dict[str, Any]) -> Any:
    change, value = CHANGES[fault["change"]], VALUES[fault["value"]]
    if isinstance(answer, Tensor):
        return change(answer, value) if not answer.is_sparse else answer * value
    if isinstance(answer, Segments):
        return Segments(answer.boundaries[:-1] or (0,))
    if isinstance(answer, tuple) and answer and isinstance(answer[0], Tensor):
        return (change(answer[0], value), *answer[1:])
    if is_dataclass(answer):
        held = [f.name for f in fields(answer) if isinstance(getattr(answer, f.name), Tensor)]
        if held:
            which = held[fault["which"] % len(held)]
            return replace(answer, **{which: _damaged(getattr(answer, which), fault)})
    if isinstance(answer, list):
        return answer[:-1]
    return value if isinstance(answer, int | float) else answer


def prepare() -> None:
    """Keep torch on one thread and quiet; import what is needed."""
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    presets()


STRATEGIES_KIND = Kind("strategies", ("harmless",), cases, attempt, prepare, 3000)

if __name__ == "__main__":
    raise SystemExit(main(STRATEGIES_KIND))

"""Every setting of what works inside the LLM changes some output, on synthetic prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from property.cases import INSIDE_KINDS
from tokenred import PipelineConfig, load_pipeline, registry
from tokenred.pipeline import load_config
from tokenred.pipeline.config import STAGE_CONFIGS
from tokenred.testing import cache_states, layer_state, through_layers
from tokenred.testing.fields import INSIDE_ROLES, differ, fields_of


@dataclass(frozen=True)
class Change:
    """Two values of one setting between which what ``base`` does inside the LLM differs."""

    base: Mapping[str, Any]
    path: str
    first: Any
    second: Any
    others: Mapping[str, Any] = field(default_factory=dict)
    prompt: Mapping[str, Any] = field(default_factory=dict)

    def config(self, value: Any) -> PipelineConfig:
        return load_config(self.base, {**self.others, self.path: value})


def reducer(name: str, **settings: Any) -> dict[str, Any]:
    """Return a pipeline of one stage between the layers."""
    return {"stages": {"llm": {"kind": "llm", "reducer": {"name": name, **settings}}}}


def ranked(**settings: Any) -> dict[str, Any]:
    """Return a ranked reduction to half of the tokens before layer 1."""
    return reducer("ranked", **{"schedule": {1: 0.5}, **settings})


REDUCER = "stages.llm.reducer"
RANKER, MERGER, PRUNER = f"{REDUCER}.ranker", f"{REDUCER}.merger", "stages.cache.pruner"
RATERS = ranked(ranker="text-raters")
RECYCLE = ranked(merger="recycle", schedule={1: 0.1})
FUSION = reducer("framefusion")
CACHE = {"stages": {"cache": {"kind": "cache", "pruner": "dycoke"}}}
STILL = {"change": 0.001}

CHANGES = {
    "llm.reducer": Change(FUSION, REDUCER, "framefusion", {"name": "ranked", "schedule": {1: 0.5}}),
    "cache.pruner": Change(CACHE, PRUNER, "dycoke", {"name": "dycoke", "drop_ratio": 0.0}),
    # rankers
    "token ranker text-raters.heads": Change(RATERS, f"{RANKER}.heads", None, 1),
    "token ranker text-raters.divide_rotary": Change(
        RATERS, f"{RANKER}.divide_rotary", False, True
    ),
    "token ranker random.seed": Change(ranked(ranker="random"), f"{RANKER}.seed", 0, 1),
    # mergers
    "layer merger recycle.share": Change(RECYCLE, f"{MERGER}.share", 0.0, 0.9),
    "layer merger recycle.tokens_per_cluster": Change(
        RECYCLE, f"{MERGER}.tokens_per_cluster", 1, 10
    ),
    # reducers
    "layer reducer ranked.schedule": Change(ranked(), f"{REDUCER}.schedule", {1: 0.5}, {2: 0.5}),
    "layer reducer ranked.ranker": Change(ranked(), RANKER, "last-query", "position-free"),
    "layer reducer ranked.merger": Change(ranked(), MERGER, "drop", "fold"),
    "layer reducer ranked.rounding": Change(
        ranked(schedule={1: 0.36}), f"{REDUCER}.rounding", "floor", "ceil"
    ),
    "layer reducer ranked.quota": Change(ranked(), f"{REDUCER}.quota", "prompt", "group"),
    "layer reducer ranked.newlines": Change(
        ranked(schedule={1: 4}), f"{REDUCER}.newlines", "keep", "rank", prompt={"newlines": "row"}
    ),
    "layer reducer ranked.drop_at_least": Change(
        ranked(schedule={1: 1.0}), f"{REDUCER}.drop_at_least", 0, 2
    ),
    "layer reducer ranked.positions": Change(ranked(), f"{REDUCER}.positions", "keep", "renumber"),
    "layer reducer ranked.cut_cache": Change(ranked(), f"{REDUCER}.cut_cache", False, True),
    "layer reducer ranked.unmasked_before": Change(
        ranked(), f"{REDUCER}.unmasked_before", False, True
    ),
    "layer reducer framefusion.cost": Change(FUSION, f"{REDUCER}.cost", 0.4, 0.9),
    "layer reducer framefusion.similarity": Change(
        FUSION, f"{REDUCER}.similarity", 0.3, 0.95, {f"{REDUCER}.cost": 0.9}
    ),
    "layer reducer framefusion.merge_at_least": Change(
        FUSION,
        f"{REDUCER}.merge_at_least",
        0.0,
        1.0,
        {f"{REDUCER}.cost": 0.5, f"{REDUCER}.similarity": 0.9},
    ),
    "layer reducer framefusion.newlines": Change(
        FUSION, f"{REDUCER}.newlines", "keep", "merge", prompt={"newlines": "row"}
    ),
    "layer reducer framefusion.assumed_layers": Change(FUSION, f"{REDUCER}.assumed_layers", 4, 28),
    # pruners
    "cache pruner dycoke.layer": Change(CACHE, f"{PRUNER}.layer", 1, 0.5),
    "cache pruner dycoke.drop_ratio": Change(CACHE, f"{PRUNER}.drop_ratio", 0.2, 0.7),
    "cache pruner dycoke.similarity": Change(CACHE, f"{PRUNER}.similarity", -1.0, 1.0),
    "cache pruner dycoke.unchanged": Change(
        CACHE, f"{PRUNER}.unchanged", "reuse", "all", prompt=STILL
    ),
    "cache pruner dycoke.spare_last": Change(
        CACHE, f"{PRUNER}.spare_last", False, True, {f"{PRUNER}.drop_ratio": 1.0}
    ),
}


def every_field() -> list[str]:
    found: list[str] = []
    for kind in INSIDE_KINDS:
        found += fields_of(STAGE_CONFIGS[kind], f"{kind}.")
    for entry in registry().entries():
        if entry.role in INSIDE_ROLES:
            found += fields_of(entry.config_class, f"{entry.role} {entry.name}.")
    return found


def outcome(config: PipelineConfig, prompt: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return everything that an engine sees: the steps, and what becomes of the tokens at each."""
    inside = load_pipeline(config).inside_llm
    seen: list[Any] = []
    for _, each in inside.reducers:
        state = layer_state(5, (3, 3), n_layers=8, **prompt)
        for step in each.steps(state.n_layers):
            seen.append([step.layer, step.point == "middle", step.unmasked_before])
        for at, reduction in through_layers(each, state):
            if reduction is None:
                seen.append([-1])
                continue
            hidden = reduction.hidden
            seen += [reduction.source, at.hidden[reduction.source] if hidden is None else hidden]
            seen.append([reduction.positions == "renumber", reduction.cut_cache])
    for _, each in inside.pruners:
        seen.append([each.layer(8)])
        for step in cache_states(3, **{"change": 0.3, **prompt}):
            kept = each.prune(step)
            seen.append([-1] if kept is None else kept)
    return tuple(torch.as_tensor(part) for part in seen)


def changed(first: tuple[torch.Tensor, ...], second: tuple[torch.Tensor, ...]) -> bool:
    return len(first) != len(second) or differ(first, second)


def test_every_field_is_in_the_table() -> None:
    assert sorted(every_field()) == sorted(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_field_changes_the_output(name: str) -> None:
    change = CHANGES[name]
    first, second = change.config(change.first), change.config(change.second)
    assert changed(outcome(first, change.prompt), outcome(second, change.prompt))
    # ... and nothing else does.
    assert not changed(outcome(first, change.prompt), outcome(first, change.prompt))


@pytest.mark.parametrize("name", CHANGES)
def test_field_is_part_of_the_identity(name: str) -> None:
    change = CHANGES[name]
    first, second = change.config(change.first), change.config(change.second)
    assert first.config_id == change.config(change.first).config_id
    assert first.config_id != second.config_id

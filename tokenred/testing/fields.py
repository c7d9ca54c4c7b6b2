"""Every setting changes some output: a table of two values of each, and the checks that hold it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pydantic import BaseModel

from tokenred.config import StrategyConfig
from tokenred.errors import TokenredError
from tokenred.pipeline import Pipeline, PipelineConfig, calibrate, load_config, load_pipeline
from tokenred.plugins import registry
from tokenred.testing._run import Check, expect
from tokenred.testing.inside import cache_states, layer_state, through_layers
from tokenred.testing.videos import video_tokens

DEPTH = 8
"""Layers of the LLM that a prompt goes through."""
SELF = {"name", "kind", "about"}
"""Fields that say what a config is, not what it does."""


@dataclass(frozen=True)
class Change:
    """Two values of one setting between which what a pipeline gives differs.

    Attributes
    ----------
    base : preset, file or mapping
    path : dotted path of the setting
    first, second : the values
    others : more dotted paths that both have
    video : arguments of ``video_tokens``
    prompt : arguments of ``layer_state`` and ``cache_states``, for what acts inside the LLM
    gradient : whether the gradient differs, and not the tokens
    """

    base: str | Mapping[str, Any]
    path: str
    first: Any
    second: Any
    others: Mapping[str, Any] = field(default_factory=dict)
    video: Mapping[str, Any] = field(default_factory=dict)
    prompt: Mapping[str, Any] = field(default_factory=dict)
    gradient: bool = False

    def config(self, value: Any) -> PipelineConfig:
        """Return the pipeline with one of the values."""
        return load_config(self.base, {**self.others, self.path: value})


def field_checks(changes: Mapping[str, Change], *, owner: str) -> Iterator[Check]:
    """Yield checks that every setting of a distribution's strategies does something.

    Parameters
    ----------
    changes : a row for each setting, by ``ROLE NAME.FIELD``, such as ``coupler sinkhorn.epsilon``
    owner : the distribution; ``tokenred plugins`` names it
    """
    wanted = strategy_fields(owner)
    yield Check("every_field_has_a_row", lambda: _expect_rows(changes, wanted))
    for name, change in changes.items():
        yield from change_checks(name, change)


def change_checks(name: str, change: Change) -> Iterator[Check]:
    """Yield what holds for one setting."""
    yield Check(f"{name} changes the output", lambda: _expect_effect(change))
    yield Check(f"{name} is part of the identity", lambda: _expect_identity(change))


def strategy_fields(owner: str | None = None) -> list[str]:
    """Return the settings of all strategies, or those of one distribution.

    What a strategy inherits from another registered one is a setting of that one.
    """
    found: list[str] = []
    for entry in registry().entries():
        if owner in (None, entry.owner):
            inherited = {
                name
                for other in registry().entries(entry.role)
                if other.factory is not entry.factory and issubclass(entry.factory, other.factory)
                for name in other.config_class.model_fields
            }
            prefix = f"{entry.role} {entry.name}."
            found += fields_of(entry.config_class, prefix, without=inherited)
    return found


def fields_of(
    cls: type[BaseModel], prefix: str, without: Collection[str] = frozenset()
) -> Iterator[str]:
    """Yield the names of a config's fields, with those of plain configs inside it."""
    for name, info in cls.model_fields.items():
        if name in SELF or name in without:
            continue
        yield prefix + name
        inner: Any = info.annotation
        plain = isinstance(inner, type) and issubclass(inner, BaseModel)
        if plain and not issubclass(inner, StrategyConfig):  # slots have rows of their own
            yield from fields_of(inner, f"{prefix}{name}.")


def outcome(
    config: PipelineConfig,
    video: Mapping[str, Any],
    prompt: Mapping[str, Any] | None = None,
    *,
    gradient: bool = False,
) -> Any:
    """Return everything that comes of a run: the tokens in order and what is done inside the LLM.

    An error stands for itself. With ``gradient``, that of the squared norm of the tokens stands for
    their features.
    """
    pipeline = load_pipeline(config)
    settings = {"frames": 8, "grid": (6, 6), "native_pool": "none", **video}
    if "native_pool" not in video and any(
        getattr(stage, "kind", "") == "pool" for stage in config.stages.values()
    ):
        settings["native_pool"] = "bilinear"
    tokens = video_tokens(needs=pipeline.needs, **settings)
    if gradient:
        tokens = replace(tokens, features=tokens.features.detach().requires_grad_())
    try:
        if config.budget.mode == "calibrated":
            pipeline = load_pipeline(calibrate(config, [tokens], n_steps=3))
        reduced = pipeline.run(tokens)
        inside = list(_inside(pipeline, prompt or {}))
    except TokenredError as error:
        return type(error), str(error)
    features = reduced.features
    if gradient:
        (features,) = torch.autograd.grad(features.square().sum(), tokens.features)
    return (
        features,
        reduced.frame_index,
        reduced.token_index,
        reduced.mass,
        *inside,
    )


def _inside(pipeline: Pipeline, prompt: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Yield the steps inside the LLM, and what becomes of a prompt's tokens at each."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # some strategies draw from torch's own generator, as released
        yield from list(_steps(pipeline, prompt))
    for _, pruner in pipeline.inside_llm.pruners:
        yield torch.tensor([pruner.layer(DEPTH)])
        for cache in cache_states(3, **{"change": 0.3, **prompt}):
            kept = pruner.prune(cache)
            yield torch.tensor([-1]) if kept is None else kept


def _steps(pipeline: Pipeline, prompt: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    for _, reducer in pipeline.inside_llm.reducers:
        state = layer_state(5, (3, 3), n_layers=DEPTH, **prompt)
        for step in reducer.steps(state.n_layers):
            yield torch.tensor([step.layer, step.point == "middle", step.unmasked_before])
        for at, reduction in through_layers(reducer, state):
            if reduction is None:
                yield torch.tensor([-1])
                continue
            hidden = reduction.hidden
            yield reduction.source
            yield at.hidden[reduction.source] if hidden is None else hidden
            yield torch.tensor([reduction.positions == "renumber", reduction.cut_cache])


def differ(first: Any, second: Any) -> bool:
    """Return whether two outcomes differ by more than rounding."""
    if isinstance(first[0], type) or isinstance(second[0], type):
        return bool(first[0] is not second[0] or first[1] != second[1])
    return len(first) != len(second) or any(
        a.shape != b.shape or not torch.allclose(a.float(), b.float(), atol=1e-4, equal_nan=True)
        for a, b in zip(first, second)
    )


def _expect_rows(changes: Mapping[str, Change], wanted: list[str]) -> None:
    missing, strange = sorted(set(wanted) - set(changes)), sorted(set(changes) - set(wanted))
    expect(not missing, f"settings without a row: {', '.join(missing)}")
    expect(not strange, f"rows of settings that there are not: {', '.join(strange)}")


def _expect_effect(change: Change) -> None:
    first, second = (
        outcome(change.config(value), change.video, change.prompt, gradient=change.gradient)
        for value in (change.first, change.second)
    )
    expect(not isinstance(first[0], type) or not isinstance(second[0], type), f"{first}, {second}")
    expect(differ(first, second), f"{change.first!r} and {change.second!r} give the same")
    again = outcome(
        change.config(change.first), change.video, change.prompt, gradient=change.gradient
    )
    expect(not differ(first, again), "two runs of the same differ")


def _expect_identity(change: Change) -> None:
    first, again, second = (
        change.config(value).config_id for value in (change.first, change.first, change.second)
    )
    expect(first == again, "the same pipeline has two identities")
    expect(first != second, "the setting is not part of the identity")

"""Every number among settings has bounds on both sides, every text has a length."""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from tokenred import ConfigError, InputError, registry
from tokenred.accounting.shape import LlmShape
from tokenred.config import LONGEST_TEXT, FrozenModel, StrategyConfig, fraction
from tokenred.evaluation import ablation
from tokenred.evaluation.task import load_task
from tokenred.evaluation.tasks import local
from tokenred.pipeline import load_config
from tokenred.pipeline.config import PipelineConfig
from tokenred.registry import HARNESS_ROLES
from tokenred.slots import json_schemas, strategy_config

UPPER, LOWER = ("maximum", "exclusiveMaximum"), ("minimum", "exclusiveMinimum")
TOO_LONG = "x" * (LONGEST_TEXT + 1)


def configs() -> list[type[BaseModel]]:
    """Return the classes of all settings: registered ones, stages, files and what is in them."""
    entries = [e for role in (None, *HARNESS_ROLES) for e in registry().entries(role)]
    found = [PipelineConfig, *(e.config_class for e in entries)]
    found += [ablation.AblationConfig, local.Line]
    return list(dict.fromkeys(each for cls in found for each in with_inner(cls)))


def with_inner(cls: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield cls
    for info in cls.model_fields.values():
        for each in models(info.annotation):
            yield from with_inner(each)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for each in get_args(annotation):
        yield from models(each)


def unbounded(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the numbers in a JSON schema that lack a bound on either side."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict):
        return
    if schema.get("type") in ("integer", "number") and not {"enum", "const"} & set(schema):
        for names in (LOWER, UPPER):
            if not set(names) & set(schema):
                yield f"{path} has no {names[0]}"
    for key, value in schema.items():
        yield from unbounded(value, f"{path}.{key}")


def test_every_number_has_bounds_on_both_sides() -> None:
    references, definitions = json_schemas(configs())
    assert len(references) > 60
    assert not list(unbounded(definitions))


def test_the_walk_finds_what_is_missing() -> None:
    class Loose(StrategyConfig):
        one: int = 1
        two: dict[str, tuple[float, ...]] = {}

    _, definitions = json_schemas([Loose])
    found = list(unbounded(definitions["Loose"], "Loose"))
    assert [each.rpartition(" ")[2] for each in found] == ["minimum", "maximum"] * 2


def is_text(annotation: Any) -> bool:
    return annotation is str or str in get_args(annotation)


TEXTS = [(c, n) for c in configs() for n, i in c.model_fields.items() if is_text(i.annotation)]


@pytest.mark.parametrize(("cls", "name"), TEXTS, ids=[f"{c.__name__}.{n}" for c, n in TEXTS])
def test_every_text_has_a_longest(cls: type[BaseModel], name: str) -> None:
    assert issubclass(cls, FrozenModel)
    with pytest.raises(ValidationError) as caught:
        cls.model_validate({name: TOO_LONG})
    assert name in {str(each["loc"][0]) for each in caught.value.errors()}


HUGE = (10**26, -(10**26), 1e300, -1e300, 10**5000)


def numeric(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(numeric, get_args(annotation)))


def fields() -> list[tuple[type[BaseModel], str]]:
    return [
        (cls, name)
        for cls in configs()
        for name, info in cls.model_fields.items()
        if numeric(info.annotation) and get_origin(info.annotation) is not dict
    ]


@pytest.mark.parametrize(("cls", "name"), fields(), ids=[f"{c.__name__}.{n}" for c, n in fields()])
def test_a_number_that_no_one_means_is_refused(cls: type[BaseModel], name: str) -> None:
    """Also where the schema is written by hand, and a validator of our own holds the bounds."""
    info = cls.model_fields[name]
    adapter: TypeAdapter[Any] = TypeAdapter(info.rebuild_annotation())
    for value in HUGE:
        for given in (value, [value] * 2, {value: value} if abs(value) < 1e301 else value):
            with pytest.raises((ValidationError, ConfigError)):
                adapter.validate_python(given)


SEEN = [
    ("selector", {"name": "local", "windows": [2147483648, 3]}),
    ("selector", {"name": "local", "windows": [0, 3]}),
    ("selector", {"name": "local", "layer": 10**9}),
    ("coupler", {"name": "sinkhorn", "max_iter": 1e11}),
    ("coupler", {"name": "sinkhorn", "epsilon": 1e-300}),
    ("n_anchors", 10**9),
    ("n_anchors", "1e999999999"),
    ("n_anchors", "budget * 1e999999999"),
    ("n_anchors", f"budget - {'9' * 5000}"),
    ("n_anchors", "budget - ²"),
    ("n_anchors", {None: 0.5}),
    ("n_anchors", {"x": 0.5}),
    ("n_anchors", {0.1: 0.5, "0.1": 0.4}),
    ("n_anchors", {(1, 2): 0.5}),
    ("n_anchors", {10**400: 0.5}),
    ("selector", {"name": "local", "windows": [True, 3]}),
    ("coupler", {"name": "sinkhorn", "epsilon": True}),
    ("spare_up_to", False),
    ("cost", [{"name": "cosine", "of": "pooler"}]),
    ("mass", "pooler"),
]


@pytest.mark.parametrize(("key", "value"), SEEN, ids=[str(value)[:40] for _, value in SEEN])
def test_what_used_to_fail_later_is_refused(key: str, value: Any) -> None:
    stage = {"kind": "frame", "selector": "random", key: value}
    with pytest.raises(ConfigError) as caught:
        load_config({"stages": {"frame": stage}})
    assert str(caught.value).startswith(f"stages.frame.{key}")
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("schedule", [{2: 10**26}, {2: "1e999999999"}, {10**9: 1}, {"²": 1}])
def test_a_schedule_has_bounds_too(schedule: Any) -> None:
    stage = {"kind": "llm", "reducer": {"name": "ranked", "schedule": schedule}}
    with pytest.raises(ConfigError, match=r"^stages.llm.reducer.schedule: "):
        load_config({"stages": {"llm": stage}})


def test_a_collection_of_videos_has_a_seed_that_numpy_takes() -> None:
    with pytest.raises(ConfigError, match=r"^seed: Input should be greater than or equal to 0"):
        load_task({"name": "embedded", "seed": -2})


@pytest.mark.parametrize("kinds", [3, [None], [[1]], {"a": 1}])
def test_kinds_of_layers_are_names(kinds: Any) -> None:
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers"), 8)
    with pytest.raises(InputError, match="layer_types must be a list of names"):
        LlmShape.of({**sizes, "num_attention_heads": 2, "layer_types": kinds})


def test_true_is_no_number_but_may_be_a_choice() -> None:
    with pytest.raises(ConfigError, match=r"^seed: expected no true or false, got True"):
        load_config({"stages": {}, "seed": True})
    keep = {"kind": "segment", "segmenter": "single", "keep": {"decide": "quantile"}}
    keep["keep"]["decide"] = {"name": "threshold", "inclusive": True}  # type: ignore[index]
    config = load_config({"budget": {"mode": "as-released"}, "stages": {"segment": keep}})
    assert config.stages["segment"].keep.decide.inclusive is True


def deep(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"a": found}
    return found


@pytest.mark.parametrize("data", [deep(3000), {"stages": deep(3000)}, {"extends": deep(3000)}])
def test_what_is_too_deep_to_be_written_out_is_an_error_in_every_reader(data: Any) -> None:
    for load in (load_config, load_task, ablation.load_ablation):
        with pytest.raises(ConfigError) as caught:
            load(data)
        assert len(str(caught.value)) <= 300
    with pytest.raises(ConfigError, match="a selector is a name or a mapping"):
        strategy_config("selector", data)


def test_a_layer_stands_once_in_a_schedule() -> None:
    stage = {"kind": "llm", "reducer": {"name": "ranked", "schedule": {2: 5, "2": 7}}}
    with pytest.raises(ConfigError, match="a schedule names each layer once"):
        load_config({"stages": {"llm": stage}})


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.17", 0.17), ("126/729", 126 / 729), ("1e-05", 1e-5), (".5", 0.5), ("1", 1.0)],
)
def test_fractions_are_numbers(text: str, number: float) -> None:
    assert fraction(text) == number


@pytest.mark.parametrize("text", ["", ".", "1/0", "1e999", "x", "1" * 99, "-1", "1/1e9", "1_0"])
def test_other_texts_are_no_fractions(text: str) -> None:
    with pytest.raises(ConfigError, match="is no share; write"):
        fraction(text)

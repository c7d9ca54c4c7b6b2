"""Configs: dotted paths, suggestions, short forms, overrides, identity, files, schema."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ConfigDict

from tokenred import (
    AnchorSelector,
    ConfigError,
    PipelineConfig,
    StrategyConfig,
    load_pipeline,
    registry,
)
from tokenred.config import canonical_json, short_hash
from tokenred.files import set_path
from tokenred.pipeline import load_config, pipeline_schema
from tokenred.registry import Entry
from tokenred.slots import strategy_config

FRAME = {"kind": "frame", "selector": "random"}


def stages(**stage: Any) -> dict[str, Any]:
    return {"stages": {"first": {**FRAME, **stage}}}


FAULTS: list[tuple[Mapping[str, Any], str, str]] = [
    ({"stages": {}, "sed": 1}, "sed", "unknown key 'sed'; did you mean 'seed'?"),
    (
        {"stages": {}, "budget": {"retention": 1}},
        "budget.retention",
        "did you mean 'retention_ratio'?",
    ),
    ({"stages": {}, "budget": {"retention_ratio": 0}}, "budget.retention_ratio", "greater than 0"),
    ({"stages": {}, "budget": {"mode": "exakt"}}, "budget.mode", "'exact'"),
    ({"stages": {}, "budget": 3}, "budget", "expected a mapping of settings, got 3"),
    ({"stages": {}, "seed": "x"}, "seed", "valid integer"),
    ({"stages": {}, "seed": -1}, "seed", "greater than or equal to 0"),
    ({}, "stages", "this key is required"),
    ({"stages": []}, "stages", "expected a mapping of stages, got []"),
    (
        {"stages": {"first": {"kind": "frme"}}},
        "stages.first.kind",
        "unknown stage 'frme'; did you mean 'frame'?",
    ),
    ({"stages": {"first": {}}}, "stages.first", "a stage is a name or a mapping with a 'kind'"),
    ({"stages": {"first": [1]}}, "stages.first", "a stage is a name or a mapping with a 'kind'"),
    ({"stages": {"first": {"kind": "frame"}}}, "stages.first.selector", "this key is required"),
    (
        stages(selector="rndom"),
        "stages.first.selector.name",
        "unknown selector 'rndom'; did you mean 'random'?",
    ),
    (
        stages(selector=7),
        "stages.first.selector",
        "a selector is a name or a mapping with a 'name'",
    ),
    (stages(selector={"layer": 1}), "stages.first.selector", "a name or a mapping with a 'name'"),
    (
        stages(selector={"name": "local", "window": [3, 3]}),
        "stages.first.selector.window",
        "unknown key 'window'; did you mean 'windows'?",
    ),
    (
        stages(selector={"name": "local", "windows": [3, "x"]}),
        "stages.first.selector.windows.1",
        "valid integer",
    ),
    (
        stages(selector={"name": "top-attention", "layer": "deep"}),
        "stages.first.selector.layer",
        "(got 'deep')",
    ),
    (
        stages(cost=["cosine", {"name": "spatial", "weigt": 2}]),
        "stages.first.cost.1.weigt",
        "did you mean 'weight'?",
    ),
    (stages(cost=["cosine", "cosin"]), "stages.first.cost.1.name", "did you mean 'cosine'?"),
    (stages(cost=[]), "stages.first.cost", "one or more different terms"),
    (stages(cost=["cosine", "cosine"]), "stages.first.cost", "one or more different terms"),
    (
        stages(coupler={"name": "sinkhorn", "epsilon": 0}),
        "stages.first.coupler.epsilon",
        "greater than or equal to 0.000001",
    ),
    (
        stages(coupler={"name": "sinkhorn", "epsilon": float("nan")}),
        "stages.first.coupler.epsilon",
        "finite number",
    ),
    *(
        (
            stages(coupler={"name": "sinkhorn", "acceleration": "chebyshev", "stop": stop}),
            "stages.first.coupler",
            f"chebyshev changes the scalings that stop: {stop} tests",
        )
        for stop in ("scaling", "scaling-batch")
    ),
    (
        stages(aggregator={"name": "blend", "first": {"name": "mean", "strength": 1}}),
        "stages.first.aggregator.first.strength",
        "unknown key 'strength'",
    ),
    (stages(n_anchors=0), "stages.first.n_anchors", "at least one anchor"),
    (stages(n_anchors=1.5), "stages.first.n_anchors", "a share lies in (0, 1], got 1.5"),
    (stages(n_anchors="126/0"), "stages.first.n_anchors", "'126/0' is no share"),
    (stages(n_anchors={}), "stages.first.n_anchors", "maps retention ratios"),
    (stages(n_anchors={2: 0.5}), "stages.first.n_anchors", "maps retention ratios"),
    (stages(n_anchors={0.1: 7}), "stages.first.n_anchors", "a share lies in (0, 1], got 7"),
    (
        {"stages": {"first": {"kind": "pool", "keep": 0}}},
        "stages.first.keep",
        "expected 'count' or a threshold in (0, 1], got 0",
    ),
    (
        {
            "stages": {
                "first": {
                    "kind": "segment",
                    "segmenter": "single",
                    "keep": {"decide": {"name": "threshold", "tua": 1}},
                }
            }
        },
        "stages.first.keep.decide.tua",
        "did you mean 'tau'?",
    ),
]


@pytest.mark.parametrize(("data", "path", "message"), FAULTS, ids=[fault[1] for fault in FAULTS])
def test_a_fault_is_named_by_its_dotted_path(
    data: Mapping[str, Any], path: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(data)
    assert ".".join(caught.value.path) == path
    assert message in caught.value.message
    assert str(caught.value) == f"{path}: {caught.value.message}"
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_strategy_may_be_written_as_its_name() -> None:
    short = load_config(stages(coupler="sinkhorn"))
    long = load_config(stages(coupler={"name": "sinkhorn", "epsilon": 0.1}))
    assert short == long
    assert short.config_id == long.config_id


def test_a_configured_strategy_is_taken_as_it_is() -> None:
    config = strategy_config("coupler", {"name": "sinkhorn", "epsilon": 2})
    assert strategy_config("coupler", config) is config
    assert isinstance(config, StrategyConfig)
    assert (
        load_config(stages(coupler=config)).to_dict()["stages"]["first"]["coupler"]["epsilon"] == 2
    )


def test_configs_are_frozen() -> None:
    config = load_config(stages())
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]


DATA = {"a": {"b": [{"name": "x", "c": 1}, "short"], "d": "sinkhorn"}, "e": None}


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("a.d", {"a": {**DATA["a"], "d": 9}, "e": None}),
        ("f.g", {**DATA, "f": {"g": 9}}),
        ("a.d.epsilon", {"a": {**DATA["a"], "d": {"name": "sinkhorn", "epsilon": 9}}, "e": None}),
        ("a.b.0.c", {"a": {**DATA["a"], "b": [{"name": "x", "c": 9}, "short"]}, "e": None}),
        ("a.b.1", {"a": {**DATA["a"], "b": [DATA["a"]["b"][0], 9]}, "e": None}),
        (
            "a.b.1.c",
            {"a": {**DATA["a"], "b": [DATA["a"]["b"][0], {"name": "short", "c": 9}]}, "e": None},
        ),
        ("e", {"a": DATA["a"], "e": 9}),
    ],
)
def test_set_path_reaches_through_lists_and_short_forms(path: str, wanted: dict[str, Any]) -> None:
    before = json.dumps(DATA)
    assert set_path(DATA, path, 9) == wanted
    assert json.dumps(DATA) == before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.b.7.c", "a.b: a list of 2 has no item '7'"),
        ("a.b.x", "a.b: a list of 2 has no item 'x'"),
        ("a.b.0.c.d", "a.b.0.c: cannot set 'd' inside 1"),
        ("e.f", "e: cannot set 'f' inside None"),
        ("a.b.0.c.", "an empty part in the dotted path 'a.b.0.c.'"),
        ("a..b", "a: an empty part"),
        ("", "an empty part"),
    ],
)
def test_set_path_says_where_it_fails(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        set_path(DATA, path, 9)
    assert message in str(caught.value)


def test_overrides_reach_into_every_corner() -> None:
    config = load_config(
        "aot-released",
        {
            "budget.retention_ratio": 0.2,
            "stages.intra_frame.cost.1.weight": 0.7,
            "intra_frame.aggregator.second_coupler.name": "cosine",
            "inter_frame.keep.score": "expected-cost",
            "stages.pool": {"kind": "pool", "mode": "average"},
            "seed": 7,
        },
    )
    data = config.to_dict()
    assert data["budget"]["retention_ratio"] == 0.2
    assert data["stages"]["intra_frame"]["cost"][1] == {"name": "spatial", "weight": 0.7}
    assert data["stages"]["intra_frame"]["aggregator"]["second_coupler"]["name"] == "cosine"
    assert data["stages"]["inter_frame"]["keep"]["score"] == {"name": "expected-cost"}
    assert data["stages"]["pool"]["mode"] == "average"
    assert data["seed"] == 7
    assert list(data["stages"]) == ["intra_frame", "pool", "inter_frame"]


def test_null_removes_a_stage() -> None:
    config = load_config("aot-paper", {"inter_frame": None, "pool.keep": "count"})
    assert list(config.stages) == ["intra_frame", "pool"]


def test_a_wrong_override_names_its_path() -> None:
    with pytest.raises(ConfigError, match=r"^stages.intra_frame.coupler.epsilom: unknown key"):
        load_config("aot-paper", {"intra_frame.coupler.epsilom": 1})
    with pytest.raises(
        ConfigError, match=r"^stages.intra: a stage is a name or a mapping with a 'kind', got {"
    ):
        load_config("aot-paper", {"stages.intra.coupler.epsilon": 1})


def test_canonical_json_is_one_text() -> None:
    assert canonical_json({"b": [1, 2.0], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.0]}'
    assert short_hash({"b": 1, "a": 2}) == short_hash({"a": 2, "b": 1})


def test_config_id_is_stable() -> None:
    """A changed golden value means that old results no longer match: bump SCHEMA_VERSION."""
    data = {
        "stages": {"pool": {"kind": "pool"}, "frame": {"kind": "frame", "selector": "random"}},
        "budget": {"retention_ratio": 0.1, "mode": "exact"},
    }
    config = load_config(data)
    assert canonical_json(config.canonical()) == (
        '{"budget":{"knob":null,"knob_range":null,"mode":"exact","retention_ratio":0.1,'
        '"rounding":"ceil"},"schema":3,"seed":0,"stages":[["pool",{"keep":0.5,"kind":"pool",'
        '"mode":"model","stride":2}],["frame",{"aggregator":{"name":"keep-only"},'
        '"allocator":{"name":"equal"},"combine":"sum","cost":[{"clip":0.0,"name":"cosine",'
        '"of":"features","shift":"none","weight":1.0}],"coupler":{"name":"none"},"kind":"frame",'
        '"mass":"uniform","n_anchors":"budget","order":"raster","part":"all",'
        '"rest":"drop","rounding":"nearest","scope":"frame","selector":'
        '{"name":"random"},"sources":"rest"}]]}'
    )
    assert config.config_id == "bba68b61f1ff"
    assert load_config("random").config_id == config.config_id


def test_config_id_ignores_the_order_of_keys_but_not_of_stages() -> None:
    def flipped(node: Any, depth: int = 0) -> Any:
        if isinstance(node, dict):
            items = list(node.items())
            return {k: flipped(v, depth + 1) for k, v in (items if depth == 1 else items[::-1])}
        return [flipped(item, depth + 1) for item in node] if isinstance(node, list) else node

    config = load_config("aot-paper")
    data = config.to_dict()
    assert flipped(data) == data
    again = load_config(
        {**flipped(data), "stages": {k: flipped(v) for k, v in data["stages"].items()}}
    )
    assert again.config_id == config.config_id
    twice = {"a": {**FRAME, "n_anchors": 9}, "b": {**FRAME, "n_anchors": 5}}
    mode = {"budget": {"mode": "as-released"}}
    ids = {
        load_config({**mode, "stages": twice}).config_id,
        load_config({**mode, "stages": dict(reversed(twice.items()))}).config_id,
        load_config({**mode, "stages": {"a": twice["a"], "c": twice["b"]}}).config_id,
    }
    assert len(ids) == 3


@pytest.mark.parametrize("name", sorted(registry().presets()))
def test_round_trip_through_plain_data(name: str) -> None:
    config = load_config(name)
    data = json.loads(json.dumps(config.to_dict()))
    assert load_config(data) == config
    assert (
        load_config(yaml.safe_load(yaml.safe_dump(data, sort_keys=False))).config_id
        == config.config_id
    )


def test_extends_changes_dotted_paths(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "extends: aot-paper\nset: {budget.retention_ratio: 0.2, stages.pool.keep: 0.3}\n"
    )
    (tmp_path / "deep").mkdir()
    mine = tmp_path / "deep" / "mine.yaml"
    mine.write_text("extends: ../base.yaml\nseed: 3\nset: {stages.pool.keep: 0.7}\n")
    config = load_config(mine)
    assert config.name == "mine"
    assert config.seed == 3
    wanted = {"budget.retention_ratio": 0.2, "stages.pool.keep": 0.7, "seed": 3}
    assert config.config_id == load_config("aot-paper", wanted).config_id
    assert load_config({"extends": "aot-paper"}).config_id == load_config("aot-paper").config_id


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "does not hold a mapping"),
        ("a: [", ", line 1: not valid YAML"),
        ("extends: aot-papr", "unknown pipeline 'aot-papr'; did you mean 'aot-paper'?"),
        ("extends: aot-paper\nset: [1]", "set: expected dotted paths and values, got [1]"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml does not exist"):
        load_config("nowhere.yaml")


def test_load_pipeline_takes_a_config() -> None:
    config = load_config("aot-paper")
    assert load_pipeline(config).config is config
    assert load_pipeline(config, {"seed": 2}).config.seed == 2
    assert config.seed == 0


ORDER = [
    ({"a": {"kind": "pool", "keep": "count"}}, "stages.a.keep: keep: count needs a frame stage"),
    (
        {"a": {"kind": "segment", "segmenter": "single"}, "b": {"kind": "pool"}},
        "stages.a: the segment stage comes last",
    ),
    ({"a": {"kind": "pool"}, "b": {"kind": "pool"}}, "stages.b: at most one pool stage"),
    (
        {k: {"kind": "segment", "segmenter": "single"} for k in "ab"},
        "stages.a: the segment stage comes last",
    ),
    (
        {"a": {"kind": "segment", "segmenter": "single"}, "b": FRAME},
        "stages.a: the segment stage comes last",
    ),
]


@pytest.mark.parametrize(("stages_", "message"), ORDER, ids=[case[1] for case in ORDER])
def test_stages_that_cannot_follow_each_other(stages_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"stages": stages_})
    assert message in str(caught.value)


QUANTILE = {"kind": "segment", "segmenter": "single", "keep": {"decide": "quantile"}}
COUNT = {"kind": "segment", "segmenter": "single", "keep": {"decide": "count"}}
POOL = {"kind": "pool"}
BUDGETS = [
    ("exact", {"a": QUANTILE}, "stages.a: an exact budget needs keep.decide: count here"),
    ("exact", {"a": {**FRAME, "n_anchors": 9}}, "stages.a: an exact budget needs a last stage"),
    ("exact", {"a": FRAME, "b": POOL}, "stages.a: an exact budget needs a last stage that counts"),
    ("exact", {"a": POOL}, "budget.retention_ratio: no stage drops tokens"),
    ("as-released", {"a": COUNT}, "stages.a.keep.decide: keep decision 'count' needs budget.mode"),
    ("calibrated", {"a": QUANTILE}, "budget: mode 'calibrated' needs a knob and a knob_range"),
]


@pytest.mark.parametrize(("mode", "stages_", "message"), BUDGETS, ids=[case[2] for case in BUDGETS])
def test_a_budget_that_nobody_decides_is_refused(
    mode: str, stages_: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"budget": {"mode": mode, "retention_ratio": 0.5}, "stages": stages_})
    assert message in str(caught.value)


def test_a_knob_is_for_calibration_only() -> None:
    budget = {"retention_ratio": 0.5, "mode": "as-released", "knob": "seed"}
    with pytest.raises(ConfigError, match=r"budget.knob: a knob is for mode 'calibrated' only"):
        load_config({"budget": budget, "stages": {"a": QUANTILE}})


@pytest.mark.parametrize(
    "stages_",
    [
        {"a": POOL, "b": FRAME},
        {"a": FRAME, "b": {"kind": "pool", "keep": "count"}},
        {"a": {**FRAME, "n_anchors": 9}, "b": POOL, "c": COUNT},
        {"a": COUNT},
        {"a": {**FRAME, "n_anchors": 9}, "b": FRAME},
    ],
)
def test_a_budget_that_a_stage_counts_is_accepted(stages_: dict[str, Any]) -> None:
    assert isinstance(
        load_config({"budget": {"retention_ratio": 0.5}, "stages": stages_}), PipelineConfig
    )


@pytest.fixture(scope="module")
def schema() -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    found = pipeline_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("name", sorted(registry().presets()))
def test_schema_accepts_every_preset(schema: Any, name: str) -> None:
    text = registry().preset(name).read_text()
    schema.validate(yaml.safe_load(text))
    schema.validate(json.loads(json.dumps(load_config(name).to_dict())))


def test_schema_knows_every_strategy_and_its_settings(schema: Any) -> None:
    text = json.dumps(schema.schema)
    for entry in registry().entries():
        assert f'"{entry.name}"' in text
        for name in entry.config_class.model_fields:
            assert f'"{name}"' in text


BEYOND_SCHEMA = (
    *("different terms", "maps retention ratios", "is no share", "cosin", "finite"),
    "changes the scalings",
)
"""Faults that JSON schema cannot state: rules between items, the contents of strings and keys."""


@pytest.mark.parametrize(
    "data",
    [data for data, _, message in FAULTS if not any(rule in message for rule in BEYOND_SCHEMA)]
    + [{"extends": 3}, {"seed": 1}],
    ids=str,
)
def test_schema_refuses_what_loading_refuses(schema: Any, data: Mapping[str, Any]) -> None:
    assert list(schema.iter_errors(data))


def test_settings_that_are_tied_to_the_budget_follow_its_nearest_ratio() -> None:
    data = {
        "budget": {"retention_ratio": 0.1},
        "stages": {"frame": {"kind": "frame", "selector": {"name": "local", "layer": 1}}},
        "by_retention": {0.1: {"frame.selector.layer": 2}, 0.2: {"frame.selector.layer": 3}},
    }

    def layer(overrides: dict[str, Any]) -> Any:
        return load_config(data, overrides).stages["frame"].selector.layer

    assert layer({}) == 2
    assert layer({"budget.retention_ratio": 0.19}) == 3
    assert layer({"budget.retention_ratio": 0.15}) == 2  # the smaller of two that are equally near
    assert layer({"budget.retention_ratio": 0.9, "frame.selector.layer": 5}) == 5


@pytest.mark.parametrize("tied", [3, {}, {"x": {}}, {0.1: 3}])
def test_a_table_by_retention_has_ratios_and_paths(tied: Any) -> None:
    data = {"stages": {"frame": {"kind": "frame", "selector": "random"}}, "by_retention": tied}
    with pytest.raises(ConfigError, match="by_retention: expected retention ratios"):
        load_config(data)


def test_settings_without_a_schema_are_left_open() -> None:
    class Strange(StrategyConfig):
        model_config = ConfigDict(arbitrary_types_allowed=True)
        hook: Callable[[int], int] | None = None

    class StrangeSelector(AnchorSelector):
        config: Strange

        def select(self, tokens: Any, n_anchors: int, *, generator: Any) -> Any:
            raise NotImplementedError

    registry().add(Entry("selector", "strange", StrangeSelector, "tokenred-strange"))
    try:
        text = json.dumps(pipeline_schema())
    finally:
        registry().forget("tokenred-strange")
    assert '"strange"' in text
    assert '"local-global"' in text


def test_settings_that_were_added_do_not_change_older_ids() -> None:
    def reduced(**settings: Any) -> Any:
        reducer = {"name": "ranked", "schedule": {2: 0.5}, **settings}
        return load_config({"stages": {"prune": {"kind": "llm", "reducer": reducer}}})

    named = {"share_of": "entered", "at_least": 0, "longer_than": 0, "missing_layers": "refuse"}
    assert reduced(**named).config_id == reduced().config_id
    assert not set(named) & set(reduced().canonical()["stages"][0][1]["reducer"])
    assert set(named) <= set(reduced().to_dict()["stages"]["prune"]["reducer"])
    assert reduced(at_least=1).config_id != reduced().config_id

"""Plugins: same door for everybody, and nobody takes the others down."""

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tokenred import PluginError, StrategyConfig, hookimpl, plugins
from tokenred.plugins import SWITCH, load_registry, register_plugin
from tokenred.registry import Registry

Register = Callable[..., None]


class MyConfig(StrategyConfig):
    """One setting."""

    size: int = 1


class MyCoupler:
    marginals = "none"

    def __init__(self, config: MyConfig) -> None:
        self.config = config


class Good:
    @hookimpl
    def register_couplers(self, register: Register) -> None:
        register("mine", MyCoupler, MyConfig)

    @hookimpl
    def register_presets(self, register: Register) -> None:
        register("my-preset", Path("mine.yaml"))


class Colliding:
    @hookimpl
    def register_couplers(self, register: Register) -> None:
        register("mine-too", MyCoupler, MyConfig)
        register("sinkhorn", MyCoupler, MyConfig)


class CollidingPreset:
    @hookimpl
    def register_couplers(self, register: Register) -> None:
        register("mine-too", MyCoupler, MyConfig)

    @hookimpl
    def register_presets(self, register: Register) -> None:
        register("mine-too", "x.yaml")
        register("aot-paper", "y.yaml")


class Mistyped:
    @hookimpl
    def register_coupler(self, register: Register) -> None:
        register("mine", MyCoupler, MyConfig)


class WrongArguments:
    @hookimpl
    def register_couplers(self, registry: Register) -> None:
        registry("mine", MyCoupler, MyConfig)


class NoConfig:
    @hookimpl
    def register_couplers(self, register: Register) -> None:
        register("mine", MyCoupler, dict)


class Raising:
    @hookimpl
    def register_couplers(self, register: Register) -> None:
        register("mine", MyCoupler, MyConfig)
        raise RuntimeError("boom")


def builtins() -> Registry:
    return load_registry(third_party=False)[0]


def names(found: Registry) -> list[tuple[str, str]]:
    return [(entry.role, entry.name) for entry in found.entries()]


def test_a_plugin_brings_strategies_and_presets_under_its_own_name() -> None:
    found = builtins()
    register_plugin(found, Good(), "their-package")
    assert found.get("coupler", "mine").owner == "their-package"
    assert found.get("coupler", "mine").config_class is MyConfig
    assert found.presets()["my-preset"] == (Path("mine.yaml"), "their-package")


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Colliding(), "coupler 'sinkhorn' of them is already taken by tokenred"),
        (CollidingPreset(), "preset 'aot-paper' of them is already taken by tokenred"),
        (Mistyped(), "unknown hook 'register_coupler'"),
        (WrongArguments(), r"plugin them: .*Argument\(s\) {'registry'} are declared"),
        (NoConfig(), "the config of coupler 'mine' of them is no StrategyConfig"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_faulty_plugin_is_named_and_leaves_nothing_behind(plugin: object, message: str) -> None:
    found = builtins()
    before = names(found), found.presets()
    with pytest.raises(PluginError, match=message) as caught:
        register_plugin(found, plugin, "them")
    assert "them" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (names(found), found.presets()) == before


def test_an_exception_while_registering_leaves_nothing_behind() -> None:
    found = builtins()
    before = names(found)
    with pytest.raises(RuntimeError, match="boom"):
        register_plugin(found, Raising(), "them")
    assert names(found) == before


class FakePoint:
    """An entry point as importlib.metadata gives it, without an installed distribution."""

    def __init__(self, name: str, plugin: object, version: str = "1.2") -> None:
        self.name, self.plugin = name, plugin
        self.dist = SimpleNamespace(name=f"dist-{name}", version=version)

    def __lt__(self, other: "FakePoint") -> bool:
        return self.name < other.name

    def load(self) -> object:
        if isinstance(self.plugin, Exception):
            raise self.plugin
        return self.plugin


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    points: list[Any] = [
        FakePoint("z-good", Good()),
        FakePoint("a-broken", ImportError("No module named 'nowhere'")),
        FakePoint("b-mistyped", Mistyped()),
        FakePoint("c-raising", Raising()),
    ]
    monkeypatch.setattr(
        plugins, "entry_points", lambda group: points if group == "tokenred" else []
    )


@pytest.mark.usefixtures("installed")
def test_a_failing_plugin_is_named_and_harmless() -> None:
    found, statuses = load_registry(third_party=True)
    assert found.get("coupler", "mine").owner == "dist-z-good"
    assert found.get("coupler", "sinkhorn").owner == "tokenred"
    assert [(s.name, s.distribution, s.version) for s in statuses] == [
        (name, f"dist-{name}", "1.2") for name in ("a-broken", "b-mistyped", "c-raising", "z-good")
    ]
    errors = {status.name: status.error for status in statuses}
    assert errors["a-broken"] == "ImportError: No module named 'nowhere'"
    assert "unknown hook 'register_coupler'" in str(errors["b-mistyped"])
    assert errors["c-raising"] == "RuntimeError: boom"
    assert errors["z-good"] is None


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("value", "loaded"), [("0", False), ("1", True), (None, True)])
def test_the_switch_keeps_strangers_out(
    monkeypatch: pytest.MonkeyPatch, value: str | None, loaded: bool
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    found, statuses = load_registry()
    assert (("coupler", "mine") in names(found)) == loaded
    assert bool(statuses) == loaded
    assert ("coupler", "sinkhorn") in names(found)


def test_an_entry_point_of_this_process_can_be_loaded() -> None:
    """The built-ins would load as a stranger's entry point: they come through the same door."""
    point = EntryPoint("builtin", "tokenred.strategies", "tokenred")
    found = Registry()
    register_plugin(found, point.load(), "somebody")
    assert names(found) == names(builtins())
    assert {entry.owner for entry in found.entries()} == {"somebody"}


class Judges:
    @hookimpl
    def register_tasks(self, register: Register) -> None:
        register("their-task", MyCoupler, MyConfig)

    @hookimpl
    def register_scorers(self, register: Register) -> None:
        register("their-scorer", MyCoupler, MyConfig)


class CollidingTask:
    @hookimpl
    def register_scorers(self, register: Register) -> None:
        register("their-scorer", MyCoupler, MyConfig)

    @hookimpl
    def register_tasks(self, register: Register) -> None:
        register("embedded", MyCoupler, MyConfig)


def test_a_plugin_brings_tasks_and_scorers() -> None:
    found = builtins()
    register_plugin(found, Judges(), "their-package")
    for role in ("task", "scorer"):
        entry = found.get(role, f"their-{role}")
        assert (entry.factory, entry.config_class) == (MyCoupler, MyConfig)
        assert entry.owner == "their-package"
    assert names(found) == names(builtins())  # none of them is a strategy


def test_a_taken_task_leaves_nothing_behind() -> None:
    found = builtins()
    with pytest.raises(PluginError, match="task 'embedded' of them is already taken by tokenred"):
        register_plugin(found, CollidingTask(), "them")
    assert "their-scorer" not in found.names("scorer")


class Family:
    @hookimpl
    def register_model_adapters(self, register: Register) -> None:
        register("TheirModel", "their_package.adapter:TheirAdapter")


class CollidingFamily:
    @hookimpl
    def register_model_adapters(self, register: Register) -> None:
        register("TheirModel", "their_package.adapter:TheirAdapter")
        register("LlavaOnevisionForConditionalGeneration", "their_package.adapter:TheirAdapter")


class ShapelessFamily:
    @hookimpl
    def register_model_adapters(self, register: Register) -> None:
        register("TheirModel", "their_package.adapter")


def test_a_plugin_brings_the_adapter_of_its_models() -> None:
    found = builtins()
    register_plugin(found, Family(), "their-package")
    assert found.adapters()["TheirModel"] == ("their_package.adapter:TheirAdapter", "their-package")


@pytest.mark.parametrize(
    ("plugin", "sentence"),
    [
        (CollidingFamily(), "adapter of LlavaOnevisionFor.* is already that of tokenred"),
        (ShapelessFamily(), "given as 'module:Class', their-package gives"),
    ],
)
def test_a_faulty_adapter_leaves_nothing_behind(plugin: object, sentence: str) -> None:
    found = builtins()
    before = found.adapters()
    with pytest.raises(PluginError, match=sentence):
        register_plugin(found, plugin, "their-package")
    assert found.adapters() == before

"""The registry: one owner a name, near names, fixed order."""

import json
from pathlib import Path

import methods_names
import pytest

from tokenred import ConfigError, PluginError, registry
from tokenred.config import FrozenModel
from tokenred.plugins import load_registry
from tokenred.registry import HARNESS_ROLES, METHODS, ROLES, Entry, Registry


def entry(role: str = "coupler", name: str = "mine", owner: str = "me") -> Entry:
    return Entry(role, name, f"somewhere:{name}", owner)


def test_every_class_that_is_registered_can_be_imported() -> None:
    for role in (*ROLES, *HARNESS_ROLES):
        for found in registry().entries(role):
            assert isinstance(found.factory, type)
            assert issubclass(found.config_class, FrozenModel)


def test_builtins_of_every_role_are_there_and_owned() -> None:
    for role in ROLES:
        entries = registry().entries(role)
        assert entries
        in_core = role not in (
            "static rule",
            "token grouper",
            "cache pruner",
        )  # these come with methods only
        assert any(found.owner == "tokenred" for found in entries) == in_core
        assert registry().names(role) == sorted(found.name for found in entries)
    assert len(registry().entries()) == sum(len(registry().entries(role)) for role in ROLES)
    assert {"aot-paper", "aot-released", "vanilla", "random"} <= set(registry().presets())


def test_what_a_comparison_is_made_of_is_registered_but_is_no_strategy() -> None:
    assert {"embedded", "local"} <= set(registry().names("task"))
    assert {"contains", "exact-match", "token-f1"} <= set(registry().names("scorer"))
    for role in HARNESS_ROLES:
        assert {entry.role for entry in registry().entries(role)} == {role}
        assert role not in {entry.role for entry in registry().entries()}
    with pytest.raises(ConfigError, match="unknown task 'embeded'; did you mean 'embedded'"):
        registry().get("task", "embeded")


def test_entries_come_by_role_and_name_however_they_were_added() -> None:
    found = Registry()
    for role, name in [
        ("keep score", "b"),
        ("selector", "z"),
        ("keep score", "a"),
        ("coupler", "m"),
    ]:
        found.add(entry(role, name))
    assert [(e.role, e.name) for e in found.entries()] == [
        ("selector", "z"),
        ("coupler", "m"),
        ("keep score", "a"),
        ("keep score", "b"),
    ]


def test_a_taken_name_is_refused_with_both_owners() -> None:
    found = Registry()
    found.add(entry(owner="first"))
    with pytest.raises(PluginError, match="coupler 'mine' of second is already taken by first"):
        found.add(entry(owner="second"))
    found.add(entry("selector", owner="second"))  # another role is another name
    assert found.get("coupler", "mine").owner == "first"


@pytest.mark.parametrize("name", ["", "Mine", " mine", "my coupler"])
def test_names_are_lower_kebab_case(name: str) -> None:
    with pytest.raises(PluginError, match="is not lower kebab case"):
        Registry().add(entry(name=name))


def test_a_taken_preset_is_refused_with_both_owners() -> None:
    found = Registry()
    found.add_other("preset", "p", Path("a.yaml"), "first")
    with pytest.raises(PluginError, match="preset 'p' of second is already taken by first"):
        found.add_other("preset", "p", Path("b.yaml"), "second")
    assert found.preset("p") == Path("a.yaml")


@pytest.mark.parametrize(
    ("role", "name", "message"),
    [
        ("coupler", "sinkhron", "unknown coupler 'sinkhron'; did you mean 'sinkhorn'?"),
        (
            "selector",
            "topattention",
            "unknown selector 'topattention'; did you mean 'top-attention'?",
        ),
        ("coupler", "qqq", "unknown coupler 'qqq'; valid: cosine, exact, nearest, neighbours,"),
        ("aggregator", "sinkhorn", "unknown aggregator 'sinkhorn'"),
    ],
)
def test_an_unknown_name_gets_the_nearest(role: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry().get(role, name)
    assert message in str(caught.value)


def test_an_unknown_preset_gets_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="unknown pipeline 'aot-papers'; did you mean 'aot-paper'"
    ):
        registry().preset("aot-papers")


def test_an_unknown_name_of_a_published_method_says_what_brings_it() -> None:
    bare, _ = load_registry(third_party=False)
    hint = "; it comes with tokenred-methods: pip install 'tokenred[methods]'"
    for ask, message in [
        (lambda: bare.preset("visionzip"), "unknown pipeline 'visionzip'" + hint),
        (lambda: bare.get("selector", "outliers"), "unknown selector 'outliers'" + hint),
        (lambda: bare.get("coupler", "outliers"), "unknown coupler 'outliers'; valid: "),
    ]:
        with pytest.raises(ConfigError) as caught:
            ask()
        assert str(caught.value).startswith(message)


def test_the_names_of_published_methods_are_those_that_are_registered() -> None:
    assert json.loads(METHODS.read_text(encoding="utf-8")) == methods_names.names()


def test_the_registry_of_a_process_is_one() -> None:
    assert registry() is registry()
    copy = registry().presets()
    copy.clear()
    assert registry().presets()

"""The reader of YAML and JSON: each kind of fault is one short sentence with its place."""

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenred import ConfigError, InputError, TokenredError, load_pipeline
from tokenred.cli._common import parse_overrides
from tokenred.errors import nearest, quoted
from tokenred.evaluation.ablation import load_ablation
from tokenred.evaluation.task import load_task
from tokenred.files import read_yaml
from tokenred.pipeline import load_config
from tokenred.plugins import registry
from tokenred.texts import MAX_BYTES, parse_json, parse_yaml, read_json, read_text

BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))
TOWER = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 40))
YAML_FAULTS = [
    ("seed: 1\nseed: 2", "line 2: the key 'seed' stands twice"),
    ("1: a\n'1': b", "line 2: the key '1' stands twice"),
    ("0.1: a\n0.10: b", "line 2: the key 0.1 stands twice"),
    ("a: {b: {c: 1, c: 2}}", "line 1: a.b: the key 'c' stands twice"),
    ("a: [" * 40, "levels"),
    ("[" * 100_000, "line 1: 0.0"),
    (BOMB, "more than 50000 values"),
    (TOWER, "more than 32 levels"),
    ("a: &a [*a]", "line 1: a.0: nothing before it is called 'a'"),
    ("a: *b", "line 1: a: nothing before it is called 'b'"),
    ("a: 1\n---\nb: 2", "line 2: several YAML documents in one text"),
    ("a: !!python/object/apply:os.system [echo]", "line 1: a: a tag, 'tag:yaml.org,2002:python"),
    ("a: !!binary x", "a: a tag"),
    ("a: !mine 3", "a: a tag, '!mine'"),
    ("? [1, 2]\n: 3", "line 1: a key is a text or a number"),
    ("true: 1", "a key is a text or a number"),
    ("null: 1", "a key is a text or a number"),
    ("a: .nan", "a: '.nan' is no finite number"),
    ("a: -.INF", "a: '-.INF' is no finite number"),
    ("a: 1e999", "a: '1e999' is no finite number"),
    (f"a: {'9' * 5000}", "a: a number of 5000 characters"),
    (f"a: 0.{'9' * 5000}", "a: a number of 5002 characters"),
    ('a: "x\\0y"', "a: a text with a null character"),
    ("a: x\0y", "a text with a null character"),
    ("a: \udce9", "a text that is not UTF-8"),
    ("a: b: c", "line 1: not valid YAML"),
    ("\ta: b", "line 1: not valid YAML"),
    ("<<: 3", "line 1: '<<' merges mappings"),
    ("x" * (MAX_BYTES + 1), "too long"),
]


def short(error: BaseException) -> str:
    text = str(error)
    assert isinstance(error, TokenredError)
    assert 0 < len(text) <= 300
    assert text.isprintable()
    return text


@pytest.mark.parametrize(("text", "sentence"), YAML_FAULTS, ids=[s for _, s in YAML_FAULTS])
def test_a_fault_in_yaml_is_a_sentence_with_its_place(text: str, sentence: str) -> None:
    began = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text)
    assert sentence in short(caught.value)
    assert time.perf_counter() - began < 2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("no", "on", "y", "Off", "010", "1:30", "2024-01-01", "=")),
        *(("true", True), ("FALSE", False), ("~", None), ("null", None), ("", None)),
        *(("1_000", 1000), ("0x1F", 31), ("0o17", 15), ("0b11", 3), ("-0", 0), ("+7", 7)),
        *(("1e-3", 1e-3), ("1.5e3", 1500.0), (".5", 0.5), ("1.", 1.0), ("1e3", 1000.0)),
        *(("'1'", "1"), ('"null"', "null"), ("|\n  1\n", "1\n"), ("1.2.3", "1.2.3")),
    ],
)
def test_plain_words_are_read_as_yaml_1_2_reads_them(text: str, value: Any) -> None:
    found, _ = parse_yaml(f"a: {text}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_aliases_and_merged_mappings_work_and_lines_are_known() -> None:
    text = "base: &base {x: 1, y: 2}\nmine:\n  <<: *base\n  y: 3\n  z: [*base, 4]\n"
    found, lines = parse_yaml(text)
    assert found == yaml.safe_load(text)
    assert lines["mine", "z", "1"] == 5
    assert lines["mine", "y"] == 4
    assert parse_yaml("# nothing\n") == (None, {})
    assert parse_yaml("a: {<<: [{x: 1}, {x: 2, y: 3}]}")[0] == {"a": {"x": 1, "y": 3}}


def shipped() -> list[Path]:
    found = [*registry().presets().values(), *registry().ablations().values()]
    return [path for path, _ in found]


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_what_ships_means_what_pyyaml_reads(path: Path) -> None:
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


JSON_FAULTS = [
    ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
    ('{"a": NaN}', "'NaN' is no finite number"),
    ('{"a": -Infinity}', "'-Infinity' is no finite number"),
    ('{"a": 1e999}', "'1e999' is no finite number"),
    (f'{{"a": {"9" * 5000}}}', "a number of 5000 characters"),
    ("[" * 40 + "]" * 40, "more than 32 levels"),
    ("[" * 100_000, "more than 32 levels"),
    ('{"a": "\\ud800"}', "a: a text that is not UTF-8"),
    ('{"a\\u0000": 1}', "a text with a null character"),
    ('{"a":\n 1,}', "line 2: not valid JSON"),
    (" " * (MAX_BYTES + 1), "too long"),
]


@pytest.mark.parametrize(("text", "sentence"), JSON_FAULTS, ids=[s for _, s in JSON_FAULTS])
def test_a_fault_in_json_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_json(text)
    assert sentence in short(caught.value)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError) as refused:
        read_json(tmp_path / "x.json")
    assert "x.json" in short(refused.value)


def test_a_mapping_is_what_a_json_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('\ufeff{"a": [1, 2.5, "é"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5, "é"]}
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"holds no mapping, but \[1\]"):
        read_json(path)
    path.write_text('{"a": Infinity}')
    assert read_json(path, finite=False) == {"a": float("inf")}


FILES: list[tuple[str, bytes | None, str]] = [
    ("latin", "name: é".encode("latin-1"), "it is not UTF-8 text"),
    ("utf16", "name: x".encode("utf-16"), "it is not UTF-8 text"),
    ("utf16le", "name: x".encode("utf-16-le"), "it is not UTF-8 text"),
    ("null", b"name: x\0", "it is not UTF-8 text"),
    ("long", b"x" * (MAX_BYTES + 1), "too long"),
    ("empty", b"", "is empty"),
    ("absent", None, "does not exist"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), FILES, ids=[name for name, *_ in FILES])
def test_a_file_that_is_no_text_is_refused_wherever_it_is_read(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    for suffix, load in (("yaml", load_config), ("yaml", load_ablation), ("yaml", load_task)):
        _refused(tmp_path / f"{name}.{suffix}", content, load, sentence)
    if content is not None and len(content) < MAX_BYTES:
        _refused(tmp_path / f"{name}.jsonl", content, load_task, sentence)
    _refused(tmp_path / f"{name}.json", content, read_json, sentence)


def _refused(path: Path, content: bytes | None, load: Any, sentence: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TokenredError) as caught:
        load(path if load is read_json else str(path))
    assert path.name in short(caught.value)
    assert sentence in str(caught.value)


def test_a_folder_a_pipe_and_a_closed_file_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    (tmp_path / "closed.yaml").write_text("a: 1")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    for name, sentence in [
        ("folder", "is a directory, not a YAML file"),
        ("pipe", "is a device or a pipe, not a YAML file"),
        ("circle", "cannot be opened: too many levels of symbolic links"),
        ("x" * 300, "cannot be opened: file name too long"),
        ("\0", "cannot be opened: embedded null byte"),
    ]:
        with pytest.raises(ConfigError) as caught:
            load_config(tmp_path / f"{name}.yaml")
        assert sentence in short(caught.value)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"closed.yaml cannot be opened: permission denied"):
        read_text(tmp_path / "closed.yaml")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("\ufeffextends: random", encoding="utf-8")
    assert load_config(tmp_path / "x.yaml").config_id == load_config("random").config_id


EXTENDS = [
    ("extends: [1]", "line 1: extends: expected a preset or a YAML file, got [1]"),
    ("extends: ''", "extends: expected a preset or a YAML file"),
    ("extends: gone.yaml", "line 1: extends: "),
    ("seed: 1\nextends: bad.yaml", "bad.yaml, line 1: not valid YAML"),
    ("extends: random\nset: {1: 2}", "line 2: set: expected dotted paths and values, got {1: 2}"),
    ("extends: random\nset:\n  seed: x", "line 3: seed: Input should be a valid integer"),
    ("extends: random\nseed: x", "line 2: seed: Input should be a valid integer"),
    ("extends: random\nset: {stages.frame: {kind: [1]}}", "stages.frame: a stage is a name or a"),
    ("stages:\n  a: {kind: frame,\n    selektor: x}", "line 3: stages.a.selektor: unknown key"),
    ("by_retention: {0.1: {1: 2}}\nstages: {}", "expected retention ratios, each with paths"),
    ("by_retention: {0.1: {seed: 2}}\nbudget: 3", "line 2: budget: expected a mapping"),
    (f"extends: random\nset: {{{'a.' * 50}b: 1}}", "more than 32 parts"),
]


@pytest.mark.parametrize(("text", "sentence"), EXTENDS, ids=[text[:40] for text, _ in EXTENDS])
def test_a_fault_in_a_pipeline_file_names_file_line_and_path(
    tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert sentence in short(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_fault_of_an_override_does_not_blame_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("extends: random\nseed: 3")
    for path in ("seed", "frame.selector", "stages.frame.selector"):
        with pytest.raises(ConfigError) as caught:
            load_pipeline(tmp_path / "x.yaml", {path: [1]})
        assert not caught.value.where
    (tmp_path / "x.yaml").write_text("extends: random\nsede: 3")
    with pytest.raises(ConfigError, match=r"x.yaml, line 2: sede: unknown key"):
        load_pipeline(tmp_path / "x.yaml", {"seed": 3})


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    with pytest.raises(ConfigError, match="more than 16 files that extend each other"):
        load_config(tmp_path / "0.yaml")


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["seed=1", "seed=2"], "seed: given twice"),
        (["seed={a: 1, a: 2}"], "seed: the key 'a' stands twice (got '{a: 1, a: 2}')"),
        (["seed=" + "[" * 2000], "seed.0.0"),
        (["seed=\udce9"], "seed: a text that is not UTF-8"),
        (["x" * 9000], "write --set PATH=VALUE, got 'xxx"),
    ],
)
def test_what_is_set_on_the_command_line_has_the_same_reader(
    pairs: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(pairs)
    assert sentence in short(caught.value)


@pytest.mark.parametrize("path", ["a.²", "a.9999999999999999999999", "a.-1", "a.00", "a.0" * 40])
def test_places_in_lists_are_plain_numbers(path: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"stages": {}, "a": [[1]]}, {path: 3})
    short(caught.value)


class TestQuoting:
    def test_values_stay_short_and_others_stay_as_they_are(self) -> None:
        assert [quoted(each) for each in (1, "a", [1, 2], None)] == ["1", "'a'", "[1, 2]", "None"]
        for each in ("x" * 10**6, [["y" * 99] * 99] * 99, 10**9999, {"k" * 999: 1}, b"z" * 999):
            assert len(quoted(each)) <= 120

    def test_at_most_a_handful_of_names_is_listed(self) -> None:
        names = [f"name-{n:03}" for n in range(90)]
        assert nearest("???", names).endswith("name-007 and 82 more")
        assert nearest("name-0500", names) == "; did you mean 'name-050'?"
        began = time.perf_counter()
        assert len(nearest("name" * 10**6, names)) < 200
        assert time.perf_counter() - began < 1

    def test_whatever_is_said_is_one_short_line(self) -> None:
        for kind in (TokenredError, ConfigError, InputError):
            assert short(kind("a\nb\t\x1b[31m" + "\N{SNOWMAN}" * 9999))
        assert short(ConfigError("x", ["y" * 9999, "z\n"], where="w" * 200))

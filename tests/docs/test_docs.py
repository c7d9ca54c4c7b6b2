"""Whatever is registered has its entry, and what the pages say exists."""

import importlib.util
import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tokenred import hookspecs, load_pipeline
from tokenred.evaluation.ablation import ablation_files, load_ablation
from tokenred.pipeline.config import load_config, read_pipeline
from tokenred.plugins import registry
from tokenred.registry import HARNESS_ROLES, ROLES, hook_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


def _load_generate():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(DOCS))  # as MkDocs does for a hook
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    return module


generate = _load_generate()
ENTRIES = registry().entries()
IDS = [f"{entry.role}-{entry.name}" for entry in ENTRIES]


@pytest.fixture(scope="module")
def page():
    """Read a page with its markers filled in."""
    filled = {}

    def read(name):
        if name not in filled:
            filled[name] = generate.expand((DOCS / name).read_text())
        return filled[name]

    return read


def section(text, anchor):
    """Return the entry with this anchor, up to the next one; empty if there is none."""
    head = f"{{ #{anchor} }}"
    return re.split(r"^##", text.partition(head)[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_strategy_has_its_entry_with_every_field(page, entry):
    found = section(page("reference/strategies.md"), generate.anchor(entry.role, entry.name))
    summary = inspect.getdoc(entry.factory).split("\n\n")[0].splitlines()[0]
    assert summary.replace("``", "`") in found
    assert entry.owner in found
    for name in set(entry.config_class.model_fields) - {"name", "kind"}:
        assert f"| `{name}` |" in found


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_strategy_states_shapes_and_source(entry):
    doc = inspect.getdoc(entry.factory)
    if entry.role == "stage" and entry.owner == "tokenred":
        return  # steps of every method, and no arrays of their own
    assert entry.role == "stage" or "Shapes\n------" in doc
    assert "Source\n------" in doc
    assert "Differs:" in doc


@pytest.mark.parametrize("entry", ENTRIES, ids=IDS)
def test_strategy_settings_are_described(entry):
    assert _undescribed(entry.config_class) == []


@pytest.mark.parametrize("name", ["reference/files.md", "reference/strategies.md"])
def test_types_of_settings_are_in_words(page, name):
    assert not re.search(r"typing\.|Annotated|FieldInfo|<class", page(name))


@pytest.mark.parametrize("name", generate.CONFIGS)
def test_file_settings_are_described_and_have_their_table(page, name):
    config = generate.CONFIGS[name]
    assert _undescribed(config) == []
    assert generate.field_table(config) in page("reference/files.md")


def _undescribed(config):
    return [
        name
        for name, field in config.model_fields.items()
        if name not in ("name", "kind") and not (field.description or "").strip()
    ]


def test_every_role_has_its_section_and_its_hook():
    text = (DOCS / "reference/strategies.md").read_text()
    for role in ROLES:
        assert f"{{{{ strategies {role} }}}}" in text
        assert f"## {role.capitalize()}s\n" in text
        assert inspect.getdoc(getattr(hookspecs, hook_of(role)))
        assert generate.anchor_of_role(role) in (DOCS / "concepts/parts.md").read_text()


def test_every_hook_of_the_harness_says_what_it_takes():
    for role in HARNESS_ROLES:
        assert "register(name, " in inspect.getdoc(getattr(hookspecs, hook_of(role)))


@pytest.mark.parametrize("name", registry().presets())
def test_preset_has_its_entry_with_its_source(page, name):
    about = load_config(name).about
    found = section(page("reference/presets.md"), f"preset-{name}")
    for text in (about.summary, about.source, about.fidelity):
        assert text.strip()
        assert text in found
    assert all(assumption in found for assumption in about.assumed)


METHODS = generate.method_pages.methods()
PUBLISHED = {
    "AIM",
    "AOT",
    "CDPruner",
    "DivPrune",
    "DTD",
    "DyCoke",
    "EVS",
    "FasterVLM",
    "FastV",
    "FastVID",
    "FitPrune",
    "FrameFusion",
    "G-Prune",
    "HiPrune",
    "HiRED",
    "HoliTom",
    "HoloV",
    "IDPruner",
    "KVTP",
    "LLaVA-Scissor",
    "MMTok",
    "MustDrop",
    "OTPrune",
    "PruMerge",
    "PruMerge+",
    "PruneVid",
    "PyramidDrop",
    "SCOPE",
    "SparseVLM",
    "STTM",
    "ToMe",
    "V-CAST",
    "VidCom2",
    "VisionTrim",
    "VisionZip",
    "VisPruner",
    "VScan",
}


def test_the_methods_are_those_of_the_field():
    assert set(METHODS) >= PUBLISHED


def test_every_method_has_its_page_and_its_row():
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")} - {"index"}
    assert {generate.method_pages.slug(method) for method in METHODS} == pages
    for method in METHODS:
        text = (DOCS / f"methods/{generate.method_pages.slug(method)}.md").read_text()
        head, _, marker = text.strip().rpartition("\n\n")
        assert marker == f"{{{{ method {method} }}}}"
        assert head.startswith(f"# {method}\n\n")
        assert len(head.split()) > 40  # what it does, in words


@pytest.mark.parametrize("method", METHODS)
def test_page_of_a_method_says_everything(page, method):
    text = page(f"methods/{generate.method_pages.slug(method)}.md")
    for name in METHODS[method]:
        config = load_config(name)
        about = config.about
        found = section(text, f"preset-{name}")
        for wanted in (about.summary, about.fidelity, *about.differs, *about.assumed):
            assert wanted in found
        picture = found.partition('<div class="pipeline"')[2].partition("\n</div>\n\n")[0]
        for label in config.stages:
            assert f"**{label}**" in picture
        for cue in load_pipeline(name).needs:
            assert f"`{cue}`" in picture
        for algorithm in about.golden:
            assert f"`{algorithm}` " in text
        for path in {path for each in by_retention(name).values() for path in each}:
            assert f"`{path}`" in found
        for fact in (about.paper, about.citation, about.licence, about.source):
            if name == METHODS[method][0]:
                assert fact.strip()
                assert " ".join(fact.split()) in text


def by_retention(name):
    return read_pipeline(name).get("by_retention") or {}


@pytest.mark.parametrize("method", METHODS)
def test_picture_shows_every_part_that_acts(page, method):
    """What is selected, coupled and aggregated; a coupling that nothing reads is left out."""
    text = page(f"methods/{generate.method_pages.slug(method)}.md")
    for name in METHODS[method]:
        found = section(text, f"preset-{name}")
        for role, strategy in generate.method_pages.strategies(load_config(name)):
            unread = role in ("coupler", "cost term") or (role, strategy.name) == (
                "budget allocator",
                "equal",
            )
            link = f"strategies.md#{generate.anchor(role, strategy.name)})"
            assert link in found or unread, (name, link)


def test_matrix_has_a_row_for_every_method(page):
    text = page("methods/index.md")
    rows = {
        line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| [")
    }
    assert len(rows) == len(METHODS)
    for method, names in METHODS.items():
        row = rows[f"[{method}]({generate.method_pages.slug(method)}.md)"]
        assert load_config(names[0]).about.licence in row
        assert all(f"#preset-{name})" in row for name in names)
        assert row.count(" | ") == 11


def test_golden_record_is_complete_and_without_faults():
    """Recorded by ``python -m golden.record``; test_golden runs the cases themselves."""
    record = generate.method_pages.golden()
    named = {
        a for names in METHODS.values() for name in names for a in load_config(name).about.golden
    }
    assert named <= set(record)
    assert all(each["passed"] == each["cases"] > 0 for each in record.values())


@pytest.mark.parametrize("name", ablation_files())
def test_ablation_has_its_entry_with_every_row(page, name):
    ablation = load_ablation(name)
    found = section(page("reference/ablations.md"), f"ablation-{name}")
    assert ablation.config.title in found
    assert ablation.config.question.strip()
    assert ablation.config.question in found
    for row in ablation.expand():
        assert row.config_id in found


def test_the_recorded_matrix_is_complete_and_without_faults():
    """Recorded by ``make conformance``, on both ends of the range of transformers."""
    from tokenred.models.adapter import MINIMUM_TRANSFORMERS
    from tokenred.testing import adapter_checks
    from tokenred.testing.matrix import read
    from tokenred.testing.models import FAMILIES

    matrices = read(DOCS / "reference/conformance.json")
    versions = [matrix.transformers for matrix in matrices]
    assert versions[0].startswith(f"{MINIMUM_TRANSFORMERS}.")
    assert f"transformers=={versions[-1]}" in (ROOT / "constraints.txt").read_text().split()
    assert f"transformers=={versions[0]}" in (ROOT / "floor.txt").read_text().split()
    wanted = {
        (name, check.name) for name, family in FAMILIES.items() for check in adapter_checks(family)
    }
    for matrix in matrices:
        assert set(matrix.faults()) == wanted
        assert matrix.passed


COMMANDS = dict(generate.commands())


@pytest.mark.parametrize("verb", COMMANDS)
def test_verb_has_its_entry_and_every_option_its_help(page, verb):
    found = section(page("reference/cli.md"), verb.replace(" ", "-"))
    assert inspect.cleandoc(COMMANDS[verb].help).splitlines()[0] in found
    for parameter in COMMANDS[verb].params:
        assert parameter.help
        assert parameter.param_type_name == "argument" or f"`{parameter.opts[0]}`" in found


def _commands_in(path):
    for language, block in FENCE.findall(path.read_text()):
        if language in ("bash", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and Path(words[0]).name in ("make", "tokenred"):
                    yield words


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, *ROOT.glob("plugins/**/README.md")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_commands_and_links_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in _commands_in(path):
        if words[0] == "make":
            assert set(words[1:]) <= targets
        else:
            _check_verb([word for word in words[1:] if word != "..."])
    if path.parent == ROOT or "plugins" in path.parts:
        for link in LINK.findall(path.read_text()):
            assert (path.parent / link).exists(), link


def _check_verb(words):
    flags = [word for word in words if word.startswith("--")]
    verb = next(
        (verb for verb in COMMANDS if words[: verb.count(" ") + 1] == verb.split()),
        None,
    )
    if verb is None:
        assert set(words) <= {"--debug", "--no-plugins", "--version", "--help"}, words
        return
    known = {name for parameter in COMMANDS[verb].params for name in parameter.opts}
    assert set(flags) <= known | {"--help"}, words


def test_make_targets_named_in_prose_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES):
        assert set(re.findall(r"`make ([a-z-]+)`", path.read_text())) <= targets


def test_python_in_the_pages_is_python():
    for path in (ROOT / "README.md", *PAGES):
        for language, block in FENCE.findall(path.read_text()):
            if language == "python":
                compile(block, str(path), "exec")


def test_every_page_is_in_the_navigation():
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda *_: None)
    Loader.add_multi_constructor("tag:", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)
    listed = set(re.findall(r"[\w./-]+\.md", str(site["nav"])))
    assert listed == {str(path.relative_to(DOCS)) for path in PAGES}
    assert set(site["plugins"][0:2]) == {"search", "markdown-exec"}


def test_every_marker_is_known():
    for path in PAGES:
        for line in re.findall(r"^\{\{.*$", path.read_text(), re.MULTILINE):
            hit = generate.MARKER.fullmatch(line)
            assert hit, line
            assert hit[1] in generate.GENERATORS

"""The page as text: whole, escaped, and without a word to the outside."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import chain
from pathlib import Path

import pytest

from tests.report_cases import LABELS, NASTY, make_run, write_case
from tokenred.cli import main
from tokenred.evaluation.files import write_whole
from tokenred.evaluation.manifest import STORE
from tokenred.evaluation.store import Store
from tokenred.evaluation.summary import Summary, summarise
from tokenred.report.gather import gather_explorer, gather_provenance
from tokenred.report.html import to_html
from tokenred.report.table import caption

VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not self.rawdata[: self.rawdata.find(">")].endswith("/"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += f" {data}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_case(tmp_path_factory.mktemp("case"), make_run(n_samples=4))


@pytest.fixture(scope="module")
def summary(folder: Path) -> Summary:
    with Store(folder / STORE) as store:
        return summarise(make_run(n_samples=4), store)


@pytest.fixture(scope="module")
def page(folder: Path, summary: Summary) -> str:
    run = make_run(n_samples=4)
    with Store(folder / STORE) as store:
        explorer = gather_explorer(run, summary, store, 3)
    return to_html(summary, gather_provenance(run, folder, 4), explorer)


@pytest.fixture(scope="module")
def reader(page: str) -> Reader:
    return Reader(page)


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_page_says_everything_that_was_measured(reader: Reader, summary: Summary):
    text = words(reader.text)
    for wanted in (
        summary.title, summary.question, summary.model, summary.model_revision, summary.task,
        summary.task_fingerprint, summary.code_version, f"{summary.n_samples} videos",
        f"{summary.n_questions} questions", "tokenred ablate made-up", "2026-01-02T03:04:05",
        *map(words, caption(summary)), *map(words, LABELS), "vanilla", "random", "downsample",
    ):  # fmt: skip
        assert wanted in text
    ids = {attributes.get("id") for _, attributes in reader.tags}
    assert {"table", "pareto-tokens", "pareto-flops", "pareto-latency", "forest", "kinds"} <= ids
    assert {"samples", "words"} <= ids


def test_nothing_of_a_user_is_read_as_markup(page: str, reader: Reader):
    assert NASTY not in page
    assert [tag for tag, _ in reader.tags].count("script") == 1
    assert "alert('x')</script>" not in page


def test_the_page_asks_nobody_for_anything(page: str, reader: Reader):
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), (tag, value)
    assert "@import" not in page
    assert not re.findall(r"url\((?!#)", page)
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    policy = next(a["content"] for _, a in reader.tags if "http-equiv" in a)
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_every_picture_is_embedded_and_named(reader: Reader):
    pictures = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(pictures) == 3 * 8
    for picture in pictures:
        assert (picture["src"] or "").startswith("data:image/")
        assert (picture["alt"] or "").startswith("frame ")


def test_equal_input_gives_an_equal_page(folder: Path, summary: Summary):
    provenance = gather_provenance(make_run(n_samples=4), folder, 4)
    page = to_html(summary, provenance)
    assert to_html(summary, provenance) == page
    assert 'id="samples"' not in page


def test_what_was_not_measured_is_said(folder: Path, summary: Summary):
    bare = replace(
        summary,
        question="",
        rows=tuple(
            replace(
                row, measured=dict.fromkeys(row.measured), difference=None, kinds={}, agreement=None
            )
            for row in summary.rows
        ),
    )
    found = Reader(to_html(bare, gather_provenance(make_run(n_samples=4), folder, 4)))
    assert "Not measured in this run." in found.text
    assert "No row is compared with another." in found.text
    ids = {attributes.get("id") for _, attributes in found.tags}
    assert "kinds" not in ids


def test_the_verb_writes_every_format(folder: Path, capsys, tmp_path: Path):
    main_ok(["report", str(folder), "--format", "html,md,tex,csv,json", "--samples", "1",
             "--out", str(tmp_path / "out")])  # fmt: skip
    shown = capsys.readouterr()
    assert "statistics" in shown.err
    written = shown.out.split()
    assert written == [str(tmp_path / f"out/report.{name}") for name in
                       ("html", "md", "tex", "csv", "json")]  # fmt: skip
    texts = {Path(path).suffix: Path(path).read_text(encoding="utf-8") for path in written}
    assert texts[".html"].startswith("<!doctype html>")
    assert texts[".html"].count('<article class="sample">') == 1
    assert texts[".tex"].startswith("% \\usepackage{booktabs,")
    assert texts[".md"].startswith("# What each part is worth")
    assert texts[".csv"].startswith("label,")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        Path(path).name for path in written
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--format", "doc"], 2, "expected some of html, md, tex, csv, json, pdf, svg, got 'doc'"),
        (["--format", ","], 2, "got ','"),
    ],
)
def test_a_format_that_does_not_exist_is_named(folder: Path, capsys, arguments, code, message):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(folder), *arguments])
    assert stop.value.code == code
    assert message in capsys.readouterr().err


def test_a_folder_without_a_run_or_results_is_named(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 1
    assert "holds no run; `tokenred ablate` makes one" in capsys.readouterr().err
    write_case(tmp_path, make_run(n_samples=1))
    for path in tmp_path.glob(f"{STORE}*"):
        path.unlink()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 1
    assert "holds no results" in capsys.readouterr().err
    assert not (tmp_path / STORE).exists()


def test_templates_travel_with_the_package():
    folder = files("tokenred.report") / "templates"
    assert {"page.html.j2", "style.css", "page.js"} <= {each.name for each in folder.iterdir()}


def test_files_are_replaced_as_a_whole(tmp_path: Path):
    path = tmp_path / "page"
    path.write_text("old")
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def main_ok(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert not stop.value.code


def test_plots_are_files_and_columns_are_chosen(folder: Path, tmp_path: Path):
    options = {"--out": str(tmp_path), "--format": "md,pdf,svg", "--columns": "n_tokens,score"}
    main_ok(["report", str(folder), *chain(*options.items())])
    names = ["pareto-tokens", "pareto-flops", "pareto-latency", "forest"]
    plots = {f"report-{name}.{form}" for name in names for form in ("pdf", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", *plots}
    assert "| row | tokens | accuracy % |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report-forest.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("formats", "said"),
    [("tex", "no column 'tokens'; did you mean 'n_tokens'?"), ("csv", "have columns to choose")],
)
def test_columns_that_cannot_be_chosen_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], formats: str, said: str
):
    options = {"--out": str(tmp_path), "--format": formats, "--columns": "tokens"}
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder), *chain(*options.items())])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err
    assert not any(tmp_path.iterdir())

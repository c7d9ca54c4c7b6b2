"""LaTeX: balanced, escaped, bold where it says so, budgets apart."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.report_cases import NASTY, make_run, make_summary
from tokenred.errors import ConfigError
from tokenred.evaluation.summary import Summary
from tokenred.report.columns import columns
from tokenred.report.latex import FIT, escape, to_latex


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return make_summary(tmp_path_factory.mktemp("run"))


def body(text: str) -> list[str]:
    """Return the lines between the rules."""
    lines = text.splitlines()
    return lines[lines.index(r"\toprule") + 1 : lines.index(r"\bottomrule")]


def line_of(text: str, label: str) -> str:
    return next(line for line in body(text) if line.startswith(label))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % & more", r"50 \% \& more"),
        ("a_b^c~d#e$f", r"a\_b\textasciicircum{}c\textasciitilde{}d\#e\$f"),
        ("{x}\\y", r"\{x\}\textbackslash{}y"),
        ("[2cm]", "{[}2cm{]}"),
        ("<b>|", r"\textless{}b\textgreater{}\textbar{}"),
        ("two\nlines\x07", "two lines "),
    ],
)
def test_what_latex_would_read_is_escaped(text: str, expected: str):
    assert escape(text) == expected


def test_every_row_has_every_cell(summary: Summary):
    text = to_latex(summary)
    n_columns = len(columns(summary))
    rows = [line for line in body(text) if "&" in line]
    assert len(rows) == len(summary.rows) + 1
    assert all(len(re.findall(r"(?<!\\)&", line)) == n_columns - 1 for line in rows)
    assert all(line.endswith(r" \\") for line in rows)
    assert rf"\begin{{tabular}}{{l{'r' * (n_columns - 1)}}}" in text


def test_braces_and_environments_are_balanced_and_nothing_special_is_left(summary: Summary):
    text = to_latex(summary)
    assert text.startswith("% \\usepackage{booktabs,graphicx,textcomp}\n")
    bare = re.sub(r"\\[{}\\]", "", re.sub(r"(?m)^%.*$", "", text))
    assert bare.count("{") == bare.count("}")
    opened, closed = (re.findall(rf"\\{word}\{{([\w*]+)\}}", text) for word in ("begin", "end"))
    assert opened == closed[::-1] == ["table*", "tabular"]
    ours = re.sub(r"(?m)^%.*$", "", text).replace(FIT, "", 1)
    unescaped = re.findall(r"(?<!\\)[%#_^~<>|]", ours)
    assert unescaped == []
    assert not any(line.lstrip().startswith("[") for line in text.splitlines())


def test_bold_means_that_the_interval_excludes_zero(summary: Summary):
    text = to_latex(summary)
    excludes = {
        row.label: row.difference is not None and row.difference.estimate.excludes_zero
        for row in summary.rows
    }
    assert set(excludes.values()) == {True, False}
    for label, bold in excludes.items():
        if label != summary.reference:
            assert (r"\textbf" in line_of(text, escape(label))) == bold


def test_rows_of_other_budgets_come_last_with_a_dagger(summary: Summary):
    lines = body(to_latex(summary))
    start = next(i for i, line in enumerate(lines) if "Other budgets" in line)
    assert lines[start - 1] == r"\midrule"
    marked = [line for line in lines if r"\dag{} &" in line]
    assert marked == lines[start + 1 :]
    assert len(marked) == sum(row.unequal_budget for row in summary.rows) > 0


def test_every_budget_has_its_heading(tmp_path):
    text = to_latex(make_summary(tmp_path, make_run(retentions=(0.25, 0.1), n_samples=2)))
    assert r"\emph{25 \% of the tokens}" in text
    assert r"\emph{10 \% of the tokens}" in text


def test_labels_of_users_come_out_as_they_are(summary: Summary):
    assert escape(NASTY) in to_latex(summary)
    assert NASTY not in to_latex(summary)


FEW = ("score", "difference", "n_tokens")


def test_columns_are_those_that_were_asked_for(summary: Summary):
    text = to_latex(summary, FEW)
    assert body(text)[0] == r"row & accuracy \% & vs AOT & tokens \\"
    assert r"\begin{table}" in text
    with pytest.raises(ConfigError, match=r"no column 'scores'; did you mean 'score'\?") as caught:
        to_latex(summary, ["scores"])
    assert caught.value.path == ("--columns",)
    assert len(str(caught.value)) <= 300


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="TeX is not installed")
@pytest.mark.parametrize("keys", [(), FEW])
def test_tables_fit_a_two_column_page(summary: Summary, keys: tuple[str, ...], tmp_path: Path):
    table = to_latex(summary, keys)
    packages = table.splitlines()[0].removeprefix("% ")
    page = (
        rf"\documentclass[twocolumn]{{article}}{packages}\begin{{document}}{table}\end{{document}}"
    )
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    words = ["pdflatex", "-draftmode", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Overfull" not in run.stdout

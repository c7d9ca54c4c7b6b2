"""The table in LaTeX with booktabs."""

import re
from collections.abc import Iterable, Sequence

from tokenred.evaluation.summary import RowSummary, Summary
from tokenred.report.columns import NOT_APPLICABLE, Cell, Column, Group, choose_columns, groups
from tokenred.report.table import caption, header

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "†": r"\dag{}",
    # A bracket after the end of a row would be read as the length of a skip.
    "[": "{[}",
    "]": "{]}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
}
_MINUS = re.compile(r"(?<![\w.])-(?=\d)")


ONE_COLUMN = 4
"""With more columns than this, the table spans both columns of a two-column page."""
FIT = r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"
"""Print box 0, made smaller where it is wider than the text."""


def to_latex(summary: Summary, keys: Sequence[str] = ()) -> str:
    """Return a table environment: rows by budget, bold where an interval excludes zero.

    It is never wider than the text: a table of few columns is as wide as one column of a two-column
    page (``table``), one of more as both (``table*``), and what is still too wide is made smaller.

    Rows of other budgets come last, apart, with a dagger. Control characters of labels are left
    out; letters beyond ASCII stay as they are, and need a font of the document that has them.

    Parameters
    ----------
    keys : of the columns behind the label; all by default
    """
    chosen = choose_columns(summary, keys)
    environment = "table" if len(chosen) <= ONE_COLUMN else "table*"
    lines = [
        r"% \usepackage{booktabs,graphicx,textcomp}",
        f"% {' '.join(header(summary).split())}",
        rf"\begin{{{environment}}}",
        r"\centering",
        rf"\caption{{{_caption(summary)}}}",
        rf"\label{{tab:{re.sub(r'[^A-Za-z0-9-]', '-', summary.name)}}}",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
        rf"\sbox0{{\begin{{tabular}}{{l{'r' * (len(chosen) - 1)}}}",
        r"\toprule",
        _line(escape(column.name) for column in chosen),
    ]
    for group in groups(summary):
        lines += [r"\midrule", *_group(group, chosen)]
    lines += [r"\bottomrule", r"\end{tabular}}", FIT]
    notes = r"\par ".join(escape(line) for line in caption(summary))
    lines += [r"\par\medskip", rf"\parbox{{\linewidth}}{{\footnotesize {notes}}}"]
    lines += [rf"\end{{{environment}}}"]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Return a text that LaTeX prints as it stands, on one line."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return "".join(_SPECIAL.get(character, character) for character in printable)


def _caption(summary: Summary) -> str:
    question = f" {summary.question}" if summary.question else ""
    return escape(f"{summary.title.rstrip('.')}.{question}")


def _group(group: Group, chosen: Sequence[Column]) -> list[str]:
    head = rf"\multicolumn{{{len(chosen)}}}{{l}}{{\emph{{{escape(group.name)}}}}} \\"
    return [head, *(_row(row, chosen) for row in group.rows)]


def _row(row: RowSummary, chosen: Sequence[Column]) -> str:
    label, *figures = (column.cell(row) for column in chosen)
    first = escape(f"{label.text} †" if row.unequal_budget else label.text)
    return _line([rf"\textbf{{{first}}}" if label.bold else first, *map(_figure, figures)])


def _figure(cell: Cell) -> str:
    if cell.text == NOT_APPLICABLE:
        return "--"
    text = _MINUS.sub("$-$", escape(cell.text))
    bold = rf"\textbf{{{text}}}" if cell.bold else text
    aside = _MINUS.sub("$-$", escape(cell.aside))
    return rf"{bold} {{\scriptsize {aside}}}" if aside else bold


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"

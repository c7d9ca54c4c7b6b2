"""Building blocks of the text reports: terminal tables and CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from tokenred.evaluation.files import inert

LABEL_WIDTH = 12
"""Least width of a row's label in a terminal; longer labels are folded."""


def new_table(title: str, names: Sequence[str]) -> Table:
    """Return a terminal table without rows: labels on the left, figures on the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    table.add_column(names[0], overflow="fold", min_width=LABEL_WIDTH)
    for name in names[1:]:
        table.add_column(name, justify="right", no_wrap=bool(name))
    return table


def dim(lines: Iterable[str]) -> list[Text]:
    """Return lines in small print."""
    return [Text(line, style="dim") for line in lines]


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return CSV with a column for every key of the lines."""
    text = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: inert(value) for name, value in line.items()} for line in lines)
    return text.getvalue()

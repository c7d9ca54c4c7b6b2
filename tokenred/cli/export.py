"""``tokenred export``: all stored answers as one flat file."""

from pathlib import Path
from typing import Annotated

import typer

from tokenred.cli._common import say

EXAMPLES = (
    "tokenred export runs/components answers.csv",
    "tokenred export runs/components answers.parquet",
)
"""What its help shows."""


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a run, such as runs/components.")],
    file: Annotated[Path, typer.Argument(help="A .parquet or .csv file to write.")],
) -> None:
    """Write every answer of a run, one line each, to Parquet or CSV."""
    from tokenred.evaluation.export import export_answers

    say(f"{export_answers(run, file)} answers written to {file}")

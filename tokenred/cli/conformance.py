"""``tokenred conformance``: run all adapter checks on every model family."""

from pathlib import Path
from typing import Annotated

import typer

from tokenred.cli._common import Json, align_columns, emit, say
from tokenred.errors import ConfigError, nearest, quoted

EXAMPLES = ("tokenred conformance",)
"""What its help shows."""


def conformance(
    family: Annotated[
        list[str] | None, typer.Option(help="A family by name; repeat for more. Default: all.")
    ] = None,
    device: Annotated[str, typer.Option(help="Device, such as cuda:0.")] = "cpu",
    record: Annotated[
        Path | None,
        typer.Option(help="JSON file to add the matrix to, one for each version and device."),
    ] = None,
    json: Json = False,
) -> None:
    """Check every model family on tiny random models of its real class; no downloads.

    Exit code 4 if a check fails.
    """
    from tokenred.testing.matrix import add_to, run_matrix
    from tokenred.testing.models import FAMILIES

    for name in family or ():
        if name not in FAMILIES:
            raise ConfigError(f"unknown family {quoted(name)}{nearest(name, FAMILIES)}", ["family"])
    chosen = [FAMILIES[name] for name in family or FAMILIES]
    matrix = run_matrix(
        chosen,
        device=device,
        on_result=lambda result: say(
            f"{result.family}: {result.check} {result.fault or 'ok'} ({result.seconds:.1f} s)"
        ),
    )
    if record is not None:
        add_to(record, matrix)
    if json:
        emit(matrix.to_dict())
    else:
        print(f"transformers {matrix.transformers}, torch {matrix.torch}, {matrix.device}\n")
        print(align_columns(matrix.rows()))
    if not matrix.passed:
        raise typer.Exit(4)

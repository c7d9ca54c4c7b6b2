"""The command line: one file for each verb. Data goes to stdout, talk to stderr.

Exit codes: 0 ok, 1 the run failed, 2 usage or configuration, 3 budget, 4 a check failed.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from tokenred.cli import (
    ablate,
    bench,
    choices,
    config,
    conformance,
    doctor,
    export,
    flops,
    listing,
    native,
    plugins,
    report,
    run,
    viz,
)
from tokenred.cli._common import say
from tokenred.errors import TokenredError

app = typer.Typer(
    name="tokenred",
    help="Visual-token reduction for video LLMs, and a fair way to compare methods.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("ablate")(ablate.ablate)
app.command("bench")(bench.bench)
app.command("choices")(choices.choices)
app.command("export")(export.export)
app.command("report")(report.report)
app.command("run")(run.run)
app.command("viz")(viz.viz)
app.command("flops")(flops.flops)
app.command("list")(listing.list_)
app.add_typer(config.app, name="config")
app.add_typer(native.app, name="native")
app.command("plugins")(plugins.plugins)
app.command("conformance")(conformance.conformance)
app.command("doctor")(doctor.doctor)

_debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from tokenred import __version__

        print(f"tokenred {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
    no_plugins: Annotated[
        bool, typer.Option("--no-plugins", help="Load no third-party plugin.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    global _debug
    _debug = debug
    if no_plugins:
        from tokenred.plugins import SWITCH

        os.environ[SWITCH] = "0"  # noqa: TID251 - the switch that plugins.py reads


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error ends in one sentence and an exit code."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="tokenred")
    except TokenredError as error:
        _fail(str(error), error.exit_code)
    except ImportError as error:
        _fail(f"{error}; `tokenred doctor` says what is missing", 1)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {error}; --debug shows where", 1)


def _fail(message: str, exit_code: int) -> None:
    if _debug:
        traceback.print_exc()
    say(f"tokenred: {message}")
    sys.exit(exit_code)

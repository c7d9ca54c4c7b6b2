"""The command line, one file a verb. Data goes to stdout, messages to stderr.

Exit codes: 0 ok, 1 the run failed, 2 usage or configuration, 3 budget, 4 a check failed.
"""

import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

from tokenred.cli._common import say
from tokenred.errors import BudgetWarning, TokenredError, shown
from tokenred.plugins import registry


class _Verbs(Mapping[str, Any]):
    """Commands by verb, each imported on first use."""

    def __getitem__(self, name: str) -> Any:
        verbs = registry()
        if name not in verbs.others("verb"):
            raise KeyError(name)
        try:
            return _command(name, verbs.imported("verb", name))
        except TokenredError as error:
            return _command(name, _broken(error))

    def __iter__(self) -> Iterator[str]:
        return iter(registry().others("verb"))

    def __len__(self) -> int:
        return len(registry().others("verb"))


def _command(name: str, found: Any) -> Any:
    holder = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name)
    else:
        holder.command(name)(found)
    command = typer.main.get_group(holder).commands[name]
    command.epilog = _examples(found)
    return command


def _examples(found: Any) -> str | None:
    """Return the ``EXAMPLES`` of the module that a verb is in, as its help shows them."""
    if isinstance(found, typer.Typer):
        functions = [each.callback for each in found.registered_commands]
        found = next((each for each in functions if each is not None), found)
    module = sys.modules.get(getattr(found, "__module__", ""))
    examples = getattr(module, "EXAMPLES", ())
    return "\n".join(["\b", "Examples:", *(f"  {each}" for each in examples)]) if examples else None


def _broken(error: TokenredError) -> Any:
    def fail() -> None:
        raise error

    fail.__doc__ = f"(cannot be loaded: {error})"
    return fail


class _Group(TyperGroup):
    """The command line, with every verb that is registered."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Verbs()


app = typer.Typer(
    name="tokenred",
    cls=_Group,
    help="Visual-token reduction for video LLMs, and a fair way to compare methods.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_debug = False


def _print_version(wanted: bool) -> None:
    if wanted:
        from tokenred import __version__

        print(f"tokenred {__version__}")
        raise typer.Exit


def _without_plugins(wanted: bool) -> None:
    if wanted:
        from tokenred.plugins import SWITCH

        os.environ[SWITCH] = "0"  # noqa: TID251 - the switch that plugins.py reads


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with errors.")] = False,
    no_plugins: Annotated[
        bool,
        typer.Option(
            "--no-plugins",
            callback=_without_plugins,  # before the verb is looked up, which a plugin may bring
            is_eager=True,
            help="Load no third-party plugin.",
        ),
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


class _Terminated(KeyboardInterrupt):
    """The process was asked to end."""

    exit_code = 143


def _terminate(*_: object) -> None:
    raise _Terminated


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; report an error in one sentence with an exit code."""
    warnings.showwarning = _show_warning
    if arguments is None:  # a process of its own, most of whose objects live as long as it does
        gc.set_threshold(100_000, 50, 50)
        signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="tokenred")
    except TokenredError as error:
        _fail(str(error), error.exit_code)
    except ImportError as error:
        _fail(f"{error}; `tokenred doctor` says what is missing", 1)
    except _Terminated as stop:
        _fail("terminated", stop.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:
        _fail(f"unexpected {type(error).__name__}: {shown(str(error))}; --debug shows where", 1)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say what concerns the user in one line; leave the rest to Python."""
    if issubclass(category, BudgetWarning):
        say(f"tokenred: {message}")
    else:
        _python_shows(message, category, filename, lineno, file, line)


_python_shows = warnings.showwarning


def _fail(message: str, exit_code: int) -> None:
    if _debug:
        traceback.print_exc()
    say(f"tokenred: {message}")
    sys.exit(exit_code)

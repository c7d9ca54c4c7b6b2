"""``tokenred native``: compile Sinkhorn for this machine, for speed."""

from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from tokenred.cli._common import Json, align_columns, emit, say

EXAMPLES = ("tokenred native build",)
"""What its help shows."""

app = typer.Typer(
    rich_markup_mode=None,
    help="Build, show and remove the compiled Sinkhorn; without it plain torch runs.",
)


@dataclass(frozen=True)
class Status:
    """State of the compiled library: ``built``, ``missing`` or ``broken``."""

    state: str
    path: str
    compiler: str = ""
    flags: str = ""
    threads: bool | None = None
    detail: str = ""


@app.callback(invoke_without_command=True)
def _default(context: typer.Context, json: Json = False) -> None:
    if context.invoked_subcommand is None:
        status(json)


@app.command("build")
def build_native(
    compiler: Annotated[
        str | None, typer.Option(help="Name or path of a C compiler; cc, gcc or clang by default.")
    ] = None,
) -> None:
    """Compile Sinkhorn for this processor, check it against torch, and install it for this user."""
    from tokenred.kernels.native.build import build_library

    path, built = build_library(compiler=compiler)
    say(f"built with {built.compiler}")
    if not built.threads:
        say("the compiler has no OpenMP, so it runs in one thread")
    print(path)


@app.command()
def status(json: Json = False) -> None:
    """Show whether it is built, with which compiler and flags, and where."""
    found = native_status()
    told = {name: value for name, value in asdict(found).items() if value not in ("", None)}
    if json:
        emit(told)
    else:
        print(align_columns([(name, str(value)) for name, value in told.items()]))


@app.command()
def remove() -> None:
    """Delete all compiled libraries, those for other processors and versions included."""
    from tokenred.kernels.native.build import remove_libraries

    removed = remove_libraries()
    if not removed:
        say("there was nothing to remove")
    for path in removed:
        print(path)


def native_status() -> Status:
    """Return the state of the library for this machine."""
    from tokenred.kernels.native import library

    path = library.library_path(library.FOLDER)
    try:
        loaded = library.load_library(library.FOLDER)
    except ValueError as error:
        return Status("broken", str(path), detail=str(error))
    if loaded is None:
        return Status("missing", str(path), detail="run `tokenred native build`")
    built = loaded[1]
    return Status("built", str(path), built.compiler, " ".join(built.flags), built.threads)

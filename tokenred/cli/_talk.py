"""What long work tells on stderr: how far it is, and what to type next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = "tokenred"


@contextmanager
def progress_line(what: str, n_steps: int) -> Iterator[Callable[[], None]]:
    """Show how much of something is done while it is; call what this gives after every step."""
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.TaskProgressColumn(),
        bars.TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(what, total=n_steps)
        yield lambda: bar.advance(task)


def command(*words: str) -> str:
    """Return a command of tokenred ready to paste, which starts as this one was typed."""
    typed, found = Path(sys.argv[0]), shutil.which(PROGRAM)
    ours = typed.stem == PROGRAM and typed.exists()
    on_path = found is not None and ours and typed.samefile(found)
    return shlex.join([str(typed) if ours and not on_path else PROGRAM, *words])

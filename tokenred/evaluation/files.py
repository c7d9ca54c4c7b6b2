"""Files that appear as a whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path

from tokenred.errors import TokenredError


def write_whole(path: Path, text: str) -> None:
    """Write a text file, replacing an old one only when the new one is complete.

    Raises
    ------
    TokenredError
        If it cannot be written; the old one is kept.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise TokenredError(f"cannot write {path}: {error.strerror}") from error

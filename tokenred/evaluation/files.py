"""Atomic writing of files, and hashes of large files from samples."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tokenred.errors import InputError, TokenredError, shown

N_PIECES, PIECE_BYTES = 512, 4096


def check_place(path: Path) -> None:
    """Refuse a place where no file can be written, or where something else than a file stands.

    Raises
    ------
    InputError
        If its folder is missing, or it is a folder, a device or a pipe, which would be replaced.
    """
    if not os.path.isdir(path.parent):
        raise InputError(
            f"{shown(path)} cannot be written: there is no folder {shown(path.parent)}"
        )
    if os.path.isdir(path):
        raise InputError(f"{shown(path)} cannot be written: it is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{shown(path)} cannot be written: it is a device or a pipe")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a draft beside ``path``, which takes its place when the block ends without error.

    Raises
    ------
    TokenredError
        If it cannot be written; the old file is kept, and so is what is no file.
    """
    check_place(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise TokenredError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file of text or bytes as a whole or not at all (see ``whole_file``)."""
    with whole_file(path) as draft:
        if isinstance(content, bytes):
            draft.write_bytes(content)
        else:
            draft.write_text(content, encoding="utf-8")


_FORMULA = ("=", "+", "-", "@")


def inert(value: Any) -> Any:
    """Return a cell of a CSV file; text that a spreadsheet would take for a formula is quoted."""
    if isinstance(value, str) and unicodedata.normalize("NFKC", value.strip())[:1] in _FORMULA:
        return f"'{value}"
    return value


def sampled_hash(path: Path) -> str:
    """Return 16 hex digits over a file's size and content; of a large file, over samples of it.

    Up to 2 MiB count whole, of a larger file 512 pieces of 4 KiB, evenly spread from its first byte
    to its last, so that terabytes need not be read.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= N_PIECES * PIECE_BYTES:
            digest.update(file.read())
        else:
            for piece in range(N_PIECES):
                file.seek(piece * (size - PIECE_BYTES) // (N_PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()[:16]

"""Atomic writing of files, and hashes of large files from samples."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from tokenred.errors import TokenredError

N_PIECES, PIECE_BYTES = 512, 4096


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

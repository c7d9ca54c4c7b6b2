"""Cache on disk of vision tower output, so that later runs skip encoding."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor

from tokenred.errors import ConfigError
from tokenred.evaluation.clip_file import n_bytes, read_clip, tensor_bytes, write_clip
from tokenred.evaluation.provenance import package_version
from tokenred.models.splice import Clip

SUFFIX = ".safetensors"
_ENTRY = re.compile(r"[0-9a-f]{64}\.safetensors")
_DRAFT = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{32}\.draft")
_STALE_SECONDS = 3600
_HEADER_BYTES = 1 << 14
_ROOM = 0.9
"""Share of the cap that is left full when old files have to go."""
_BLIND = 32
"""After writing this part of the cap, a process looks again what others have written."""

_log = logging.getLogger(__name__)


class FeatureCache:
    """A folder of encoded clips, for ``VideoLlm(remember=...)``.

    A clip is found by what it was made from: the pixels as they enter the tower, their times, the
    model's revision, the kind of device, and the versions of tokenred, torch and transformers. So
    it never serves another video, model or version, and two tasks about one video share it.

    A hit equals what the tower gave, to the last bit; every file carries checksums, and one that
    does not meet them is made anew. A file that lacks a cue is replaced by one with all cues that
    were ever asked for. Several processes may share a folder; files appear as a whole or not at
    all.

    Parameters
    ----------
    folder : made when it is first written to
    max_bytes : cap; what was not used for the longest time goes first. Processes that write at the
        same time may pass it by a few per cent.

    Raises
    ------
    ConfigError
        If the cap is not positive.
    """

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        if max_bytes <= 0:
            raise ConfigError("a cache needs room for at least one byte", ["max_bytes"])
        self.folder = Path(folder).absolute()
        self.max_bytes = max_bytes
        self.n_hits = self.n_misses = 0
        self._writes = True
        self._known_bytes: int | None = None  # in the folder, as far as this process knows
        self._blind_bytes = 0  # written since it looked

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.folder, self.max_bytes)  # another process counts for itself

    def __call__(
        self,
        depends_on: Sequence[str | Tensor],
        needs: Collection[str],
        compute: Callable[[Collection[str]], Clip],
        device: torch.device,
    ) -> Clip:
        """Return the clip with the cues that are needed, from disk or else from ``compute``.

        Parameters
        ----------
        depends_on : everything that decides what comes out, besides installed versions
        compute : encodes, with the cues that it is given
        device : where tensors go that were not in main memory
        """
        key = content_key(depends_on)
        path = self.folder / f"{key}{SUFFIX}"
        clip, stored = read_clip(path, key, needs, device)
        if clip is not None:
            self.n_hits += 1
            with suppress(OSError):  # a folder that cannot be written still serves
                path.touch()
            return clip
        self.n_misses += 1
        wanted = frozenset(needs) | stored
        clip = compute(wanted)
        self._write(path, key, wanted, clip)
        return _without(clip, wanted - frozenset(needs))

    def _write(self, path: Path, key: str, needs: frozenset[str], clip: Clip) -> None:
        from safetensors import SafetensorError

        size = n_bytes(clip) + _HEADER_BYTES
        if not self._writes or size > self.max_bytes:
            return
        draft = self.folder / f".{key}.{uuid4().hex}.draft"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make_room(size)
            write_clip(draft, key, needs, clip)
            draft.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            self._writes = False
            reason = getattr(error, "strerror", None) or str(error)
            _log.warning(
                "the cache %s cannot be written (%s); continuing without it", self.folder, reason
            )

    def _make_room(self, size: int) -> None:
        """Delete the oldest files if ``size`` more bytes would exceed the cap."""
        self._blind_bytes += size
        known = self._known_bytes
        if (
            known is None
            or known + size > self.max_bytes
            or self._blind_bytes > self.max_bytes / _BLIND
        ):
            entries = self._entries()
            known = sum(n for _, n, _ in entries)
            if known + size > self.max_bytes:
                for _, n, path in sorted(entries):
                    if known + size <= _ROOM * self.max_bytes:
                        break
                    path.unlink(missing_ok=True)
                    known -= n
            self._blind_bytes = size
        self._known_bytes = known + size

    def _entries(self) -> list[tuple[float, int, Path]]:
        """Return last use, size and path of each file; delete stale drafts."""
        entries = []
        for path in self.folder.iterdir():
            draft = _DRAFT.fullmatch(path.name)
            if not draft and not _ENTRY.fullmatch(path.name):
                continue  # not ours
            with suppress(FileNotFoundError):  # another process was faster
                stat = path.stat()
                if draft and time.time() - stat.st_mtime > _STALE_SECONDS:
                    path.unlink()
                else:
                    entries.append((stat.st_mtime, stat.st_size, path))
        return entries


def content_key(depends_on: Sequence[str | Tensor]) -> str:
    """Return 64 hex digits over texts, tensors and the versions of the code that encodes."""
    hashed = hashlib.sha256(_versions().encode())
    for part in depends_on:
        if isinstance(part, str):
            hashed.update(f"\ntext {len(part)} {part}".encode())
        else:
            hashed.update(f"\n{part.dtype} {tuple(part.shape)} ".encode())
            hashed.update(tensor_bytes(part))
    return hashed.hexdigest()


@cache
def _versions() -> str:
    found = [package_version()]
    for package in ("torch", "transformers"):
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def _without(clip: Clip, names: Collection[str]) -> Clip:
    """Return a clip with the requested cues only."""
    if not names:
        return clip
    cues = {name: value for name, value in clip.tokens.cues.items() if name not in names}
    return replace(clip, tokens=replace(clip.tokens, cues=cues))

"""The files of a checkpoint, in a local folder or from the hub; nothing is loaded yet."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenred.errors import InputError
from tokenred.texts import read_json

SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
"""What is fetched from the hub before the load is announced."""
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
MAX_JSON_BYTES = 2**26
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def cannot_load(name: str, reason: str) -> InputError:
    """Return the error for a model that cannot be loaded."""
    return InputError(f"no model can be loaded from {name}: {' '.join(reason.split())}")


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a model in the format of transformers.

    Attributes
    ----------
    name : as it was asked for
    folder : where the files lie; those of the hub in its own cache
    revision : commit of the hub that the files belong to; None for a local folder
    config : content of ``config.json``
    """

    name: str
    folder: Path
    revision: str | None
    config: Mapping[str, Any]

    @property
    def weight_names(self) -> list[str]:
        """Names of the files with the weights.

        Raises
        ------
        InputError
            If the index that lists them cannot be read.
        """
        index = self.folder / INDEX
        if (self.folder / WEIGHTS).is_file() or not index.is_file():
            return [WEIGHTS]
        return sorted(set(self._read(INDEX).get("weight_map", {}).values()))

    @property
    def missing_weights(self) -> list[str]:
        """Weight files that are not in the folder (yet)."""
        return [name for name in self.weight_names if not (self.folder / name).is_file()]

    @property
    def n_bytes_on_disk(self) -> int | None:
        """Size of the weights; None if they are missing and there is no index."""
        if not self.missing_weights:
            return sum((self.folder / name).stat().st_size for name in self.weight_names)
        if not (self.folder / INDEX).is_file():
            return None
        return self._read(INDEX).get("metadata", {}).get("total_size")

    @property
    def chat_template(self) -> str | None:
        """The chat template of the checkpoint's processor, if there is one; it handles media."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        return self._read("chat_template.json").get("chat_template")

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Settings of the checkpoint's own processors for ``image`` and ``video``.

        Newer checkpoints keep both in ``processor_config.json``; elsewhere each has its file, and
        videos without one are treated as images are.
        """
        both = self._read("processor_config.json")
        image = both.get("image_processor") or self._read("preprocessor_config.json")
        video = both.get("video_processor") or self._read("video_preprocessor_config.json") or image
        return {
            kind: {name: value for name, value in each.items() if value is not None}
            for kind, each in (("image", image), ("video", video))
        }

    def check_weights(self) -> str | None:
        """Check the headers of all weight files.

        Returns
        -------
        The name of the first floating dtype in them, such as ``BF16``.

        Raises
        ------
        InputError
            If a file is missing or damaged.
        """
        from safetensors import SafetensorError, safe_open

        if missing := self.missing_weights:
            raise cannot_load(self.name, f"the folder lacks {', '.join(missing)}")
        dtypes = []
        for name in self.weight_names:
            try:
                with safe_open(self.folder / name, framework="pt") as file:
                    dtypes += [file.get_slice(key).get_dtype() for key in file.keys()]  # noqa: SIM118
            except SafetensorError as error:
                raise cannot_load(self.name, f"{name} is damaged ({error})") from error
        return next((dtype for dtype in dtypes if "F" in dtype), None)

    def fetch_weights(self) -> None:
        """Download missing weights."""
        if self.revision is not None and self.missing_weights:
            _from_hub(self.name, self.revision, self.weight_names, local_files_only=False)

    def _read(self, file: str) -> dict[str, Any]:
        path = self.folder / file
        return _read_json(self.name, path) if path.is_file() else {}


def find_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    local_files_only: bool = False,
    with_code: bool = False,
) -> Checkpoint:
    """Find a checkpoint and read its config; its small files are downloaded if need be.

    Parameters
    ----------
    name : a local folder, or the id of a model on the hub; a folder goes first
    revision : branch, tag or commit on the hub
    local_files_only : whether to do without the hub
    with_code : whether to fetch Python files, too

    Raises
    ------
    InputError
        If there is no such folder or model, it cannot be had, or it has no readable config.
    """
    folder = Path(os.path.expanduser(name))
    commit = None
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            raise cannot_load(name, "that is a file, not a folder")
        if not _HUB_ID.fullmatch(name) or name.startswith("."):
            raise cannot_load(name, "there is no such folder")
        patterns = [*SMALL_FILES, *(["*.py"] if with_code else [])]
        folder = _from_hub(name, revision, patterns, local_files_only=local_files_only)
        commit = folder.name
    elif revision is not None:
        raise cannot_load(name, "a local folder has no revisions")
    path = folder / "config.json"
    if not path.is_file():
        raise cannot_load(name, "it has no config.json")
    return Checkpoint(name, folder, commit, _read_json(name, path))


def _from_hub(
    name: str, revision: str | None, patterns: list[str], *, local_files_only: bool
) -> Path:
    """Download some files of a model, or find them in the hub's cache; return their folder."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=local_files_only,
        )
    except errors.GatedRepoError as error:
        reason = "its owner asks you to log in (`hf auth login`) and to accept the terms"
        raise cannot_load(name, reason) from error
    except errors.RepositoryNotFoundError as error:
        reason = "there is no such folder, and on the hub no such model that you may read"
        raise cannot_load(name, reason) from error
    except errors.RevisionNotFoundError as error:
        raise cannot_load(name, f"it has no revision {revision!r}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        reason = "there is no such folder, it is not downloaded, and the hub "
        reason += "may not be asked" if local_files_only else "cannot be reached"
        raise cannot_load(name, reason) from error
    except Exception as error:
        raise cannot_load(name, str(error).strip().partition("\n")[0]) from error
    return Path(folder)


def _read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        return read_json(path, MAX_JSON_BYTES, finite=False)
    except InputError as error:
        raise cannot_load(name, str(error)) from error

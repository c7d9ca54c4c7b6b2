"""Tasks: videos with questions, and their scoring."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.config import StrategyConfig, short_hash
from tokenred.errors import ConfigError, InputError, quoted, shown
from tokenred.files import is_yaml, located, read_yaml
from tokenred.plugins import registry
from tokenred.registry import HARNESS_ROLES
from tokenred.slots import build, file_schema, json_schemas, strategy_config
from tokenred.strategy import Strategy

Answering = Literal["likelihood", "generation"]
"""How an option is chosen: the likeliest one, or the one that the model writes."""


@dataclass(frozen=True)
class Question:
    """One question about a video.

    Attributes
    ----------
    kind : of question, for the breakdown of a table
    prompt : what the model reads after the video
    options : texts, one of which is the answer; empty for a free answer
    answers : accepted answers, among the options if there are any; empty without a label
    """

    kind: str
    prompt: str
    options: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.options)) < len(self.options) or len(self.options) == 1:
            raise InputError(
                f"options must be several and different, got {quoted(list(self.options))}"
            )
        if self.options and not set(self.answers) <= set(self.options):
            raise InputError(
                f"the answer {quoted(list(self.answers))} is not among the options "
                f"{quoted(list(self.options))}"
            )


@dataclass(frozen=True)
class Sample:
    """One video with its questions.

    Attributes
    ----------
    id : unique inside the task, stable over time
    frames : (frames, height, width, 3) RGB
    frame_indices : which frames of the source video these are
    frame_times : (frames,) seconds
    questions : at least one
    """

    id: str
    frames: UInt8[Tensor, "frames height width 3"]
    frame_indices: tuple[int, ...]
    frame_times: Float[Tensor, "frames"]
    questions: tuple[Question, ...]

    def __post_init__(self) -> None:
        if not self.questions:
            raise InputError(f"sample '{self.id}' has no question")

    def take(self, n_frames: int | None) -> "Sample":
        """Return the sample with ``n_frames`` evenly spaced frames (all if None)."""
        kept = frame_subset(len(self.frames), n_frames)
        if len(kept) == len(self.frames):
            return self
        index = torch.tensor(kept)
        return Sample(
            self.id,
            self.frames[index],
            tuple(self.frame_indices[i] for i in kept),
            self.frame_times[index],
            self.questions,
        )


class Task(Strategy, role="task"):
    """A collection of samples, by index. Picklable, so that other processes can hold it too.

    Attributes
    ----------
    name : as printed in tables
    fingerprint : changes whenever a sample or a score could; results are only compared under one
    kinds : kind of question -> chance level, the score of a guess (0 for free answers)
    n_samples : how many samples there are
    calibration : indices that lie apart from all evaluated ones, for what a method tunes
    answering : how options are chosen
    max_new_tokens : longest answer that a model may write
    """

    name: str
    kinds: Mapping[str, float]
    n_samples: int
    calibration: Sequence[int]
    answering: Answering
    max_new_tokens: int

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that decides samples and scores."""

    @abstractmethod
    def sample_id(self, index: int) -> str:
        """Return the id of a sample without making the sample."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Return a sample; the same index always gives the same one."""

    @abstractmethod
    def score(self, question: Question, said: str) -> float | None:
        """Return the score of an answer, 0-1; None without a label."""

    def questions(self, n_samples: int) -> Iterator[tuple[str, Question]]:
        """Yield sample id and question of the first samples, if they are known without videos."""
        return iter(())


def score_option(question: Question, said: str) -> float | None:
    """Return 1 for a right option, 0 for a wrong one, None without a label."""
    return float(said in question.answers) if question.answers else None


def load_task(
    source: str | Mapping[str, Any] | StrategyConfig,
    *,
    defaults: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Task:
    """Return a task by name, file, folder or mapping.

    Registered names, such as ``embedded``, come first. A YAML file holds a mapping with the
    ``name`` of a task and its settings. Anything else that exists is data for ``local``: a JSONL
    file with questions, a video, or a folder of videos.

    Parameters
    ----------
    defaults, overrides : settings of a ``local`` task, where it has none of its own, or in place of
        its own

    Raises
    ------
    ConfigError
        If there is no such task or file, or its settings are not valid.
    InputError
        If its data cannot be read.
    """
    if not isinstance(source, str) or source in registry().names("task"):
        data: Any = source
    elif is_yaml(source):
        data = _read_task(Path(source))
    elif os.path.exists(source):  # of no file where a name cannot be one
        data = {"name": "local", "path": str(Path(source).absolute())}
    else:
        known = ", ".join(registry().names("task"))
        raise ConfigError(f"no task or file '{shown(source)}'; tasks: {known}", ["--task"])
    if isinstance(data, Mapping) and data.get("name") == "local":
        data = {**(defaults or {}), **data, **(overrides or {})}
    try:
        config = strategy_config("task", data)
    except ConfigError as error:
        raise located(error, source) from None
    return build(Task, config)


def task_schema() -> dict[str, Any]:
    """Return the JSON schema of a task file, with all registered tasks, for editors."""
    entries = registry().entries("task")
    references, definitions = json_schemas([entry.config_class for entry in entries], HARNESS_ROLES)
    options = [
        {**references[entry.config_class], "properties": {"name": {"const": entry.name}}}
        for entry in entries
    ]
    return file_schema({"anyOf": options, "required": ["name"]}, definitions)


def frame_subset(n_frames: int, n_kept: int | None) -> list[int]:
    """Return ``n_kept`` evenly spaced frame indices, first and last included (all if None)."""
    if n_kept is None:
        return list(range(n_frames))
    if n_kept > n_frames:
        raise ConfigError(f"{n_kept} frames asked for, the clip has {n_frames}", ["frames"])
    if n_kept == 1:
        return [n_frames // 2]
    return [round(i * (n_frames - 1) / (n_kept - 1)) for i in range(n_kept)]


def fingerprint_of(*parts: object) -> str:
    """Return a short hash of JSON-like parts."""
    return short_hash(list(parts))


def _read_task(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path)
    except ConfigError as error:
        raise error if error.where else error.below(["--task"]) from None
    for key in ("path", "videos"):  # relative to the file that names them
        if isinstance(data.get(key), str) and data[key]:
            data[key] = str(path.parent / data[key])
    return data

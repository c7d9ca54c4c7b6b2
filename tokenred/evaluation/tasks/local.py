"""Tasks from your own files: a JSONL file of questions, or videos alone."""

import logging
import os
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictInt, model_validator

from tokenred.config import FrozenModel, StrategyConfig, validate
from tokenred.errors import ConfigError, InputError, shown
from tokenred.evaluation.files import sampled_hash
from tokenred.evaluation.scorers import Scorer
from tokenred.evaluation.task import (
    Answering,
    Question,
    Sample,
    Task,
    fingerprint_of,
    score_option,
)
from tokenred.slots import Slot, build
from tokenred.texts import check_file, parse_json, read_text
from tokenred.video.limits import VideoLimits

VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")
LETTERS = string.ascii_uppercase
MAX_JSONL_BYTES = 2**28
_log = logging.getLogger(__name__)


class LocalTaskConfig(StrategyConfig):
    """Settings of a local task."""

    path: str = Field(description="JSONL file of questions, a video, or a folder of videos")
    videos: str = Field("", description="folder of the videos; that of the file by default")
    frames: int = Field(
        32, ge=1, le=2**20, description="frames sampled from each video, evenly spaced"
    )
    sampling: Literal["round", "floor", "start"] = Field(
        "round", description="which frames are evenly spaced: see `tokenred.read_video`"
    )
    by: Literal["index", "time"] = Field(
        "index", description="what they are spread over: the frames of a video, or its seconds"
    )
    fps: float | None = Field(
        None, gt=0, le=1e6, description="frames a second instead of a number of `frames`"
    )
    limits: VideoLimits = Field(
        VideoLimits(), description="how large a video may be, and how damaged"
    )
    answering: Answering = Field(
        "likelihood", description="likeliest option, or the option that the model writes"
    )
    show_options: Literal["letters", "none"] = Field(
        "letters", description="letters: options stand in the prompt, a letter is the answer"
    )
    scorer: Slot[Scorer] = Field(
        "exact-match", validate_default=True, description="of free answers"
    )
    max_new_tokens: int = Field(
        32, ge=1, le=2**20, description="longest answer that a model may write"
    )
    question: str = Field(
        "What happens in this video?", description="asked about videos that come without one"
    )
    calibration: int = Field(
        0, ge=0, le=2**31, description="last samples, held out for calibration"
    )

    @model_validator(mode="after")
    def _one_number_of_frames(self) -> "LocalTaskConfig":
        if self.fps is not None and "frames" in self.model_fields_set:
            raise ValueError("give frames or fps, not both")
        return self


class Line(FrozenModel):
    """One line of the JSONL file."""

    video: str = Field(description="file, relative to the folder of the videos")
    question: str = Field(min_length=1, description="what is asked")
    options: tuple[str, ...] = Field((), description="answers to choose from; none: free text")
    answer: str | Annotated[StrictInt, Field(ge=-(2**31), le=2**31)] | tuple[str, ...] | None = (
        Field(
            None,
            description="the right text or texts, or the option's number from 0; none: unlabelled",
        )
    )
    kind: str = Field("all", description="kind of question, for the breakdown")


class LocalTask(Task):
    """Questions about your own videos: options, free text, or no labels.

    Lines about one video become one sample, so that it is encoded once and counts as one cluster.
    Without labels a table compares answers with those of the unreduced model.

    Raises
    ------
    ConfigError, InputError
        If the file or folder cannot be read; a faulty line is named. Videos are opened when their
        turn comes.
    """

    config: LocalTaskConfig

    def __init__(self, config: LocalTaskConfig) -> None:
        super().__init__(config)
        path = Path(config.path)
        self.name = path.stem
        self.answering: Answering = config.answering
        self.max_new_tokens = config.max_new_tokens
        self._scorer = build(Scorer, config.scorer)
        if path.suffix == ".jsonl":
            self._folder = Path(config.videos) if config.videos else path.parent
            lines = _read_lines(path)
        else:
            self._folder = path if os.path.isdir(path) else path.parent
            lines = [Line(video=each, question=config.question) for each in _videos(path)]
        grouped: dict[str, list[Line]] = {}
        for line in lines:
            grouped.setdefault(line.video, []).append(line)
        self._samples = list(grouped.items())
        total = len(self._samples)
        if config.calibration >= total:
            raise ConfigError(f"there are {total} videos; some must be left", ["calibration"])
        self.n_samples = total - config.calibration
        self.calibration: Sequence[int] = range(self.n_samples, total)
        self.kinds: Mapping[str, float] = _chance(lines)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the questions, the settings and the videos.

        Long videos count by samples, see ``sampled_hash``.
        """
        settings = self.config.model_dump(exclude={"path", "videos"})
        lines = [[line.model_dump() for line in lines] for _, lines in self._samples]
        files = [_file_hash(self._folder / video) for video, _ in self._samples]
        return fingerprint_of(settings, lines, files)

    def sample_id(self, index: int) -> str:
        """Return the name of the video, as the file gives it."""
        return self._samples[index][0]

    def sample(self, index: int) -> Sample:
        """Read the frames of a video.

        Raises
        ------
        InputError
            If the video is missing, corrupt or beyond the limits.
        """
        from tokenred.video import read_video

        video, lines = self._samples[index]
        config = self.config
        clip = read_video(
            self._folder / video,
            None if config.fps else config.frames,
            config.sampling,
            by=config.by,
            fps=config.fps,
            limits=config.limits,
        )
        for remark in clip.remarks:
            _log.warning("%s", remark)
        questions = tuple(self._question(line) for line in lines)
        return Sample(video, clip.frames, clip.frame_indices, clip.frame_times, questions)

    def questions(self, n_samples: int) -> Iterator[tuple[str, Question]]:
        """Yield the questions about the first videos, none of which is opened."""
        for video, lines in self._samples[:n_samples]:
            for line in lines:
                yield video, self._question(line)

    def score(self, question: Question, said: str) -> float | None:
        """Return 0 or 1 for an option, the scorer's value for free text, None without a label."""
        if question.options or not question.answers:
            return score_option(question, said)
        return self._scorer.score(said, question.answers)

    def _question(self, line: Line) -> Question:
        answers = _answers(line)
        prompt, options = line.question, line.options
        if options and self.config.show_options == "letters":
            listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
            prompt = "\n".join([prompt, *listed, "Answer with the letter."])
            named = dict(zip(options, LETTERS))
            options, answers = tuple(named.values()), tuple(named[answer] for answer in answers)
        return Question(line.kind, prompt, options, answers)


def _answers(line: Line) -> tuple[str, ...]:
    if isinstance(line.answer, int):
        if not line.options:
            raise InputError(f"answer {line.answer} is an option's number; there are no options")
        if not 0 <= line.answer < len(line.options):
            raise InputError(f"there is no option {line.answer} of {len(line.options)}")
        return (line.options[line.answer],)
    if isinstance(line.answer, str):
        return (line.answer,)
    return line.answer or ()


def _read_lines(path: Path) -> list[Line]:
    text = read_text(path, "a JSONL file", MAX_JSONL_BYTES)
    lines = []
    for number, raw in enumerate(text.split("\n"), 1):  # splitlines also splits inside of texts
        if raw.strip():
            try:
                lines.append(_line(raw))
            except (ConfigError, InputError) as error:
                raise InputError(f"{shown(path)}, line {number}: {error}") from None
    if not lines:
        raise InputError(f"{shown(path)} holds no question")
    return lines


def _line(raw: str) -> Line:
    data = parse_json(raw, where="")
    if not isinstance(data, dict):
        raise InputError("not a JSON object")
    line = validate(Line, data)
    if len(line.options) > len(LETTERS):
        raise InputError(f"{len(line.options)} options; there are letters for {len(LETTERS)}")
    Question(line.kind, line.question, line.options, _answers(line))  # says what does not fit
    return line


def _videos(path: Path) -> list[str]:
    if not os.path.isdir(path):
        check_file(path, "a video file")
        found = [path.name]
    else:
        found = [p.name for p in sorted(path.iterdir()) if p.suffix.lower() in VIDEO_SUFFIXES]
    if not found:
        raise InputError(f"{shown(path)} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    _check_names(found)
    return found


def _check_names(videos: Iterable[str]) -> None:
    """Refuse names that no table, store or page can hold."""
    for video in videos:
        if not video.isascii() and video.encode("utf-8", "replace").decode() != video:
            raise InputError(f"{shown(video)} is a name that is no UTF-8 text; rename the file")


def _chance(lines: Sequence[Line]) -> dict[str, float]:
    """Return the mean chance level of every kind; 0 where answers are free."""
    shares: dict[str, list[float]] = {}
    for line in lines:
        shares.setdefault(line.kind, []).append(1 / len(line.options) if line.options else 0.0)
    return {kind: sum(values) / len(values) for kind, values in shares.items()}


def _file_hash(path: Path) -> str | None:
    """Return a hash of a file; None if it is missing, which is reported when it is read."""
    try:
        return sampled_hash(path)
    except (OSError, ValueError):  # a name that no file can have is a value error
        return None

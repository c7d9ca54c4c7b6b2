"""Run an unmodified ``model.generate(...)`` or ``model(...)`` on reduced images and videos."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.config import of_tower, reads_question
from tokenred.errors import CapabilityError, ConfigError, nearest, quoted
from tokenred.models.adapter import ModelAdapter, adapter_for
from tokenred.models.inside.llm import inside_llm
from tokenred.models.question import Questions, with_question
from tokenred.models.splice import Clip, count_newlines, newline_of
from tokenred.pipeline import load_pipeline
from tokenred.types import Realised, ReducedTokens, VisualTokens

POSITIONS = ("contiguous", "original")
MEDIA = ("image", "video")
_attached: WeakSet[Any] = WeakSet()
_claiming = Lock()


@runtime_checkable
class ReducingPipeline(Protocol):
    """The part of a pipeline that models need; ``inside_llm`` holds the stages inside the LLM."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that its strategies read."""
        ...

    def run(
        self,
        tokens: VisualTokens,
        *,
        generator: torch.Generator | None = None,
        trace: bool = False,
    ) -> ReducedTokens:
        """Reduce one clip."""
        ...


@runtime_checkable
class Observer(Protocol):
    """Observes the parts of a call; a stopwatch is one."""

    def encoding(self) -> AbstractContextManager[Any]:
        """Return a context for the run of the vision tower."""
        ...

    def reducing(self) -> AbstractContextManager[Any]:
        """Return a context for the reduction of a clip."""
        ...


def reduce_clip(
    clip: Clip,
    pipeline: ReducingPipeline,
    *,
    newline: Float[Tensor, "dim"] | None,
    generator: torch.Generator | None = None,
    trace: bool = False,
) -> ReducedTokens:
    """Run a pipeline on one encoded clip and count the newline tokens.

    Parameters
    ----------
    newline : the model's newline token, for pipelines that put it in themselves
    """
    trace = trace or clip.deepstack_features is not None
    tokens = replace(clip.tokens, newline=newline_of(clip.layout, newline))
    reduced = pipeline.run(tokens, generator=generator, trace=trace)
    newlines = count_newlines(reduced, clip.layout)
    return replace(reduced, realised=replace(reduced.realised, newline_tokens=newlines))


@dataclass(eq=False)
class Attachment:
    """A pipeline attached to a model, with the results of the latest call with media.

    Attributes
    ----------
    clips : what was encoded: images first, then videos, each in reading order; some families see an
        image as two clips, an overview and its details
    reduced : what is left of each clip
    """

    adapter: ModelAdapter
    pipeline: ReducingPipeline
    media: frozenset[str] = frozenset(MEDIA)
    frame_times: Sequence[Float[Tensor, "frames"]] | None = None
    generator: torch.Generator | None = None
    trace: bool = False
    observer: Observer | None = None
    questions: Questions | None = None
    clips: list[Clip] = field(default_factory=list)
    reduced: list[ReducedTokens] = field(default_factory=list)
    _given: tuple[Sequence[Clip] | None, Sequence[ReducedTokens] | None] = (None, None)
    _inside: Any = None

    @property
    def needs(self) -> frozenset[str]:
        """Names of the cues that the pipeline reads and the vision tower has to give."""
        needs = self.pipeline.needs
        return of_tower(needs) if self.adapter.reads_questions else needs

    @property
    def realised(self) -> list[Realised]:
        """The realised reduction of every clip; newline tokens are counted apart."""
        return [each.realised for each in self.reduced]

    @property
    def tokens_saved(self) -> int:
        """Number of tokens saved in the prompts."""
        whole = sum(clip.layout.n_placeholders for clip in self.clips)
        return whole - sum(each.n_tokens + each.newline_tokens for each in self.realised)

    @property
    def layer_tokens(self) -> list[tuple[int, ...]]:
        """Visual tokens that entered each layer of the LLM, one tuple a prompt.

        Empty unless the pipeline works inside the LLM.
        """
        return [] if self._inside is None else self._inside.layer_tokens

    def layers_entered(self, clip: int = 0) -> Tensor | None:
        """Return how many layers each token of ``reduced[clip]`` entered; None: nothing says."""
        return None if self._inside is None else self._inside.layers_entered(clip)

    def encode(self, inputs: Mapping[str, Any]) -> list[Clip]:
        """Encode the images and videos of a call, unless they are encoded already.

        What comes from the question is made anew in every call.
        """
        if self._given[0] is not None:
            clips = list(self._given[0])
        else:
            with self.observer.encoding() if self.observer else nullcontext():
                clips = self.adapter.encode(inputs, self.needs, self.frame_times)
        if reads_question(self.pipeline.needs) and self._given[1] is None:
            with self.observer.reducing() if self.observer else nullcontext():
                clips = with_question(self.adapter, clips, inputs, self.questions)
        return clips

    def reduce(self, clips: Sequence[Clip]) -> list[ReducedTokens]:
        """Reduce the clips of the chosen media; keep the others whole."""
        self.clips, self.reduced = list(clips), []
        self.reduced = list(self._given[1] or map(self._reduce, clips))
        return self.reduced

    @cached_property
    def _whole(self) -> ReducingPipeline:
        return load_pipeline("vanilla")

    def _reduce(self, clip: Clip) -> ReducedTokens:
        reducer = self.pipeline if clip.layout.kind in self.media else self._whole
        generator = None if self.generator is None else self.generator.clone_state()
        with self.observer.reducing() if self.observer else nullcontext():
            return reduce_clip(
                clip,
                reducer,
                newline=self.adapter.newline(),
                generator=generator,
                trace=self.trace,
            )


@contextmanager
def attach(
    model: Any,
    pipeline: ReducingPipeline | str | Path | Mapping[str, Any],
    *,
    positions: str | None = None,
    media: str | Collection[str] = MEDIA,
    adapter: ModelAdapter | None = None,
    frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    generator: torch.Generator | None = None,
    trace: bool = False,
    observer: Observer | None = None,
    questions: Questions | None = None,
) -> Iterator[Attachment]:
    """Reduce every image and video that the model reads while the context lasts.

    Calls of ``model.generate`` and ``model`` that carry any are encoded and reduced first; the
    model then runs on the short embedded prompt. ``generate`` still returns the original prompt in
    front of the new tokens. Calls without pass through untouched, and everything is as before after
    the ``with``, exceptions included. Calls of several threads take turns, so that each is answered
    as it would be alone; ``realised`` and ``reduced`` are of the latest call of any.

    Parameters
    ----------
    model : a model that ``adapter_for`` knows
    pipeline : a pipeline, the name of a preset, the path of a YAML file, or its mapping
    positions : ``contiguous`` renumbers the short prompt; ``original`` keeps for every token the
        position that it has in the unreduced prompt; by default what suits the family
    media : what to reduce, ``image``, ``video`` or both; the rest is read whole
    adapter : for a model family of your own
    frame_times : seconds of the frames, one tensor a video of the call, for strategies that read
        them; by default what the inputs say, else one frame a second
    generator : random strategies draw from its state, the same for every clip
    trace : whether the reduced clips keep their linear map
    observer : stands around encoding and reducing, such as a stopwatch
    questions : token ids of the question in every prompt of the call, for pipelines that read it;
        by default all text of the prompt but special tokens, words of a chat template included

    Yields
    ------
    Attachment
        With ``realised`` and ``reduced`` of the latest call.

    Raises
    ------
    CapabilityError
        If the model is not supported, is attached already, or cannot give a cue.
    ConfigError
        If the pipeline, ``positions`` or ``media`` is not valid.
    """
    media = (media,) if isinstance(media, str) else media
    for value in media:
        if value not in MEDIA:
            raise ConfigError(f"unknown media {quoted(value)}{nearest(str(value), MEDIA)}")
    attachment = Attachment(
        adapter or adapter_for(model),
        _resolve(pipeline),
        frozenset(media),
        frame_times,
        generator,
        trace,
        observer,
        questions,
    )
    with attached(attachment, positions):
        yield attachment


@contextmanager
def attached(attachment: Attachment, positions: str | None = None) -> Iterator[None]:
    """Run calls of the model through an attachment while the context lasts."""
    if positions is not None and positions not in POSITIONS:
        raise ConfigError(f"unknown positions {quoted(positions)}{nearest(positions, POSITIONS)}")
    adapter = attachment.adapter
    with _claimed(adapter.model):
        adapter.check(attachment.needs)
        within = getattr(attachment.pipeline, "inside_llm", None)
        if within and not adapter.reduces_inside_llm:
            raise CapabilityError(
                f"stages inside the LLM cannot run on {type(adapter.model).__name__}; use the "
                "model's class in transformers"
            )
        with inside_llm(adapter.text_model, within) if within else nullcontext() as inside:
            attachment._inside = inside
            with adapter.reduced_calls(attachment, positions or adapter.default_positions, inside):
                yield


@contextmanager
def _claimed(model: Any) -> Iterator[None]:
    """Keep a model for one attachment: no other thread's, and no copy takes it along."""
    with _claiming:
        if model in _attached:
            raise CapabilityError("this model is attached already; leave that `with` block first")
        _attached.add(model)
    parts = list(model.modules()) if hasattr(model, "modules") else [model]
    try:
        for part in parts:
            vars(part)["__getstate__"] = _refuse_copy
        yield
    finally:
        for part in parts:
            vars(part).pop("__getstate__", None)
        _attached.discard(model)


def _refuse_copy() -> Any:
    """Stand for ``__getstate__``, which copying, pickling and ``torch.save`` ask for."""
    raise CapabilityError(
        "an attached model and its parts cannot be copied or saved; leave the `with` block first"
    )


def _resolve(pipeline: Any) -> ReducingPipeline:
    if isinstance(pipeline, str | Path | Mapping):
        return load_pipeline(pipeline)
    if not isinstance(pipeline, ReducingPipeline):
        raise ConfigError(
            "a pipeline, the name of a preset, a path or a mapping is needed, got "
            f"{quoted(pipeline)}"
        )
    return pipeline

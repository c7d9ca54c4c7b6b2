"""Run an unmodified ``model.generate(...)`` or ``model(...)`` on reduced images and videos."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakSet

from torch import Tensor

from tokenred.errors import CapabilityError, ConfigError, nearest
from tokenred.models.adapter import ModelAdapter, ReducingPipeline, adapter_for, reduce_clip
from tokenred.models.inside.llm import inside_llm
from tokenred.models.splice import Clip
from tokenred.pipeline import load_pipeline
from tokenred.types import Realised, ReducedTokens

POSITIONS = ("contiguous", "original")
MEDIA = ("image", "video")
_attached: WeakSet[Any] = WeakSet()


@dataclass
class Session:
    """What happened in the latest call that carried an image or a video.

    Attributes
    ----------
    clips : what was encoded: images first, then videos, each in reading order; some families see an
        image as two clips, an overview and its details
    reduced : what is left of each clip
    layer_tokens : for every prompt, the visual tokens that entered each layer of the LLM; empty
        unless the pipeline works inside the LLM
    """

    clips: list[Clip] = field(default_factory=list)
    reduced: list[ReducedTokens] = field(default_factory=list)
    _inside: Any = None

    @property
    def realised(self) -> list[Realised]:
        """What the pipeline really did; newline tokens are counted apart."""
        return [each.realised for each in self.reduced]

    @property
    def layer_tokens(self) -> list[tuple[int, ...]]:
        """Visual tokens that entered each layer, one tuple a prompt."""
        return [] if self._inside is None else self._inside.layer_tokens

    def layers_entered(self, clip: int = 0) -> Tensor | None:
        """Return how many layers each token of ``reduced[clip]`` entered; None: nothing says."""
        return None if self._inside is None else self._inside.layers_entered(clip)


@contextmanager
def attach(
    model: Any,
    pipeline: ReducingPipeline | str | Path | Mapping[str, Any],
    *,
    positions: str | None = None,
    media: str | Collection[str] = MEDIA,
    adapter: ModelAdapter | None = None,
) -> Iterator[Session]:
    """Reduce every image and video that the model reads while the context lasts.

    Calls of ``model.generate`` and ``model`` that carry any are encoded and reduced first; the
    model then runs on the short embedded prompt. ``generate`` still returns the original prompt in
    front of the new tokens. Calls without pass through untouched, and everything is as before after
    the ``with``, exceptions included.

    Parameters
    ----------
    model : a model that ``adapter_for`` knows
    pipeline : a pipeline, the name of a preset, the path of a YAML file, or its mapping
    positions : ``contiguous`` renumbers the short prompt; ``original`` keeps for every token the
        position that it has in the unreduced prompt; by default what suits the family
    media : what to reduce, ``image``, ``video`` or both; the rest is read whole
    adapter : for a model family of your own

    Yields
    ------
    Session
        With ``realised`` and ``reduced`` of the latest call.

    Raises
    ------
    CapabilityError
        If the model is not supported, is attached already, or cannot give a cue.
    ConfigError
        If the pipeline, ``positions`` or ``media`` is not valid.
    """
    media = (media,) if isinstance(media, str) else media
    for name, values, known in (("positions", [positions], POSITIONS), ("media", media, MEDIA)):
        for value in values:
            if value is not None and value not in known:
                raise ConfigError(f"unknown {name} {value!r}{nearest(str(value), known)}")
    if model in _attached:
        raise CapabilityError("this model is attached already; leave that `with` block first")
    adapter = adapter or adapter_for(model)
    reducer = _resolve(pipeline)
    adapter.check(reducer.needs)
    within = getattr(reducer, "inside_llm", None)
    if within and not getattr(adapter, "inside_llm_supported", True):
        raise CapabilityError(
            f"stages inside the LLM cannot run on {type(model).__name__}; use the model's class in "
            "transformers"
        )
    _attached.add(model)
    try:
        with inside_llm(adapter.text_model, within) if within else nullcontext() as inside:
            session = Session(_inside=inside)
            reduce = _Reduce(adapter, reducer, frozenset(media), session)
            with adapter.reduced_calls(reduce, positions or adapter.default_positions, inside):
                yield session
    finally:
        _attached.discard(model)


class _Reduce:
    """The pipeline at work on the clips of one call."""

    def __init__(
        self,
        adapter: ModelAdapter,
        pipeline: ReducingPipeline,
        media: frozenset[str],
        session: Session,
    ) -> None:
        self.adapter, self.pipeline, self.media, self.session = adapter, pipeline, media, session
        self.needs = pipeline.needs
        self.whole = load_pipeline("vanilla")

    def __call__(self, clips: Sequence[Clip]) -> list[ReducedTokens]:
        """Reduce the clips of the media asked for; read the others whole."""
        reduced = [
            reduce_clip(
                self.adapter, clip, self.pipeline if clip.layout.kind in self.media else self.whole
            )
            for clip in clips
        ]
        self.session.clips, self.session.reduced = list(clips), reduced
        return reduced


def _resolve(pipeline: Any) -> ReducingPipeline:
    if isinstance(pipeline, str | Path | Mapping):
        return load_pipeline(pipeline)
    if not isinstance(pipeline, ReducingPipeline):
        raise ConfigError(
            f"a pipeline, the name of a preset, a path or a mapping is needed, got {pipeline!r}"
        )
    return pipeline

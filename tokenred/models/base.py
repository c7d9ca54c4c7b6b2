"""What a model adapter is, and which one serves a given model."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.models.llava_onevision import LlavaOnevisionAdapter
from tokenred.models.splice import Spliced
from tokenred.types import ReducedTokens, VisualTokens

MINIMUM_TRANSFORMERS = "5.10"


@runtime_checkable
class ReducingPipeline(Protocol):
    """The part of a pipeline that models need."""

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
        """Reduce one video."""
        ...


@runtime_checkable
class ModelAdapter(Protocol):
    """The facts of one model family. Everything that families share lives outside of it.

    Attributes
    ----------
    model_class : name of the transformers class that it serves, subclasses included
    video_inputs : names of the model's arguments that describe videos; the first holds the pixels,
        and all are handed to ``encode`` by name
    """

    model_class: ClassVar[str]
    video_inputs: ClassVar[tuple[str, ...]]
    model: Any

    def check(self, needs: Collection[str]) -> None:
        """Raise a ``CapabilityError`` for a cue that the model cannot give."""
        ...

    def encode(
        self, pixel_values_videos: Tensor, needs: Collection[str] = frozenset()
    ) -> list[VisualTokens]:
        """Encode videos up to where the LLM would take over, with the cues asked for."""
        ...

    def newline_tokens(self, reduced: ReducedTokens) -> int:
        """Return how many newline tokens ``splice`` adds to this video."""
        ...

    def splice(
        self,
        input_ids: Int[Tensor, "rows full"],
        attention_mask: Int[Tensor, "rows full"] | None,
        reduced: Sequence[ReducedTokens],
        *,
        positions: str = "contiguous",
    ) -> Spliced:
        """Embed the prompts with the reduced videos in the place of their placeholders."""
        ...

    def answer_logits(
        self, reduced: ReducedTokens, prompts: Sequence[Tensor]
    ) -> Float[Tensor, "prompts vocabulary"]:
        """Return float32 next-token logits of several prompts about one video."""
        ...


ADAPTERS: tuple[type[ModelAdapter], ...] = (LlavaOnevisionAdapter,)


def adapter_for(model: Any) -> ModelAdapter:
    """Return the adapter of a transformers model.

    Raises
    ------
    CapabilityError
        If no adapter serves the model's class, or transformers is too old.
    """
    names = {cls.__name__ for cls in type(model).__mro__}
    for adapter in ADAPTERS:
        if adapter.model_class in names:
            _check_transformers()
            return adapter(model)  # type: ignore[call-arg]
    supported = ", ".join(adapter.model_class for adapter in ADAPTERS)
    raise CapabilityError(f"no adapter for {type(model).__name__}; supported: {supported}")


def reduce_tokens(
    adapter: ModelAdapter,
    tokens: VisualTokens,
    pipeline: ReducingPipeline,
    *,
    generator: torch.Generator | None = None,
    trace: bool = False,
) -> ReducedTokens:
    """Run a pipeline on one encoded video and count the newline tokens that the model adds."""
    reduced = pipeline.run(tokens, generator=generator, trace=trace)
    newlines = adapter.newline_tokens(reduced)
    return replace(reduced, realised=replace(reduced.realised, newline_tokens=newlines))


def reduce_video(
    adapter: ModelAdapter,
    pixel_values_videos: Tensor,
    pipeline: ReducingPipeline,
    *,
    generator: torch.Generator | None = None,
    trace: bool = False,
) -> list[ReducedTokens]:
    """Encode videos and reduce each; ``reduce_tokens`` serves where one encoding is used twice."""
    return [
        reduce_tokens(adapter, tokens, pipeline, generator=generator, trace=trace)
        for tokens in adapter.encode(pixel_values_videos, pipeline.needs)
    ]


def _check_transformers() -> None:
    from packaging.version import Version

    installed = version("transformers")
    if Version(installed) < Version(MINIMUM_TRANSFORMERS):
        raise CapabilityError(
            f"tokenred needs transformers {MINIMUM_TRANSFORMERS} or newer, "
            f"but {installed} is installed"
        )

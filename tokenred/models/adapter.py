"""What a model adapter is, and which one serves a given model."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.models.reduced_calls import Inside, Reduce
from tokenred.models.splice import Clip, ClipLayout, VisualPart, count_newlines
from tokenred.registry import registry
from tokenred.types import ReducedTokens, VisualTokens

MINIMUM_TRANSFORMERS, TRANSFORMERS_BELOW = "5.10", "6"


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
        """Reduce one clip."""
        ...


@runtime_checkable
class ModelAdapter(Protocol):
    """The facts of one model family. Everything that families share lives outside of it.

    ``tokenred.models.families.base.FamilyAdapter`` is the base for families of transformers.

    Attributes
    ----------
    model_class : name of the class that it serves, subclasses included
    default_positions : position policy that suits the family, ``contiguous`` or ``original``
    """

    model_class: ClassVar[str]
    default_positions: ClassVar[str]
    model: Any

    @property
    def text_model(self) -> torch.nn.Module:
        """The stack of decoder layers."""
        ...

    def check(self, needs: Collection[str]) -> None:
        """Raise a ``CapabilityError`` for a cue that the model cannot give."""
        ...

    def encode(
        self,
        inputs: Mapping[str, Any],
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    ) -> list[Clip]:
        """Encode the images and videos among the inputs of a call, with the cues asked for.

        Images come first, then videos, each in reading order. ``frame_times`` are the seconds of
        the frames, one tensor a video.
        """
        ...

    def part(
        self,
        layout: ClipLayout,
        reduced: ReducedTokens,
        deep: Float[Tensor, "levels tokens dim"] | None = None,
    ) -> VisualPart:
        """Return what a reduced clip puts into the sequence, newline tokens included."""
        ...

    def reduced_calls(
        self, reduce: Reduce, positions: str, inside: Inside
    ) -> AbstractContextManager[None]:
        """Let calls of the model run on reduced clips while the context lasts."""
        ...


def adapter_for(model: Any) -> Any:
    """Return the adapter of a model: the one registered for the nearest class of its ancestry.

    Raises
    ------
    CapabilityError
        If no adapter serves the model's class, or transformers is outside the supported range.
    """
    known = registry().adapters()
    for cls in type(model).__mro__:
        if cls.__name__ in known:
            module, name = known[cls.__name__][0].split(":")
            if not cls.__module__.startswith("llava."):  # that package brings its own transformers
                check_transformers()
            return getattr(import_module(module), name)(model)
    raise CapabilityError(f"no adapter for {type(model).__name__}; supported: {', '.join(known)}")


def reduce_clip(
    adapter: ModelAdapter,
    clip: Clip,
    pipeline: ReducingPipeline,
    *,
    generator: torch.Generator | None = None,
    trace: bool = False,
) -> ReducedTokens:
    """Run a pipeline on one encoded clip and count the newline tokens that the model adds."""
    trace = trace or clip.deep is not None
    reduced = pipeline.run(clip.tokens, generator=generator, trace=trace)
    newlines = count_newlines(reduced, clip.layout)
    return replace(reduced, realised=replace(reduced.realised, newline_tokens=newlines))


def check_transformers() -> None:
    """Raise a ``CapabilityError`` if transformers is outside the supported range."""
    from packaging.version import Version

    installed = version("transformers")
    if not Version(MINIMUM_TRANSFORMERS) <= Version(installed) < Version(TRANSFORMERS_BELOW):
        raise CapabilityError(
            f"tokenred needs transformers {MINIMUM_TRANSFORMERS} or newer and below "
            f"{TRANSFORMERS_BELOW}, but {installed} is installed"
        )

"""The interface of model adapters, and the choice of one for a model."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.models.cues import Cue, Tower
from tokenred.models.inputs.preparing import Prepared
from tokenred.models.prompt_scores import Continuations, PromptScores
from tokenred.models.reduced_calls import Inside, Reduction
from tokenred.models.splice import Clip, Spliced, VisualPart, pack
from tokenred.plugins import registry
from tokenred.types import ReducedTokens

MINIMUM_TRANSFORMERS, TRANSFORMERS_BELOW = "5.10", "6"


class ModelAdapter(ABC):
    """What tokenred needs to know about one model family.

    ``tokenred.models.families.base.FamilyAdapter`` is the base for families of transformers, and
    leaves little to say.

    Parameters
    ----------
    model : any dtype and device

    Attributes
    ----------
    model_class : name of the class that it serves, subclasses included
    visual_inputs : kind of clip -> the arguments of a call that describe it, pixels first
    default_positions : position policy that suits the family, ``contiguous`` or ``original``
    normalisation : what ``prepare`` does to pixels unless its settings say otherwise
    reads_questions : whether prompts come as ``input_ids``, so that their words are known
    reduces_inside_llm : whether stages inside the LLM can run
    own_transformers : whether the models come from a package that brings a transformers of its own
    checkpoint_types : ``model_type`` of checkpoints that ``recipe`` reads and transformers cannot
    """

    model_class: ClassVar[str]
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]]
    default_positions: ClassVar[str] = "contiguous"
    normalisation: ClassVar[Mapping[str, Any]] = {}
    reads_questions: ClassVar[bool] = False
    reduces_inside_llm: ClassVar[bool] = True
    own_transformers: ClassVar[bool] = False
    checkpoint_types: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config

    @classmethod
    def find_class(cls, name: str) -> Any:
        """Return the model class of this name; None if no installed package has it."""
        import transformers

        return getattr(transformers, name, None)

    @classmethod
    def recipe(cls, checkpoint: Any, tokenizer: Any) -> Any:
        """Return how to load a checkpoint of ``checkpoint_types``, as a ``Recipe``.

        Parameters
        ----------
        checkpoint, tokenizer : see ``tokenred.models.loading.recipe.recipe_for``
        """
        raise CapabilityError(f"{cls.__name__} converts no checkpoints")

    @property
    @abstractmethod
    def text_model(self) -> Any:
        """The stack of decoder layers."""

    @property
    @abstractmethod
    def vision(self) -> Tower:
        """The vision tower, and what decides which cues it can give."""

    @property
    def token_ids(self) -> dict[str, int]:
        """Placeholder of every kind of clip."""
        return {kind: getattr(self.config, f"{kind}_token_id") for kind in self.visual_inputs}

    def cues(self, needs: Collection[str]) -> tuple[Cue, ...]:
        """Resolve cue names on the tower's layers."""
        return self.vision.cues(needs)

    def check(self, needs: Collection[str]) -> None:
        """Raise at once if this model cannot give a cue.

        Raises
        ------
        CapabilityError
            If a cue is unknown, or the tower cannot give it.
        """
        self.cues(needs)

    def prepare(
        self,
        videos: Sequence[UInt8[Tensor, "frames 3 height width"]] = (),
        images: Sequence[UInt8[Tensor, "3 height width"]] = (),
        *,
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Turn pixels into the model's inputs, as its own processor would.

        Parameters
        ----------
        frame_times : seconds of the frames, one tensor a video, for models that read them
        settings : of the checkpoint's ``preprocessor_config.json``; default: the family's own

        Raises
        ------
        CapabilityError
            If the family leaves this to its processor; ``attach`` does not need it.
        """
        raise CapabilityError(f"{type(self).__name__} cannot prepare pixels")

    @abstractmethod
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

    def newline(self) -> Float[Tensor, "dim"] | None:
        """Return the newline token, if the family has one."""
        return None

    def part(self, clip: Clip, reduced: ReducedTokens) -> VisualPart:
        """Return a reduced clip as it is spliced into the prompt, newline tokens included."""
        deepstack_features = clip.deepstack_features
        if deepstack_features is not None:
            assert reduced.trace is not None
            deepstack_features = _mapped(reduced.trace, deepstack_features)
        return pack(reduced, clip.layout, self.newline(), deepstack_features)

    def splice(
        self,
        inputs: Mapping[str, Any],
        clips: Sequence[Clip],
        reduced: Sequence[ReducedTokens],
        *,
        positions: str = "contiguous",
    ) -> Spliced:
        """Embed the prompts with the reduced clips in the place of their placeholders.

        Parameters
        ----------
        inputs : of the call, ``input_ids`` and perhaps ``attention_mask`` among them
        clips, reduced : what ``encode`` gave, and what is left of each
        positions : ``contiguous`` renumbers, ``original`` keeps the unreduced positions

        Raises
        ------
        InputError
            If the placeholders in the prompts do not fit the clips.
        CapabilityError
            If the family leaves this to its model.
        """
        raise CapabilityError(f"{type(self).__name__} leaves splicing to its model")

    @abstractmethod
    def reduced_calls(
        self, reduction: Reduction, positions: str, inside: Inside
    ) -> AbstractContextManager[None]:
        """Let calls of the model run on reduced clips while the context lasts."""

    def prompt_scores(
        self,
        clip: Clip,
        reduced: ReducedTokens,
        prompts: Sequence[Tensor],
        *,
        inside: Inside = None,
        continuations: Continuations | None = None,
    ) -> PromptScores:
        """Return next-token scores of several prompts about one clip.

        Parameters
        ----------
        clip, reduced : as ``encode`` gave it, and what is left of it
        prompts : token ids, each with the placeholders of the unreduced clip
        inside : what works inside the LLM
        continuations : texts after each prompt of which the log-likelihood is asked for

        Raises
        ------
        CapabilityError
            If the family cannot be asked without a call of the model.
        """
        raise CapabilityError(f"{type(self).__name__} scores no prompts")

    def answer_logits(
        self,
        clip: Clip,
        reduced: ReducedTokens,
        prompts: Sequence[Tensor],
        *,
        inside: Inside = None,
    ) -> Float[Tensor, "prompts vocabulary"]:
        """Return float32 next-token logits of several prompts about one clip."""
        return self.prompt_scores(clip, reduced, prompts, inside=inside).logits


def unwrapped(model: Any) -> Any:
    """Return the model inside wrappers of PEFT and of data-parallel training.

    Raises
    ------
    CapabilityError
        If the wrapper would go round what is attached.
    """
    if hasattr(model, "_orig_mod"):
        raise CapabilityError(
            "a compiled model runs what was compiled, reduced or not; attach the model itself "
            "(`_orig_mod`), and compile it inside the `with` block if need be"
        )
    if hasattr(model, "get_base_model"):
        return unwrapped(model.get_base_model())
    if type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
        if len(getattr(model, "device_ids", None) or ()) > 1:
            raise CapabilityError(
                "DataParallel copies its model to every GPU; attach one model a process instead"
            )
        return unwrapped(model.module)
    return model


def adapter_for(model: Any) -> ModelAdapter:
    """Return the adapter of a model: the one registered for the nearest class of its ancestry.

    The model may be wrapped by PEFT.

    Raises
    ------
    CapabilityError
        If no adapter serves the model's class, or transformers is outside the supported range.
    """
    model = unwrapped(model)
    known = registry().adapters()
    for cls in type(model).__mro__:
        if cls.__name__ in known:
            adapter = adapter_class(cls.__name__)
            if not adapter.own_transformers:
                check_transformers()
            return adapter(model)
    raise CapabilityError(f"no adapter for {type(model).__name__}; supported: {', '.join(known)}")


def adapter_class(model_class: str) -> type[ModelAdapter]:
    """Return the adapter that is registered for the name of a model class."""
    module, name = registry().adapters()[model_class][0].split(":")
    return getattr(import_module(module), name)


def check_transformers() -> None:
    """Raise a ``CapabilityError`` if transformers is outside the supported range."""
    import transformers
    from packaging.version import Version

    installed = transformers.__version__  # not from its metadata, which is read anew each time
    if not Version(MINIMUM_TRANSFORMERS) <= Version(installed) < Version(TRANSFORMERS_BELOW):
        raise CapabilityError(
            f"tokenred needs transformers {MINIMUM_TRANSFORMERS} or newer and below "
            f"{TRANSFORMERS_BELOW}, but {installed} is installed"
        )


def _mapped(
    trace: Tensor, values: Float[Tensor, "levels tokens dim"]
) -> Float[Tensor, "levels kept dim"]:
    """Apply the linear map of a reduction, level by level."""
    exact = torch.promote_types(values.dtype, torch.float32)
    trace = trace.to(exact)
    return torch.stack([(trace @ level.to(exact)).to(values.dtype) for level in values])

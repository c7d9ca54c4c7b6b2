"""The original ``llava`` package (LLaVA-NeXT code), which is neither imported nor required.

That package encodes, pools, adds newlines and splices in one method. Three public methods of the
model are wrapped, and while a call lasts they hand over the tokens that are left of every video.
The splicing, padding, masks and labels stay the package's own.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.errors import CapabilityError, InputError
from tokenred.kernels.pooling import PoolMode, pooled_grid
from tokenred.models.adapter import ModelAdapter
from tokenred.models.attention import Captured, attention_layers
from tokenred.models.cues import CapturedCues, Cue, Tower, capture_cues
from tokenred.models.cues.names import PIXELS, POOLER, POOLER_ATTENTION
from tokenred.models.families.base import times_of
from tokenred.models.reduced_calls import Inside, Reduction
from tokenred.models.splice import Clip, ClipLayout, Newlines
from tokenred.types import VisualTokens
from tokenred_llava.layouts import NEWLINES

STRIDE = 2
INSIDE_LLM = (
    "stages inside the LLM cannot run on models of the llava package; use the class that "
    "transformers or tokenred-llava has for this model"
)
_WRAPPED = ("prepare_inputs_labels_for_multimodal", "encode_images", "get_2dPool")
_MISSING = object()


class LlavaPackageAdapter(ModelAdapter):
    """Reduce videos inside the models of the original ``llava`` package.

    Serves ``LlavaQwenForCausalLM``, ``LlavaLlamaForCausalLM`` and their siblings, which all inherit
    from the package's ``LlavaMetaForCausalLM``. Images are read whole.

    Parameters
    ----------
    model : a model of the package, its vision tower loaded, any dtype and device

    Raises
    ------
    CapabilityError
        If the model lacks a method that is wrapped, as models of older packages do.

    Source
    ------
    LLaVA-NeXT, ``llava/model/llava_arch.py`` (written anew).
    """

    model_class: ClassVar[str] = "LlavaMetaForCausalLM"
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {"video": ("images", "modalities")}
    reduces_inside_llm: ClassVar[bool] = False
    own_transformers: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:
        missing = [name for name in _WRAPPED if not callable(getattr(model, name, None))]
        if missing:
            raise CapabilityError(
                f"{type(model).__name__} has no {missing[0]}: it comes from another package than "
                "LLaVA-NeXT, or from an older version"
            )
        super().__init__(model)
        self.tower = model.get_vision_tower()
        side = self.tower.num_patches_per_side
        self.grid = (side, side)

    @property
    def text_model(self) -> Any:
        """The stack of decoder layers."""
        return self.model.get_model()

    @property
    def vision(self) -> Tower:
        """The tower; a class token in front of the patches is dropped by the package."""
        names = {name.rpartition(".")[2] for name, _ in self.tower.named_parameters()}
        class_token = not names.isdisjoint({"class_embedding", "class_token", "cls_token"})
        # CLIP's wrapper reads the state that it is told; SigLIP's cuts what comes behind its own.
        return Tower(
            self.tower,
            reader=self.model.get_model().mm_projector,
            features=getattr(self.tower, "select_layer", -1) if class_token else -1,
            class_token=class_token,
            listen=_projections,
        )

    @property
    def native_pool(self) -> PoolMode:
        """How the model pools videos."""
        mode = getattr(self.config, "mm_spatial_pool_mode", None)
        if mode not in ("bilinear", "average", "max"):
            raise CapabilityError(f"mm_spatial_pool_mode {mode!r} of this model is not supported")
        return mode

    @property
    def newlines(self) -> Newlines:
        """Where the model puts newline tokens between the tokens of a video."""
        position = getattr(self.config, "mm_newline_position", "one_token")
        if position not in NEWLINES:
            raise CapabilityError(
                f"mm_newline_position {position!r} of this model is not supported"
            )
        merge_type = getattr(self.config, "mm_patch_merge_type", "flat")
        if merge_type == "flat" or (position == "one_token" and "unpad" not in merge_type):
            return "none"
        return NEWLINES[position]

    def check(self, needs: Collection[str]) -> None:
        """Refuse, before any work, what this model cannot give.

        Raises
        ------
        CapabilityError
            If a cue cannot be given, or the model's config asks for a pooling, for newlines or for
            a second frame rate in a way that is not supported.
        """
        self.cues(needs)
        self.layout(1)
        if getattr(self.config, "add_faster_video", False):
            raise CapabilityError("models with add_faster_video are not supported")

    def cues(self, needs: Collection[str]) -> tuple[Cue, ...]:
        """Resolve the cues on the tower's layers."""
        if not needs:
            return ()
        for name in needs:
            if name in (POOLER, POOLER_ATTENTION):
                raise CapabilityError(
                    f"cue {name!r} needs a pooling head, which the llava package takes away"
                )
        cues = super().cues(needs)
        layers = attention_layers(self.tower)
        for cue in cues:
            if cue.kind == PIXELS:
                raise CapabilityError(
                    f"cue {cue.name!r} cannot be given: the llava package scales pixels by itself"
                )
            if cue.layer is not None and not all(
                hasattr(layers[cue.layer], name) for name in ("q_proj", "k_proj")
            ):
                raise CapabilityError(
                    f"cue {cue.name!r} cannot be captured: the layers of "
                    f"{type(self.tower).__name__} have no q_proj and k_proj"
                )
        return cues

    def layout(self, frames: int) -> ClipLayout:
        """Return how an unreduced video stands in the prompt."""
        grid = pooled_grid(self.grid, self.native_pool, STRIDE)
        return ClipLayout("video", frames, grid, self.newlines)

    def encode(
        self,
        inputs: Mapping[str, Any],
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    ) -> list[Clip]:
        """Encode the videos among the inputs of a call up to and including the projector.

        Parameters
        ----------
        inputs : with ``images`` and ``modalities`` as the package's ``generate`` takes them
        """
        call = _open(inputs["images"], inputs.get("modalities", ("image",)))
        if call is None:
            return []
        pictures = [each if each.ndim == 4 else each[None] for each in inputs["images"]]
        cues = self.cues(needs)
        with call.watching(self.vision, cues):
            call.encoded.append(self.model.encode_images(torch.cat(pictures)))
        return self.clips(call, frame_times)

    def clips(
        self,
        call: "_Call",
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    ) -> list[Clip]:
        """Cut what the encoder gave in one call into its videos, not pooled.

        Raises
        ------
        InputError
            If the vision tower read another grid than the model's config says.
        """
        cells = self.grid[0] * self.grid[1]
        projected = torch.cat(call.encoded)
        if projected.shape[1] != cells:
            raise InputError(
                f"the vision tower gave {projected.shape[1]} tokens a frame, but this model reads "
                f"{self.grid[0]}x{self.grid[1]}"
            )
        assert call.captured is not None
        found = {name: value.split(call.n_frames) for name, value in call.captured.values().items()}
        videos = [index for index, is_video in enumerate(call.is_video) if is_video]
        pieces = projected.split(call.n_frames)
        return [
            Clip(
                VisualTokens.of(
                    pieces[index],
                    self.grid,
                    frame_times=times_of(frame_times, place, len(videos), projected.device),
                    cues={name: values[index] for name, values in found.items()},
                    native_pool=self.native_pool,
                ),
                self.layout(call.n_frames[index]),
            )
            for place, index in enumerate(videos)
        ]

    def newline(self) -> Float[Tensor, "dim"] | None:
        """Return the newline token, if the model's config wants any."""
        return None if self.newlines == "none" else self.model.get_model().image_newline

    @contextmanager
    def reduced_calls(
        self, reduction: Reduction, positions: str = "contiguous", inside: Inside = None
    ) -> Iterator[None]:
        """Let ``generate`` and calls of the model run on reduced videos while the context lasts.

        Raises
        ------
        CapabilityError
            If ``positions`` is not ``contiguous``, or the pipeline works inside the LLM.
        """
        if inside is not None:
            raise CapabilityError(INSIDE_LLM)
        if positions != "contiguous":
            raise CapabilityError(
                f"positions {positions!r} cannot be had on models of the llava package, whose LLM "
                "numbers the short prompt by itself; use 'contiguous'"
            )
        calls = _Calls(self, reduction)
        own = {name: vars(self.model).get(name, _MISSING) for name in _WRAPPED}
        try:
            for name in _WRAPPED:
                original = getattr(self.model, name)
                setattr(self.model, name, functools.wraps(original)(calls.wrap(name, original)))
            yield
        finally:
            for name, value in own.items():
                _restore(self.model, name, value)


@dataclass
class _Call:
    """One call with videos: what it holds, and what the tower showed so far.

    Attributes
    ----------
    n_frames, is_video : of every image and video of the call; an image may have several views
    encoded : projected features; forks of the package encode a call in several parts
    captured : what the tower and its projector show
    left : the videos that the package has not asked for yet, as the LLM will read them
    """

    n_frames: list[int]
    is_video: list[bool]
    encoded: list[Tensor] = field(default_factory=list)
    captured: CapturedCues | None = None
    left: Iterator[Tensor] | None = None

    @contextmanager
    def watching(self, tower: Tower, cues: Sequence[Cue]) -> Iterator[None]:
        """Record the cues of this call while the context lasts."""
        with capture_cues(tower, cues) as self.captured:
            yield


class _Calls:
    """The methods that stand in for those of the model."""

    def __init__(self, adapter: LlavaPackageAdapter, reduction: Reduction) -> None:
        self.adapter = adapter
        self.reduction = reduction
        self.cues = adapter.cues(reduction.needs)
        self.call: _Call | None = None

    def wrap(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return what stands in for the method ``name``."""
        wrap = {"encode_images": self._encode, "get_2dPool": self._pool}.get(name, self._prepare)
        return wrap(original)

    def _prepare(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Know what a call holds while the package encodes and splices."""
        signature, config = inspect.signature(original), self.adapter.config
        if not {"images", "modalities"} <= set(signature.parameters):
            raise CapabilityError(
                f"{original.__name__} of this model does not take images and modalities: it comes "
                "from another version of LLaVA-NeXT than is supported"
            )

        def prepare(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs)
            given.apply_defaults()
            call = _open(given.arguments["images"], given.arguments["modalities"])
            if call is None:
                return original(*args, **kwargs)
            self.adapter.check(())
            position = vars(config).get("mm_newline_position", _MISSING)
            self.call = call
            try:
                with call.watching(self.adapter.vision, self.cues):
                    return original(*args, **kwargs)
            finally:
                self.call = None
                _restore(config, "mm_newline_position", position)

        return prepare

    def _encode(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def encode(*args: Any, **kwargs: Any) -> Any:
            encoded = original(*args, **kwargs)
            if self.call is not None:
                self.call.encoded.append(encoded)
            return encoded

        return encode

    def _pool(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Instead of a pooled video return what the LLM will read: the pipeline has pooled."""

        def pool(image_feature: Tensor, stride: int = STRIDE) -> Tensor:
            if self.call is None:
                return original(image_feature, stride)
            if stride != STRIDE:
                raise CapabilityError(f"videos pooled with stride {stride} are not supported")
            if self.call.left is None:
                clips = self.adapter.clips(self.call, self.reduction.frame_times)
                reduced = self.reduction.reduce(clips)
                self.call.left = iter(
                    [
                        self.adapter.part(clip, left).features
                        for clip, left in zip(clips, reduced, strict=True)
                    ]
                )
                # The newlines are in: from here on the package must add none.
                self.adapter.config.mm_newline_position = "no_token"
            return next(self.call.left)[None]

        return pool


def _open(images: Any, modalities: Any) -> _Call | None:
    """Return what a call holds, read as the package reads it; None if it has no video."""
    if not isinstance(images, list) and getattr(images, "ndim", 0) != 5:
        return None
    kinds = [modalities] if isinstance(modalities, str) else list(modalities)
    is_video = [index < len(kinds) and kinds[index] == "video" for index in range(len(images))]
    if not any(is_video):
        return None
    return _Call([len(each) if each.ndim == 4 else 1 for each in images], is_video)


@contextmanager
def _projections(
    modules: Mapping[torch.nn.Module, Collection[str]],
) -> Iterator[dict[torch.nn.Module, Captured]]:
    """Record attention and keys by hooks: the package's SigLIP has an attention of its own."""
    recorders = {module: _Recorder(module, kinds) for module, kinds in modules.items()}
    with ExitStack() as stack:
        for recorder in recorders.values():
            for handle in recorder.start():
                stack.callback(handle.remove)
        yield {module: recorder.captured for module, recorder in recorders.items()}


class _Recorder:
    """Hooks on the query and key projections of one attention layer."""

    def __init__(self, module: Any, kinds: Collection[str]) -> None:
        self.module = module
        self.kinds = kinds
        self.captured = Captured()
        self._query: Tensor | None = None

    def start(self) -> tuple[Any, Any]:
        """Start to listen; return the handles that end it."""
        return (
            self.module.q_proj.register_forward_hook(self._on_query),
            self.module.k_proj.register_forward_hook(self._on_key),
        )

    def _on_query(self, module: Any, args: Any, query: Tensor) -> None:
        self._query = self._by_head(query)

    def _on_key(self, module: Any, args: Any, key: Tensor) -> None:
        keys = self._by_head(key)
        assert self._query is not None
        self.captured.add(self.kinds, self._query, keys, getattr(self.module, "scale", None))
        self._query = None

    def _by_head(self, values: Float[Tensor, "frames tokens channels"]) -> Tensor:
        return values.detach().unflatten(-1, (self.module.num_heads, -1)).transpose(1, 2)


def _restore(owner: Any, name: str, value: Any) -> None:
    if value is not _MISSING:
        setattr(owner, name, value)
    elif name in vars(owner):
        delattr(owner, name)

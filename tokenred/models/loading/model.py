"""Load a model of any supported family, from the hub or a local folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tokenred.errors import CapabilityError, ConfigError, InputError, TokenredError, nearest, quoted
from tokenred.models.adapter import ModelAdapter, adapter_for, check_transformers
from tokenred.models.inputs.media import MediaInput
from tokenred.models.inputs.preparing import Prepared, tokenise
from tokenred.models.inputs.prompting import chat_prompt
from tokenred.models.loading.checkpoint import Checkpoint, cannot_load, find_checkpoint
from tokenred.models.loading.memory import count_text, free_memory, size_text
from tokenred.models.loading.recipe import Recipe, check_served, in_one_sentence, recipe_for
from tokenred.models.session import ModelSession

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16")}
_STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class LoadPlan:
    """The memory and files that a load needs; as text, one sentence.

    Attributes
    ----------
    name, revision : what is loaded, and its commit if it comes from the hub
    model_class : its class in transformers
    n_parameters : counted from the config alone
    n_bytes : memory that the weights take
    free_bytes : of the device; None if unknown
    disk_bytes : size of the weight files; None if unknown
    downloaded : whether they are on this machine
    """

    name: str
    revision: str | None
    model_class: str
    n_parameters: int
    dtype: torch.dtype
    device: torch.device
    n_bytes: int
    free_bytes: int | None
    disk_bytes: int | None
    downloaded: bool

    def __str__(self) -> str:
        free = "unknown how much is" if self.free_bytes is None else size_text(self.free_bytes)
        stored = "of unknown size" if self.disk_bytes is None else size_text(self.disk_bytes)
        return (
            f"loading {self.name} ({stored} {'on disk' if self.downloaded else 'to download'}): "
            f"{count_text(self.n_parameters)} parameters, {size_text(self.n_bytes)} in "
            f"{_dtype_name(self.dtype)} on {self.device}; {free} free"
        )

    def check(self) -> None:
        """Raise a ``TokenredError`` if the weights cannot fit."""
        places = [(self.device, self.free_bytes)]
        if self.device.type != "cpu":  # weights go through the RAM on their way
            places.append((torch.device("cpu"), free_memory(torch.device("cpu"))))
        for device, free in places:
            if free is not None and self.n_bytes > free:
                raise TokenredError(
                    f"{self.name} needs {size_text(self.n_bytes)} in {_dtype_name(self.dtype)}, "
                    f"but {size_text(free)} are free on {device}; use a narrower dtype or "
                    "another device, or force the load"
                )


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with tokenizer, adapter, settings and session.

    Attributes
    ----------
    model : in ``eval`` mode, on its device
    tokenizer : with the checkpoint's chat template, padding on the left
    adapter : of the model's family
    settings : of the checkpoint's own processors, for ``image`` and ``video``
    plan : what was announced
    """

    model: Any
    tokenizer: Any
    adapter: ModelAdapter
    settings: Mapping[str, Mapping[str, Any]]
    plan: LoadPlan

    @cached_property
    def session(self) -> ModelSession:
        """The session of the model."""
        return ModelSession(self.model, self.adapter)

    @property
    def name(self) -> str:
        """Folder or id, as it was asked for."""
        return self.plan.name

    @property
    def revision(self) -> str | None:
        """Commit of the hub; None for a local folder."""
        return self.plan.revision

    def inputs(
        self,
        question: str,
        *,
        video: UInt8[Tensor, "frames height width 3"] | None = None,
        image: UInt8[Tensor, "height width 3"] | None = None,
        frame_times: Float[Tensor, "frames"] | None = None,
    ) -> dict[str, Tensor]:
        """Return the inputs of a call with one question about one video or image.

        Parameters
        ----------
        question : text; the chat template is put around it
        video, image : one of them, as ``read_video`` gives it
        frame_times : seconds of the frames

        Raises
        ------
        ConfigError
            If both or none of ``video`` and ``image`` are given.
        InputError
            If the question or the media cannot be used.
        """
        if (video is None) == (image is None):
            raise ConfigError("give a video or an image")
        if video is not None:
            times = None if frame_times is None else (frame_times,)
            media = MediaInput("video", (video,), frame_times=times)
        else:
            assert image is not None
            media = MediaInput("image", (image[None],))
        return self.inputs_of(question, self.prepare(media))

    def prepare(self, media: MediaInput) -> Prepared:
        """Return images or videos as the model reads them, on its device.

        Raises
        ------
        InputError
            If they cannot be used.
        """
        given: dict[str, Any] = {"settings": self.settings[media.kind] or None}
        pixels = [each.permute(0, 3, 1, 2) for each in media.pixels]
        if media.kind == "image":
            given["images"] = [each[0] for each in pixels]
        else:
            given |= {"videos": pixels, "frame_times": media.frame_times}
        prepared = self.adapter.prepare(**given)
        return replace(prepared, inputs=self._on_device(prepared.inputs))

    def inputs_of(self, question: str, prepared: Prepared) -> dict[str, Tensor]:
        """Return the inputs of a call with one question about prepared media.

        Media come before the question; there may be none.

        Raises
        ------
        InputError
            If the question cannot be used, or there are images and videos.
        """
        kinds = [kind for kind, each in prepared.pieces.items() if each]
        if len(kinds) > 1:
            raise InputError("one question cannot be about images and videos at once")
        kind = kinds[0] if kinds else "image"
        pieces = list(prepared.pieces.get(kind, ()))
        prompt = chat_prompt(
            self.tokenizer,
            question,
            kind,
            self.tokenizer.convert_ids_to_tokens(self.adapter.token_ids[kind]),
            self._around([token for each in pieces for token in each]),
            n_media=len(pieces),
        )
        return self._on_device(tokenise(self.tokenizer, [prompt], prepared))

    def question_ids(self, question: str) -> Int[Tensor, "words"]:
        """Return the tokens of a question alone, without special ones and chat template."""
        ids = self.tokenizer(question.strip(), add_special_tokens=False).input_ids
        return torch.tensor(ids, dtype=torch.long)

    def _on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.plan.device) for name, value in inputs.items()}

    def _around(self, pieces: Any) -> list[tuple[str, str]]:
        """Return the tokens around the placeholders of a clip."""
        ids = [
            getattr(self.model.config, f"vision_{side}_token_id", None) for side in ("start", "end")
        ]
        if None in ids or ids[0] not in pieces:
            return []
        before, after = self.tokenizer.convert_ids_to_tokens(ids)
        return [(before, after)]


def load_model(
    name: Any,
    *,
    device: Any = "auto",
    dtype: Any = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    local_files_only: bool = False,
    attn_implementation: str = "sdpa",
    force: bool = False,
    on_plan: Callable[[LoadPlan], None] | None = None,
) -> LoadedModel:
    """Load a model, its tokenizer and its settings.

    The config is read first. It says how many parameters there will be, so the memory is known, and
    announced, before anything is loaded or any weights are downloaded. A local folder never
    contacts the hub.

    Parameters
    ----------
    name : a local folder, or the id of a model on the hub; a folder goes first
    device : such as ``cpu`` or ``cuda:1``; ``auto`` takes the first GPU if there is one
    dtype : ``float32``, ``bfloat16``, ``float16``; ``auto`` takes what the checkpoint has
    revision : branch, tag or commit on the hub
    trust_remote_code : whether code of the checkpoint may run, where transformers has none for it
    local_files_only : whether to do without the hub
    attn_implementation : such as ``sdpa`` or ``eager``
    force : whether to try what seems not to fit into the memory
    on_plan : called with the plan before the load

    Raises
    ------
    InputError
        If there is no such model, it cannot be had, or its files are damaged or incomplete.
    CapabilityError
        If no adapter serves its class, there is no such device, or transformers is outside the
        supported range.
    ConfigError
        If ``device`` or ``dtype`` is not one.
    TokenredError
        If the weights do not fit into the free memory.
    """
    name = str(name)
    place, wanted = _device(device), _dtype(dtype)
    check_transformers()
    checkpoint = find_checkpoint(
        name,
        revision=revision,
        local_files_only=local_files_only,
        with_code=trust_remote_code,
    )
    check_served(checkpoint, trust_remote_code)
    if local_files_only or checkpoint.revision is None:
        checkpoint.check_weights()
    tokenizer = _tokenizer(checkpoint, trust_remote_code)
    recipe = recipe_for(checkpoint, tokenizer)
    # A config may name a kernel to be downloaded for attention; only the caller may.
    recipe.config._attn_implementation = attn_implementation
    plan = _plan(checkpoint, recipe, place, wanted)
    if on_plan is not None:
        on_plan(plan)
    if not force:
        plan.check()
    if not local_files_only:
        checkpoint.fetch_weights()
    checkpoint.check_weights()
    try:
        with in_one_sentence(checkpoint):
            model = recipe.build(dtype=plan.dtype, attn_implementation=attn_implementation)
        model = model.to(place).eval()
    except torch.OutOfMemoryError as error:
        raise TokenredError(f"{name} does not fit on {place}: out of memory") from error
    adapter = adapter_for(model)
    _check_tokenizer(checkpoint, tokenizer, adapter)
    return LoadedModel(model, tokenizer, adapter, checkpoint.settings, plan)


def _plan(
    checkpoint: Checkpoint, recipe: Recipe, device: torch.device, dtype: torch.dtype | None
) -> LoadPlan:
    downloaded = not checkpoint.missing_weights
    if dtype is None:
        stored = checkpoint.check_weights() if downloaded else None
        said = getattr(recipe.config, "dtype", None)
        dtype = said or _STORED.get(stored or "", torch.float32)
    with in_one_sentence(checkpoint):
        n_parameters = recipe.count()
    return LoadPlan(
        name=checkpoint.name,
        revision=checkpoint.revision,
        model_class=recipe.model_class.__name__,
        n_parameters=n_parameters,
        dtype=dtype,
        device=device,
        n_bytes=n_parameters * dtype.itemsize,
        free_bytes=free_memory(device),
        disk_bytes=checkpoint.n_bytes_on_disk,
        downloaded=downloaded,
    )


def _tokenizer(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    kinds = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if not any((checkpoint.folder / file).is_file() for file in kinds):
        raise cannot_load(checkpoint.name, "it has no tokenizer")
    with in_one_sentence(checkpoint):
        tokenizer = AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if checkpoint.chat_template is not None:
        tokenizer.chat_template = checkpoint.chat_template
    return tokenizer


def _check_tokenizer(checkpoint: Checkpoint, tokenizer: Any, adapter: Any) -> None:
    """Refuse a tokenizer that does not know the model's placeholders: it is not of this model."""
    for kind, number in adapter.token_ids.items():
        token = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
        if token is None or tokenizer(token, add_special_tokens=False).input_ids != [number]:
            reason = f"its tokenizer has no token {number}, which stands for the {kind}"
            raise cannot_load(checkpoint.name, reason)


def _device(name: Any) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise ConfigError(
            f"{quoted(name)} is not a device, such as cpu or cuda:0", ["device"]
        ) from None
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():
            raise CapabilityError(f"there is no device {device} on this machine")
        return torch.device("cuda", device.index or 0)
    return device


def _dtype(name: Any) -> torch.dtype | None:
    if name == "auto":
        return None
    if _dtype_name(name) not in DTYPES:
        known = ["auto", *DTYPES]
        raise ConfigError(
            f"unknown dtype {quoted(str(name))}{nearest(str(name), known)}", ["dtype"]
        )
    return DTYPES[_dtype_name(name)]


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")

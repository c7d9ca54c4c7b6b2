"""LLaVA-Video as a class of transformers 5, which has none of its own, and its checkpoints.

Import this module only where transformers is installed.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from transformers.models.llava_onevision.modeling_llava_onevision import (
    LlavaOnevisionModel,
    LlavaOnevisionPreTrainedModel,
)

from tokenred.errors import CapabilityError, InputError
from tokenred.kernels.pooling import pool_tokens, pooled_grid

POOLS = ("bilinear", "average", "max")
NEWLINES = ("one_token", "grid", "frame", "no_token")
STRIDE = 2
TOWERS = {
    "siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 26,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
}
"""Vision towers as the llava package runs them: without their last layer and pooling head. Names
without owner or folder."""

_TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
_NAMES = (
    (r"model\.(embed_tokens|layers|norm)\.", r"model.language_model.\1."),
    (r"model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
)
_TOWER = "model.vision_tower.vision_tower.vision_model."


class LlavaVideoConfig(LlavaOnevisionConfig):
    """Config of ``LlavaVideoForConditionalGeneration``.

    Like that of LLaVA-OneVision, with two more attributes, named as in the original checkpoints:
    ``mm_spatial_pool_mode`` (``average``, ``bilinear`` or ``max``) and ``mm_newline_position``
    (``grid``, ``frame``, ``one_token`` or ``no_token``).
    """

    model_type = "llava_video"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pool = kwargs.pop("mm_spatial_pool_mode", "average")
        newlines = kwargs.pop("mm_newline_position", "grid")
        for name, value, known in (
            ("mm_spatial_pool_mode", pool, POOLS),
            ("mm_newline_position", newlines, NEWLINES),
        ):
            if value not in known:
                raise CapabilityError(f"{name} {value!r} is not supported")
        super().__init__(*args, **kwargs)
        self.mm_spatial_pool_mode = pool
        self.mm_newline_position = newlines


class LlavaVideoModel(LlavaOnevisionModel):
    """LLaVA-OneVision with another pooling of videos and other newlines between their tokens."""

    config_class = LlavaVideoConfig

    def get_video_features(
        self,
        pixel_values_videos: Float[Tensor, "videos frames 3 height width"],
        vision_feature_layer: Any = None,
        vision_feature_select_strategy: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Encode videos; ``pooler_output`` is what the LLM reads, newlines included."""
        n_videos, n_frames = pixel_values_videos.shape[:2]
        output = self.vision_tower(
            pixel_values_videos.flatten(0, 1), output_hidden_states=True, return_dict=True
        )
        hidden = output.hidden_states[self.config.vision_feature_layer]
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        pooled = pool_tokens(
            self.multi_modal_projector(hidden), (side, side), self.config.mm_spatial_pool_mode
        )
        output.pooler_output = self._with_newlines(pooled.unflatten(0, (n_videos, n_frames)))
        return output

    def _with_newlines(
        self, videos: Float[Tensor, "videos frames cells dim"]
    ) -> Float[Tensor, "videos tokens dim"]:
        position = self.config.mm_newline_position
        if position == "no_token":
            return videos.flatten(1, 2)
        n_videos, n_frames, n_cells, dim = videos.shape
        n_lines = {"one_token": 1, "frame": n_frames, "grid": n_frames * round(n_cells**0.5)}
        lines = videos.reshape(n_videos, n_lines[position], -1, dim)
        newline = self.image_newline.to(lines).expand(*lines.shape[:2], 1, dim)
        return torch.cat((lines, newline), dim=2).flatten(1, 2)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        batch_num_images: Tensor | None = None,
        mm_encoder_outputs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Put images and videos into the embedded prompt and run the LLM on it.

        The base class does so too, but its older versions add a newline of their own behind videos.
        """
        encoded = dict(mm_encoder_outputs or {})
        if pixel_values is not None:
            encoded["image"] = self.get_image_features(
                pixel_values, image_sizes, batch_num_images=batch_num_images, return_dict=True
            )
        if pixel_values_videos is not None:
            encoded["video"] = self.get_video_features(pixel_values_videos)
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        for kind in ("image", "video"):
            if encoded.get(kind) is None:
                continue
            features = torch.cat(list(encoded[kind].pooler_output)).to(inputs_embeds)
            masks = self.get_placeholder_mask(
                input_ids, inputs_embeds, **{f"{kind}_features": features}
            )
            mask = masks[0 if kind == "image" else 1]
            inputs_embeds = inputs_embeds.masked_scatter(mask, features)
        return super().forward(inputs_embeds=inputs_embeds, **kwargs)


class LlavaVideoForConditionalGeneration(LlavaOnevisionForConditionalGeneration):
    """LLaVA-Video: average pooling of videos to 13x13, a newline after every row of every frame.

    Prompts hold one ``video_token_id`` for each token of a video, newlines included:
    ``video_placeholders(n_frames)`` of them.

    Source
    ------
    LLaVA-NeXT, ``llava/model/llava_arch.py`` (written anew); arXiv:2410.02713.
    """

    config_class = LlavaVideoConfig

    def __init__(self, config: Any) -> None:
        # Not the parent's own: it would build a model of its family first.
        LlavaOnevisionPreTrainedModel.__init__(self, config)
        self.model = LlavaVideoModel(config)
        text = config.text_config
        self.lm_head = torch.nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()

    def video_placeholders(self, n_frames: int) -> int:
        """Return how many placeholders a video has in a prompt."""
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        rows, columns = pooled_grid((side, side), self.config.mm_spatial_pool_mode, STRIDE)
        newlines = {"one_token": 1, "frame": n_frames, "grid": n_frames * rows, "no_token": 0}
        return n_frames * rows * columns + newlines[self.config.mm_newline_position]

    @classmethod
    def from_original(
        cls,
        folder: str | Path,
        *,
        vision_config: Mapping[str, Any] | None = None,
        image_token_id: int = 151646,
        video_token_id: int = 151647,
        **kwargs: Any,
    ) -> Any:
        """Load a checkpoint of the ``llava`` package, LLaVA-Video or LLaVA-OneVision with Qwen2.

        Parameters
        ----------
        folder : with ``config.json`` of model type ``llava_qwen`` and the weights
        vision_config : sizes of the SigLIP tower, its last layer not counted; needed if the
            checkpoint names a tower other than SigLIP so400m
        image_token_id, video_token_id : placeholders in prompts, ids that no text uses
        kwargs : handed to ``from_pretrained``, such as ``dtype``, ``device_map`` or
            ``attn_implementation``

        Raises
        ------
        InputError
            If the folder is incomplete, or its weights do not fit its config.
        CapabilityError
            If the checkpoint has parts that this class does not have.
        """
        folder = Path(folder)
        original = _read_json(folder / "config.json")
        config = convert_config(original, vision_config, image_token_id, video_token_id)
        with torch.device("meta"):
            expected = cls(config).state_dict()
        weights = _rename(_read_weights(folder), expected)
        if config.text_config.tie_word_embeddings:
            weights.pop("lm_head.weight", None)
            del expected["lm_head.weight"]
        missing = sorted(expected.keys() - weights.keys())
        if missing:
            raise InputError(
                f"{folder} lacks {len(missing)} weights of this model, {missing[0]} among them"
            )
        for name, value in weights.items():
            if value.shape != expected[name].shape:
                raise InputError(
                    f"{name} in {folder} has shape {tuple(value.shape)}, its config says "
                    f"{tuple(expected[name].shape)}"
                )
        model = cls.from_pretrained(None, config=config, state_dict=weights, **kwargs)
        if (folder / "generation_config.json").is_file():
            model.generation_config = type(model.generation_config).from_pretrained(folder)
        return model


def convert_config(
    original: Mapping[str, Any],
    vision: Mapping[str, Any] | None,
    image_token_id: int,
    video_token_id: int,
) -> LlavaVideoConfig:
    """Return the config of a checkpoint of the ``llava`` package in the words of transformers.

    Raises
    ------
    InputError
        If the placeholders do not lie in the vocabulary.
    CapabilityError
        If the checkpoint has parts that ``LlavaVideoForConditionalGeneration`` does not have.
    """
    fixed = {
        "model_type": ("llava_qwen", None),
        "mm_projector_type": ("mlp2x_gelu", "linear"),
        "mm_patch_merge_type": ("spatial_unpad", "flat"),
        "add_faster_video": (False, False),
    }
    for name, (supported, default) in fixed.items():
        found = original.get(name, default)
        if found != supported:
            raise CapabilityError(f"{name} {found!r} is not supported, only {supported!r}")
    tower = str(original.get("mm_vision_tower")).rstrip("/").rpartition("/")[2]
    if vision is None and tower not in TOWERS:
        raise CapabilityError(
            f"the sizes of vision tower {tower!r} are not known: say vision_config"
        )
    if max(image_token_id, video_token_id) >= original["vocab_size"]:
        raise InputError(
            f"placeholders {image_token_id} and {video_token_id} do not lie in the vocabulary of "
            f"{original['vocab_size']}: say image_token_id and video_token_id"
        )
    text = {name: original[name] for name in _TEXT_FIELDS if name in original}
    # The package drops any scaling of the rotary embedding.
    rope = {"rope_type": "default", "rope_theta": original.get("rope_theta", 10000.0)}
    aspect, pinpoints = original.get("image_aspect_ratio"), original.get("image_grid_pinpoints")
    optional: dict[str, Any] = {}
    if isinstance(aspect, str) and aspect.startswith("anyres_max_"):
        optional["vision_aspect_ratio"] = aspect
    if isinstance(pinpoints, list):
        # The package puts width first, transformers height.
        optional["image_grid_pinpoints"] = [[height, width] for width, height in pinpoints]
    return LlavaVideoConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "vision_use_head": False,
            **(TOWERS[tower] if vision is None else vision),
        },
        text_config={"model_type": "qwen2", **text, "rope_parameters": rope},
        image_token_index=image_token_id,
        video_token_index=video_token_id,
        tie_word_embeddings=bool(original.get("tie_word_embeddings", False)),
        mm_spatial_pool_mode=original.get("mm_spatial_pool_mode", "bilinear"),
        mm_newline_position=original.get("mm_newline_position", "one_token"),
        **optional,
    )


def _rename(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights the names that they have in the installed version of transformers."""
    tower = "model.vision_tower."
    if any(name.startswith(tower + "vision_model.") for name in expected):
        tower += "vision_model."
    renamed: dict[str, Tensor] = {}
    for old, value in weights.items():
        name = old
        for pattern, new in _NAMES:
            name = re.sub(rf"^{pattern}", new, name)
        if old.startswith(_TOWER):
            name = tower + old.removeprefix(_TOWER)
            if name not in expected:  # the last layer and the head, which the package takes away
                continue
        if name in expected:
            renamed[name] = value
        elif not name.endswith("rotary_emb.inv_freq"):
            raise CapabilityError(f"the checkpoint has a weight {old!r} that this model has not")
    return renamed


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; a local folder with a checkpoint is needed")
    return json.loads(path.read_text(encoding="utf-8"))


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Read all shards, mapped into memory rather than copied."""
    from safetensors.torch import load_file

    def load_pickled(path: Path) -> dict[str, Tensor]:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)

    readers: tuple[tuple[str, Callable[[Path], dict[str, Tensor]]], ...] = (
        ("model.safetensors", load_file),
        ("pytorch_model.bin", load_pickled),
    )
    for name, read in readers:
        if (folder / name).is_file():
            return read(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(index)["weight_map"].values()))
            return {key: value for each in shards for key, value in read(folder / each).items()}
    names = " or ".join(name for name, _ in readers)
    raise InputError(f"{folder} holds no weights ({names}, in one piece or with an index)")

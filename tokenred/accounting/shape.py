"""The sizes of an LLM that FLOPs formulas read, from any config; no weights are needed."""

import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenred.errors import ConfigError, InputError, nearest, quoted, shown
from tokenred.texts import read_json

KEYS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)
NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where multimodal configs keep their LLM. The original llava keeps it at the top level."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True)
class LlmShape:
    """The sizes of a decoder that the formulas read.

    Attributes
    ----------
    hidden_size, ffn_size, n_layers : width ``d``, FFN width ``m`` and depth
    query_size : width ``q`` of all query heads together; None for ``hidden_size``
    key_value_size : width ``k`` of all key heads together; None for ``hidden_size``
    """

    hidden_size: int
    ffn_size: int
    n_layers: int
    query_size: int | None = None
    key_value_size: int | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The symbols of the formulas and their values."""
        d = self.hidden_size
        return {
            "d": d,
            "m": self.ffn_size,
            "q": d if self.query_size is None else self.query_size,
            "k": d if self.key_value_size is None else self.key_value_size,
        }

    @classmethod
    def of(cls, config: Any) -> "LlmShape":
        """Read the sizes from a config: a transformers object or a dictionary, nested or flat.

        What a dictionary leaves out has the value that transformers gives it, if that is installed
        and knows the model type; old checkpoints list only what differs from it. Without a number
        of key heads every head has its own. Windows of sliding attention are not read.

        Raises
        ------
        InputError
            If a size is missing or not a whole number, or if the layers are not of the kind that
            the formulas count: attention and one dense FFN.
        """
        text = _text_part(config)
        if isinstance(config, Mapping) and any(_get(text, key) is None for key in KEYS):
            text = _with_defaults(config) or text
        _check_kind(text)
        heads, hidden = _get(text, "num_attention_heads"), _get(text, "hidden_size")
        found = {key: _get(text, key) for key in KEYS}
        found["num_key_value_heads"] = found["num_key_value_heads"] or heads
        if _get(text, "head_dim") is not None:
            found["head_dim"] = _get(text, "head_dim")
        _check_sizes(found)
        head_dim = found.get("head_dim") or hidden // heads
        return cls(
            hidden,
            found["intermediate_size"],
            found["num_hidden_layers"],
            query_size=heads * head_dim,
            key_value_size=found["num_key_value_heads"] * head_dim,
        )

    @classmethod
    def load(cls, path: Path) -> "LlmShape":
        """Read the sizes from a folder with a ``config.json``, or from such a file.

        Raises
        ------
        InputError
            If it cannot be read, or as in :meth:`of`.
        """
        file = path / "config.json" if os.path.isdir(path) else path
        data = read_json(file)
        try:
            return cls.of(data)
        except InputError as error:
            raise InputError(f"{shown(file)}: {error}") from None


SHAPES: MappingProxyType[str, LlmShape] = MappingProxyType(
    {
        "qwen2-0.5b": LlmShape(896, 4864, 24, 896, 128),
        "qwen2-7b": LlmShape(3584, 18944, 28, 3584, 512),
        "qwen2-72b": LlmShape(8192, 29568, 80, 8192, 1024),
        "qwen3-4b": LlmShape(2560, 9728, 36, 4096, 1024),
        "vicuna-7b": LlmShape(4096, 11008, 32, 4096, 4096),
    }
)
"""Shapes by name. ``qwen2-7b`` is the LLM of the AOT paper's two models, and of Qwen2.5-VL-7B."""


def find_shape(model: str) -> LlmShape:
    """Return a shape by its name, or that of a folder or ``config.json``.

    Raises
    ------
    ConfigError
        If there is neither.
    InputError
        As in :meth:`LlmShape.load`.
    """
    if model in SHAPES:
        return SHAPES[model]
    if not os.path.exists(model):
        raise ConfigError(
            f"'{shown(model)}' is no folder, no config.json and no named shape"
            f"{nearest(model, SHAPES)}"
        )
    return LlmShape.load(Path(model))


def _get(config: Any, key: str) -> Any:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _text_part(config: Any) -> Any:
    if hasattr(config, "get_text_config"):
        return config.get_text_config(decoder=True)
    parts = [_text_part(_get(config, name)) for name in NESTED if _get(config, name) is not None]
    return next((part for part in parts if _get(part, "hidden_size") is not None), config)


def _with_defaults(config: Mapping[str, Any]) -> Any:
    """Let transformers fill in a config; None if it does not know the type or refuses a value."""
    try:
        from transformers import AutoConfig

        own = deepcopy(dict(config))  # transformers 5.10 writes into its parts
        return _text_part(AutoConfig.for_model(**own))
    except Exception:  # it raises what it likes, and the keys that are missing say enough
        return None


def _check_kind(text: Any) -> None:
    for key in EXPERTS:
        if _get(text, key) not in (None, 0, 1):
            raise InputError(
                f"this LLM is a mixture of experts ({key} = {quoted(_get(text, key))}), "
                "and the formulas count one dense FFN a layer"
            )
    kinds = _get(text, "layer_types") or ()
    if not isinstance(kinds, list | tuple) or not all(isinstance(kind, str) for kind in kinds):
        raise InputError(f"layer_types must be a list of names, got {quoted(kinds)}")
    others = sorted(set(kinds) - ATTENTION)
    if others:
        raise InputError(f"the formulas count attention, and this LLM has {', '.join(others)} too")


def _check_sizes(found: Mapping[str, Any]) -> None:
    missing = [key for key, value in found.items() if value is None]
    if missing:
        raise InputError(f"the config has no {', '.join(missing)}, which the formulas need")
    for key, value in found.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{key} must be one whole number above 0, got {quoted(value)}")

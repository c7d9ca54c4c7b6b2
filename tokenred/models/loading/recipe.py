"""How to load a checkpoint: model class, config, and weight conversion."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from tokenred.errors import CapabilityError, TokenredError
from tokenred.models.adapter import ModelAdapter, adapter_class
from tokenred.models.loading.checkpoint import Checkpoint, cannot_load
from tokenred.plugins import registry


@dataclass(frozen=True)
class Recipe:
    """How to make a model.

    Attributes
    ----------
    config : of transformers
    build : ``build(dtype=..., attn_implementation=...)`` loads the model
    """

    model_class: Any
    config: Any
    build: Callable[..., Any]

    def count(self) -> int:
        """Count the parameters, tied ones once, without any weights."""
        with torch.device("meta"):
            return sum(
                each.numel() for each in self.model_class(deepcopy(self.config)).parameters()
            )


def check_served(checkpoint: Checkpoint, trust_remote_code: bool) -> None:
    """Raise at once for a checkpoint of an unsupported class.

    Raises
    ------
    CapabilityError
        With the classes that can be loaded.
    """
    if _known_class(checkpoint) is not None or _converter(checkpoint) is not None:
        return
    brings_code = "auto_map" in checkpoint.config
    if brings_code and trust_remote_code:
        return
    names = " and ".join(_architectures(checkpoint)) or "a config.json without architectures"
    own = "; it brings code of its own, which runs only if you trust it" if brings_code else ""
    if str(checkpoint.config.get("model_type")).startswith("llava_"):
        own += "; the distribution tokenred-llava serves models of the llava package"
    raise CapabilityError(
        f"no adapter for {names} in {checkpoint.name}; supported: {', '.join(_loadable())}{own}"
    )


def recipe_for(checkpoint: Checkpoint, tokenizer: Any) -> Recipe:
    """Return how to make the model of a checkpoint; its own code runs if no class is known.

    Parameters
    ----------
    tokenizer : of the checkpoint; the placeholders of original checkpoints are added to it

    Raises
    ------
    InputError
        If the config cannot be read.
    CapabilityError
        If the checkpoint is built in a way that is not supported.
    """
    with in_one_sentence(checkpoint):
        found = _known_class(checkpoint)
        if found is not None:
            config = found.config_class.from_pretrained(checkpoint.folder, local_files_only=True)
            return Recipe(found, config, _from_pretrained(checkpoint, found, config))
        converter = _converter(checkpoint)
        if converter is not None:
            return converter.recipe(checkpoint, tokenizer)
        found, config = _remote(checkpoint)
        return Recipe(found, config, _from_pretrained(checkpoint, found, config))


@contextmanager
def in_one_sentence(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn errors of transformers about a broken checkpoint into one sentence."""
    try:
        yield
    except (TokenredError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        line = str(error).strip().partition("\n")[0]
        raise cannot_load(checkpoint.name, line or type(error).__name__) from error


def _from_pretrained(checkpoint: Checkpoint, model_class: Any, config: Any) -> Callable[..., Any]:
    def build(**options: Any) -> Any:
        model, found = model_class.from_pretrained(
            checkpoint.folder,
            config=config,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
        if missing := sorted(found["missing_keys"]):
            reason = f"its weights lack {len(missing)} tensors, such as {missing[0]}"
            raise cannot_load(checkpoint.name, reason)
        return model

    return build


def _remote(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Run the checkpoint's own code; return its class and config."""
    from transformers import AutoConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=True)
    references = checkpoint.config["auto_map"]
    models = sorted(key for key in references if key.startswith("AutoModel"))
    if not models:
        raise CapabilityError(f"{checkpoint.name} brings code, but none for a model")
    found = get_class_from_dynamic_module(references[models[-1]], checkpoint.folder)
    if not any(cls.__name__ in registry().adapters() for cls in found.__mro__):
        raise CapabilityError(
            f"no adapter for {found.__name__} in {checkpoint.name}; supported are "
            f"{', '.join(_loadable())}, and classes made from them"
        )
    return found, config


def _architectures(checkpoint: Checkpoint) -> list[str]:
    return checkpoint.config.get("architectures") or []


def _known_class(checkpoint: Checkpoint) -> Any:
    """Return the first of its classes that an adapter serves and an installed package has."""
    served = registry().adapters()
    # One after the other: naming a class of transformers imports the whole file of its model.
    found = (_class(name) for name in _architectures(checkpoint) if name in served)
    return next((each for each in found if each is not None), None)


def _converter(checkpoint: Checkpoint) -> type[ModelAdapter] | None:
    """Return the adapter that reads checkpoints of this type, which transformers does not know."""
    kind = checkpoint.config.get("model_type")
    adapters = map(adapter_class, registry().adapters())
    return next((each for each in adapters if kind in each.checkpoint_types), None)


def _loadable() -> list[str]:
    return [name for name in registry().adapters() if _class(name) is not None]


def _class(name: str) -> Any:
    return adapter_class(name).find_class(name)

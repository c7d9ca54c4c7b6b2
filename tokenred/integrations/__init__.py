"""Integrations with other programs, each imported on demand."""

from typing import Any

LMMS_MODEL = "tokenred"
"""Name of the model in lmms-eval."""


def lmms_eval_models() -> list[Any]:
    """Return the entry point of lmms-eval: the model ``tokenred``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [
        ModelManifest(LMMS_MODEL, simple_class_path="tokenred.integrations.lmms_eval.TokenredModel")
    ]

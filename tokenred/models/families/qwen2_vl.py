"""Qwen2-VL of transformers: full attention inside every frame."""

from typing import ClassVar

from tokenred.models.families.qwen_vl import QwenAdapter


class Qwen2VLAdapter(QwenAdapter):
    """Encode and splice for ``Qwen2VLForConditionalGeneration``.

    Source
    ------
    transformers, ``models/qwen2_vl/modeling_qwen2_vl.py`` (written anew).
    """

    model_class: ClassVar[str] = "Qwen2VLForConditionalGeneration"

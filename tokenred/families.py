"""The model families that tokenred serves, registered through the same hook as everybody else's."""

from tokenred.hookspecs import Register, hookimpl

FAMILIES = {
    "LlavaOnevisionForConditionalGeneration": "llava_onevision:LlavaOnevisionAdapter",
    "LlavaNextVideoForConditionalGeneration": "llava_next_video:LlavaNextVideoAdapter",
    "LlavaNextForConditionalGeneration": "llava_next:LlavaNextAdapter",
    "LlavaForConditionalGeneration": "llava_1_5:Llava15Adapter",
    "Qwen2VLForConditionalGeneration": "qwen2_vl:Qwen2VLAdapter",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl:Qwen2_5VLAdapter",
    "Qwen3VLForConditionalGeneration": "qwen3_vl:Qwen3VLAdapter",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl:Qwen3VLAdapter",
}


@hookimpl
def register_model_adapters(register: Register) -> None:
    """Register the adapters of this package."""
    for model_class, target in FAMILIES.items():
        register(model_class, f"tokenred.models.families.{target}")

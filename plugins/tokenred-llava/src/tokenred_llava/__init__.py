"""LLaVA-Video as a class of transformers 5, and the models of the original ``llava`` package."""

from tokenred import hookimpl


@hookimpl
def register_model_adapters(register):
    """Register both adapters."""
    register("LlavaVideoForConditionalGeneration", "tokenred_llava.video:LlavaVideoAdapter")
    register("LlavaMetaForCausalLM", "tokenred_llava.package:LlavaPackageAdapter")

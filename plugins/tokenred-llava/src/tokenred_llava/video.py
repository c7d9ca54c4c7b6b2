"""LLaVA-Video of ``tokenred_llava.video_model``: LLaVA-OneVision with another layout."""

from typing import Any, ClassVar

from tokenred.models.families.llava_onevision import LlavaOnevisionAdapter
from tokenred.models.splice import Newlines
from tokenred_llava.layouts import NEWLINES


class LlavaVideoAdapter(LlavaOnevisionAdapter):
    """Encode and splice for ``LlavaVideoForConditionalGeneration``.

    Pooling and newlines follow the model's config: ``average`` and ``grid`` for the released
    models, 13x13 tokens and 13 newlines a frame.

    Source
    ------
    LLaVA-NeXT, ``llava/model/llava_arch.py`` (written anew); arXiv:2410.02713.
    """

    model_class: ClassVar[str] = "LlavaVideoForConditionalGeneration"
    checkpoint_types: ClassVar[tuple[str, ...]] = ("llava_qwen", "llava_llama")

    @property
    def native_pool(self) -> str:  # type: ignore[override]
        """How the model pools videos."""
        return self.config.mm_spatial_pool_mode

    @property
    def video_newlines(self) -> Newlines:  # type: ignore[override]
        """Where the model puts newline tokens between the tokens of a video."""
        return NEWLINES[self.config.mm_newline_position]

    @classmethod
    def find_class(cls, name: str) -> Any:
        """Return the class of this package."""
        from tokenred_llava.video_model import LlavaVideoForConditionalGeneration

        return LlavaVideoForConditionalGeneration if name == cls.model_class else None

    @classmethod
    def recipe(cls, checkpoint: Any, tokenizer: Any) -> Any:
        """Return how to load a checkpoint of the ``llava`` package, whose prompts name no ids."""
        from tokenred.models.inputs.preparing import MARKS
        from tokenred.models.loading import Recipe
        from tokenred_llava.video_model import LlavaVideoForConditionalGeneration, convert_config

        tokenizer.add_tokens(list(MARKS.values()), special_tokens=True)
        ids: dict[str, Any] = {
            f"{kind}_token_id": tokenizer.convert_tokens_to_ids(mark)
            for kind, mark in MARKS.items()
        }
        config = convert_config(checkpoint.config, None, **ids)

        def build(**options: Any) -> Any:
            return LlavaVideoForConditionalGeneration.from_original(
                checkpoint.folder, **ids, **options
            )

        return Recipe(LlavaVideoForConditionalGeneration, config, build)

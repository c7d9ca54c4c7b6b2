"""LLaVA-Video of ``llava_video_model``: LLaVA-OneVision with another layout."""

from typing import ClassVar

from tokenred.models.families.llava_onevision import LlavaOnevisionAdapter
from tokenred.models.families.llava_original import NEWLINES
from tokenred.models.splice import Newlines


class LlavaVideoAdapter(LlavaOnevisionAdapter):
    """Encode and splice for ``LlavaVideoForConditionalGeneration``.

    Pooling and newlines follow the model's config: ``average`` and ``grid`` for the released
    models, 13x13 tokens and 13 newlines a frame.

    Source
    ------
    LLaVA-NeXT, ``llava/model/llava_arch.py`` (written anew); arXiv:2410.02713.
    """

    model_class: ClassVar[str] = "LlavaVideoForConditionalGeneration"

    @property
    def native_pool(self) -> str:  # type: ignore[override]
        """How the model pools videos."""
        return self.config.mm_spatial_pool_mode

    @property
    def video_newlines(self) -> Newlines:  # type: ignore[override]
        """Where the model puts newline tokens between the tokens of a video."""
        return NEWLINES[self.config.mm_newline_position]

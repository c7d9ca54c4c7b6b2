"""A DINOv2 vision tower without a language model."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import InputError, TokenredError
from tokenred.models.adapter import check_transformers
from tokenred.models.cues import Cue, Tower, capture_cues
from tokenred.models.cues.pixels import square_pixels
from tokenred.models.inputs.preparing import resize_and_normalise
from tokenred.types import VisualTokens

IMAGENET: Mapping[str, Any] = {
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
FRAME_CHUNK = 8


class Dinov2Tower:
    """Visual tokens and cues of a DINOv2, which has no projector.

    The tokens are the patches of the last hidden state, behind the last norm. Its class token gives
    ``class-attention@LAYER`` and ``pooler``.

    Parameters
    ----------
    model : ``Dinov2Model`` of transformers
    name : as printed
    side : patches per side of a frame, to which frames are resized without cropping; DINOv2
        interpolates its positions
    native_pool : the pooling that an LLM is imagined to bring; 27 patches a side and ``bilinear``
        have the shape of LLaVA-OneVision
    """

    def __init__(
        self, model: Any, name: str = "DINOv2", side: int = 16, native_pool: str = "none"
    ) -> None:
        self.name = name
        self.side = side
        self.native_pool = native_pool
        self._model = model.eval()
        self._tower = Tower(
            self._model,
            class_token=True,
            pooler=True,
            pixels=lambda pixels, _: square_pixels(pixels, model.config.patch_size, IMAGENET),
        )

    @classmethod
    def load(cls, folder: str | Path, side: int = 16, native_pool: str = "none") -> "Dinov2Tower":
        """Load a checkpoint of transformers from a local folder, in float32.

        Raises
        ------
        InputError
            If the folder holds no DINOv2.
        """
        check_transformers()
        from transformers import AutoConfig, Dinov2Model

        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            if config.model_type != "dinov2":
                raise InputError(f"{folder} holds a {config.model_type}, not a dinov2")
            model, found = Dinov2Model.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
            )
        except TokenredError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(f"no DINOv2 can be loaded from {folder}: {reason}") from error
        if missing := sorted(found["missing_keys"]):
            raise InputError(f"the weights in {folder} lack {missing[0]}")
        return cls(model, f"DINOv2 ({Path(folder).name})", side, native_pool)

    def check(self, needs: Collection[str]) -> None:
        """Raise a ``CapabilityError`` for a cue that the tower cannot give."""
        self._tower.cues(needs)

    @torch.no_grad()
    def encode(
        self,
        frames: UInt8[Tensor, "frames height width 3"],
        frame_times: Float[Tensor, "frames"],
        needs: Collection[str] = frozenset(),
    ) -> VisualTokens:
        """Encode the frames of one clip, with the cues asked for."""
        cues = self._tower.cues(needs)
        patch = self._model.config.patch_size
        size = (self.side * patch, self.side * patch)
        pixels = resize_and_normalise(frames.permute(0, 3, 1, 2), size, IMAGENET)
        parts = [self._run(chunk, cues) for chunk in pixels.split(FRAME_CHUNK)]
        features = torch.cat([hidden[:, 1:] for hidden, _ in parts])
        found = {cue.name: torch.cat([values[cue.name] for _, values in parts]) for cue in cues}
        return VisualTokens.of(
            features,
            (self.side, self.side),
            frame_times=frame_times,
            cues=found,
            native_pool=self.native_pool,
        )

    def _run(
        self, pixels: Float[Tensor, "frames 3 height width"], cues: Sequence[Cue]
    ) -> tuple[Float[Tensor, "frames tokens dim"], dict[str, Tensor]]:
        """Return the last hidden state, class token first, and the cues by name, without it."""
        with capture_cues(self._tower, cues, pixels) as captured:
            output = self._model(pixels)
        return output.last_hidden_state, captured.values()

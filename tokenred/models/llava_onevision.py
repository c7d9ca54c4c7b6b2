"""LLaVA-OneVision of transformers: tower, projector, bilinear pooling, one newline a video."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenred.errors import CapabilityError, InputError
from tokenred.kernels.pooling import pooled_grid
from tokenred.models.answering import next_token_logits
from tokenred.models.capture import Captured, attention_layers, capture
from tokenred.models.cues import POOLER, Cue, parse_cues
from tokenred.models.splice import (
    Spliced,
    VisualPart,
    lay_out,
    original_positions,
    scatter_features,
    token_places,
)
from tokenred.types import ReducedTokens, VisualTokens


class LlavaOnevisionAdapter:
    """Encode videos and splice reduced ones for ``LlavaOnevisionForConditionalGeneration``.

    The encoder is composed of the model's public submodules: ``get_video_features`` changed its
    return type three times between versions.

    Parameters
    ----------
    model : a ``LlavaOnevisionForConditionalGeneration``, any dtype and device

    Source
    ------
    transformers, ``models/llava_onevision/modeling_llava_onevision.py`` (written anew).
    """

    model_class: ClassVar[str] = "LlavaOnevisionForConditionalGeneration"
    video_inputs: ClassVar[tuple[str, ...]] = ("pixel_values_videos",)
    native_pool: ClassVar[str] = "bilinear"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config
        self.tower = model.model.vision_tower
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        self.grid = (side, side)
        self.llm_grid = pooled_grid(self.grid, "bilinear", 2)

    def vanilla_tokens(self, n_frames: int) -> int:
        """Return how many tokens the LLM reads of an unreduced video, newline excluded."""
        return n_frames * self.llm_grid[0] * self.llm_grid[1]

    def newline_tokens(self, reduced: ReducedTokens) -> int:
        """Return how many newline tokens follow from the layout: one a video."""
        return 1

    def newline(self) -> Float[Tensor, "newlines dim"]:
        """Return the newline token that closes every video."""
        return self.model.model.image_newline[None]

    def check(self, needs: Collection[str]) -> None:
        """Refuse, before any work, cues that this model cannot give.

        Raises
        ------
        CapabilityError
            If a cue is unknown, its layer lies outside the tower, or the tower has no pooling head.
        """
        self._cues(needs)

    def encode(
        self,
        pixel_values_videos: Tensor,
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    ) -> list[VisualTokens]:
        """Encode videos up to and including the projector, not pooled.

        Parameters
        ----------
        pixel_values_videos : (videos, frames, 3, height, width)
        needs : names of the cues to capture on the way, such as ``attention@-2``
        frame_times : seconds of the frames, one tensor a video; default 0, 1, 2, ...

        Raises
        ------
        InputError
            If the pixel values have another shape than the model reads.
        CapabilityError
            If a cue cannot be given.
        """
        if pixel_values_videos.ndim != 5:
            raise InputError(
                "pixel_values_videos must be (videos, frames, 3, height, width), got shape "
                f"{tuple(pixel_values_videos.shape)}"
            )
        cues = self._cues(needs)
        n_videos, n_frames = pixel_values_videos.shape[:2]
        hidden, found = self._run_tower(pixel_values_videos.flatten(0, 1), cues)
        projected = self.model.model.multi_modal_projector(hidden)
        return [
            VisualTokens.of(
                features,
                self.grid,
                frame_times=None if frame_times is None else frame_times[video],
                cues={
                    name: value.unflatten(0, (n_videos, n_frames))[video]
                    for name, value in found.items()
                },
                native_pool=self.native_pool,
            )
            for video, features in enumerate(projected.unflatten(0, (n_videos, n_frames)))
        ]

    def splice(
        self,
        input_ids: Int[Tensor, "rows full"],
        attention_mask: Int[Tensor, "rows full"] | None,
        reduced: Sequence[ReducedTokens],
        *,
        positions: str = "contiguous",
    ) -> Spliced:
        """Embed the prompts with the reduced videos in the place of their placeholders.

        Parameters
        ----------
        reduced : one a video, in reading order of the prompts
        positions : ``contiguous`` renumbers, ``original`` keeps the unreduced positions

        Raises
        ------
        InputError
            If the placeholders in the prompts do not fit the videos.
        """
        parts = [self._part(video) for video in reduced]
        layout = lay_out(
            input_ids, attention_mask, self.config.video_token_id, parts, self._pad_id()
        )
        embed = self.model.get_input_embeddings()
        embeddings = embed(layout.input_ids.to(embed.weight.device))
        return Spliced(
            layout=layout,
            inputs_embeds=scatter_features(embeddings, layout, parts),
            position_ids=(
                original_positions(layout, attention_mask) if positions == "original" else None
            ),
        )

    def answer_logits(
        self, reduced: ReducedTokens, prompts: Sequence[Tensor]
    ) -> Float[Tensor, "prompts vocabulary"]:
        """Return float32 next-token logits of several prompts about one video.

        Parameters
        ----------
        prompts : token ids, each with the placeholders of the unreduced video
        """
        part = self._part(reduced)
        return next_token_logits(self.model, part, prompts, self.config.video_token_id)

    def _part(self, reduced: ReducedTokens) -> VisualPart:
        places = token_places(reduced, self.llm_grid)
        last = reduced.realised.vanilla_tokens
        return VisualPart(
            features=torch.cat((reduced.features, self.newline().to(reduced.features))),
            places=torch.cat((places, places.new_full((1,), last))),
            n_placeholders=last + 1,
        )

    def _pad_id(self) -> int:
        generation = self.model.generation_config
        return 0 if generation.pad_token_id is None else int(generation.pad_token_id)

    def _cues(self, needs: Collection[str]) -> tuple[Cue, ...]:
        cues = parse_cues(needs, len(attention_layers(self.tower)))
        has_head = getattr(self.config.vision_config, "vision_use_head", True)
        if not has_head and any(cue.kind == POOLER for cue in cues):
            raise CapabilityError(
                f"cue {POOLER!r} needs a pooling head, which this vision tower lacks"
            )
        return cues

    def _run_tower(
        self, pixels: Float[Tensor, "frames 3 height width"], cues: Sequence[Cue]
    ) -> tuple[Float[Tensor, "frames tokens channels"], dict[str, Tensor]]:
        """Run the vision tower once; return the chosen hidden states and the cues by name."""
        layers = attention_layers(self.tower)
        chosen = self.config.vision_feature_layer
        wanted: dict[torch.nn.Module, set[str]] = {}
        for cue in cues:
            if cue.layer is not None:
                wanted.setdefault(layers[cue.layer], set()).add(cue.kind)
        with capture(wanted) as captured:
            # Naming the layers spares newer versions from keeping the hidden states of all.
            output = self.tower(pixels, output_hidden_states=chosen or True, return_dict=True)
        indices = [chosen] if isinstance(chosen, int) else chosen
        hidden = torch.cat([output.hidden_states[index] for index in indices], dim=-1)
        by_layer = {layers.index(module): seen for module, seen in captured.items()}
        found = {cue.name: self._cue(cue, by_layer, output) for cue in cues}
        hidden = self._drop_class_token(hidden)
        if hidden.shape[1] != self.grid[0] * self.grid[1]:
            raise InputError(
                f"the vision tower gave {hidden.shape[1]} tokens a frame, but this model reads "
                f"{self.grid[0]}x{self.grid[1]}"
            )
        return hidden, found

    def _cue(self, cue: Cue, by_layer: Mapping[int, Captured], output: Any) -> Tensor:
        if cue.layer is None:
            return output.pooler_output.detach()
        seen = by_layer[cue.layer]
        values = seen.attention if cue.kind == "attention" else seen.keys
        return self._drop_class_token(torch.cat(values))

    def _drop_class_token(self, values: Tensor) -> Tensor:
        drops = self.config.vision_feature_select_strategy == "default"
        return values[:, 1:] if drops else values

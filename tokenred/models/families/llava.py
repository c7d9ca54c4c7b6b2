"""Base of the LLaVA family in transformers: tower, cues, and tiled images."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate, pad

from tokenred.errors import InputError
from tokenred.kernels.pooling import PoolMode, pooled_grid
from tokenred.models.cues import Cue, Tower, capture_cues
from tokenred.models.cues.names import POOLER
from tokenred.models.cues.pixels import square_pixels
from tokenred.models.families.base import FamilyAdapter, times_of
from tokenred.models.inputs.preparing import Prepared, resize_and_normalise
from tokenred.models.splice import Clip, ClipLayout, Newlines
from tokenred.pipeline.flow import NATIVE_STRIDE
from tokenred.types import VisualTokens

SIGLIP: Mapping[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP: Mapping[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
CLIP_CUT = {**CLIP, "do_center_crop": True}


class LlavaAdapter(FamilyAdapter):
    """Base for models with a ViT tower, a projector, and images cut into tiles.

    An image is two clips: its overview, and its tiles put together to one grid with a newline after
    every row. An image that is not cut is an overview only. The encoder is composed of the model's
    public submodules: what ``get_video_features`` returns changed three times between versions.
    """

    normalisation: ClassVar[Mapping[str, Any]] = SIGLIP
    video_newlines: ClassVar[Newlines] = "none"
    native_pool: ClassVar[str] = "none"

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        self.grid = (side, side)

    @property
    def video_grid(self) -> tuple[int, int]:
        """Grid of a video's frames when a pipeline takes over."""
        return self.grid

    @property
    def vision(self) -> Tower:
        """The tower; CLIP sums up a frame in its class token, SigLIP with a head."""
        vision = self.config.vision_config
        return Tower(
            self.tower,
            reader=self.model.model.multi_modal_projector,
            features=self._features_block,
            class_token=self.config.vision_feature_select_strategy == "default",
            pooler=getattr(vision, "vision_use_head", True),
            pixels=lambda pixels, _: square_pixels(pixels, vision.patch_size, self.normalisation),
        )

    @property
    def _features_block(self) -> int:
        """Block behind the hidden states that the model reads; of several, the last one named."""
        chosen = self.config.vision_feature_layer
        state = chosen if isinstance(chosen, int) else chosen[-1]
        return state if state < 0 else state - 1  # states from the front begin before all blocks

    def prepare(
        self,
        videos: Sequence[UInt8[Tensor, "frames 3 height width"]] = (),
        images: Sequence[UInt8[Tensor, "3 height width"]] = (),
        *,
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Turn pixels into the model's inputs, as its own processor would.

        Frames are squeezed to the tower's square, or cut to it where the family does; all videos of
        a call have equally many. An image
        is fitted into the nearest of the model's resolutions, centred on black, and cut into tiles;
        squeezed whole it is the overview.
        """
        settings = {**self.normalisation, **(settings or {})}
        square = (self.config.vision_config.image_size,) * 2
        inputs: dict[str, Tensor] = {}
        pieces: dict[str, list[list[int | str]]] = {"image": [], "video": []}
        if videos:
            self.refuse_videos()
            if len({len(video) for video in videos}) > 1:
                raise InputError("the videos of one call must have equally many frames")
            inputs["pixel_values_videos"] = torch.stack(
                [resize_and_normalise(video, square, settings) for video in videos]
            )
            n = self.video_layout(len(videos[0])).n_placeholders
            pieces["video"] = [[self.token_ids["video"]] * n for _ in videos]
        if images:
            cut = [_tiles_of(image, square, self.config.image_grid_pinpoints) for image in images]
            tiles = [resize_and_normalise(each, square, settings) for each in cut]
            most = max(map(len, tiles))
            inputs["pixel_values"] = torch.stack(
                [pad(each, (0, 0) * 3 + (0, most - len(each))) for each in tiles]
            )
            inputs["image_sizes"] = torch.tensor([image.shape[-2:] for image in images])
            for each, size in zip(tiles, inputs["image_sizes"], strict=True):
                empty = torch.zeros(len(each), self.grid[0] * self.grid[1], 1)
                n = len(self._pack(empty, size[None], empty[0, 0]))  # as the model will
                pieces["image"].append([self.token_ids["image"]] * n)
        return Prepared(inputs, pieces)

    def video_layout(self, n_frames: int) -> ClipLayout:
        """Return how an unreduced video stands in the prompt."""
        pool: PoolMode = self.native_pool  # type: ignore[assignment]
        grid = pooled_grid(self.video_grid, pool, NATIVE_STRIDE)
        return ClipLayout("video", n_frames, grid, self.video_newlines)

    def encode(
        self,
        inputs: Mapping[str, Any],
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "frames"]] | None = None,
    ) -> list[Clip]:
        """Encode images and videos up to and including the projector.

        Parameters
        ----------
        inputs : ``pixel_values`` (images, tiles, 3, height, width), or (tiles, 3, height, width),
            with ``image_sizes``; ``pixel_values_videos`` (videos, frames, 3, height, width)
        needs : names of the cues to capture on the way, such as ``attention@-2``
        frame_times : seconds of the frames, one tensor a video; default 0, 1, 2, ...

        Raises
        ------
        InputError
            If the pixel values have another shape than the model reads.
        CapabilityError
            If a cue cannot be given.
        """
        cues = self.cues(needs)
        clips = []
        if inputs.get("pixel_values") is not None:
            clips += self._encode_images(inputs, cues)
        if inputs.get("pixel_values_videos") is not None:
            clips += self._encode_videos(inputs["pixel_values_videos"], cues, frame_times)
        return clips

    def _encode_videos(
        self,
        pixels: Tensor,
        cues: Sequence[Cue],
        frame_times: Sequence[Float[Tensor, "frames"]] | None,
    ) -> list[Clip]:
        if pixels.ndim != 5 or 0 in pixels.shape:
            raise InputError(
                "pixel_values_videos must be (videos, frames, 3, height, width), got shape "
                f"{tuple(pixels.shape)}"
            )
        shape = pixels.shape[:2]
        flat = pixels.flatten(0, 1)
        with capture_cues(self.vision, cues, flat) as captured:
            projected = self._project_video(self._run_tower(flat))
        found = {name: self._video_cue(name, cue) for name, cue in captured.values().items()}
        return [
            Clip(
                VisualTokens.of(
                    features,
                    self.video_grid,
                    frame_times=times_of(frame_times, video, shape[0], features.device),
                    cues={name: value.unflatten(0, shape)[video] for name, value in found.items()},
                    native_pool=self.native_pool,
                ),
                self.video_layout(shape[1]),
            )
            for video, features in enumerate(projected.unflatten(0, shape))
        ]

    def _project_video(self, hidden: Tensor) -> Tensor:
        """Return what the LLM would read before any pooling behind the projector."""
        return self.model.model.multi_modal_projector(hidden)

    def _video_cue(self, name: str, cue: Tensor) -> Tensor:
        """Return a cue of a video on the grid on which a pipeline takes over."""
        return cue

    def _encode_images(self, inputs: Mapping[str, Any], cues: Sequence[Cue]) -> list[Clip]:
        pixels, sizes = inputs["pixel_values"], inputs.get("image_sizes")
        if pixels.ndim not in (4, 5) or 0 in pixels.shape or sizes is None:
            raise InputError(
                "pixel_values must be (images, tiles, 3, height, width) or (tiles, 3, height, "
                f"width) and come with image_sizes, got shape {tuple(pixels.shape)}"
            )
        counts = self._tiles(sizes, inputs)
        if pixels.ndim == 5:
            pixels = torch.cat([image[:n] for image, n in zip(pixels, counts, strict=True)])
        with capture_cues(self.vision, cues, pixels) as captured:
            projected = self.model.model.multi_modal_projector(self._run_tower(pixels))
        per_image = {name: value.split(counts) for name, value in captured.values().items()}
        return [
            clip
            for index, features in enumerate(projected.split(counts))
            for clip in self._views(
                features,
                sizes[index : index + 1],
                {name: value[index] for name, value in per_image.items()},
            )
        ]

    def _tiles(self, sizes: Tensor, inputs: Mapping[str, Any]) -> list[int]:
        """Return how many tiles the model cuts every image into, the overview included."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        per_prompt = inputs.get("batch_num_images")
        cut = [True] * len(sizes)
        if per_prompt is not None:  # several images in one prompt are not cut
            cut = [int(n) == 1 for n in per_prompt for _ in range(int(n))]
        return [
            image_size_to_num_patches(
                size, self.config.image_grid_pinpoints, self.config.vision_config.image_size
            )
            if each
            else 1
            for size, each in zip(sizes, cut, strict=True)
        ]

    def _views(
        self, tiles: Float[Tensor, "tiles tokens dim"], size: Tensor, cues: Mapping[str, Tensor]
    ) -> Iterator[Clip]:
        """Yield the overview of an image and, if it was cut, its tiles as one grid."""
        base = tiles.shape[1]
        one = tiles.new_zeros(*tiles.shape[:2], 1)
        newlines = len(self._pack(one, size, one.new_ones(1))) - len(self._pack(one, size))
        packed = self._pack(tiles, size)
        vectors = {  # one vector a frame; the details have that of the overview
            name: value[:1] for name, value in cues.items() if name == POOLER
        }
        flat = {  # in the same place as their tokens
            name: self._pack(value if value.ndim == 3 else value[..., None], size)
            for name, value in cues.items()
            if name not in vectors
        }
        views = [(slice(0, base), self.grid, "end" if len(packed) == base and newlines else "none")]
        if len(packed) > base:
            rows = newlines or 1
            views.append((slice(base, None), (rows, (len(packed) - base) // rows), "row"))
        for where, grid, layout in views:
            found = {
                name: (value[where] if cues[name].ndim == 3 else value[where, 0])[None]
                for name, value in flat.items()
            }
            tokens = VisualTokens.of(packed[where][None], grid, cues={**vectors, **found})
            yield Clip(tokens, ClipLayout("image", 1, grid, layout))  # type: ignore[arg-type]

    def _pack(self, tiles: Tensor, size: Tensor, newline: Tensor | None = None) -> Tensor:
        """Let the model put the tiles of one image together, padding cut off."""
        packed, _ = self.model.model.pack_image_features(
            [tiles], size, image_newline=newline, **self._pack_options()
        )
        return packed[0]

    def _pack_options(self) -> dict[str, Any]:
        return {}

    def _run_tower(
        self, pixels: Float[Tensor, "frames 3 height width"]
    ) -> Float[Tensor, "frames tokens channels"]:
        """Run the vision tower once; return the hidden states that the model chooses."""
        chosen = self.config.vision_feature_layer
        # Naming the layers spares newer versions from keeping the hidden states of all.
        output = self.tower(pixels, output_hidden_states=chosen or True, return_dict=True)
        indices = [chosen] if isinstance(chosen, int) else chosen
        states = [output.hidden_states[index] for index in indices]
        hidden = states[0] if len(states) == 1 else torch.cat(states, dim=-1)  # one: no copy
        if self.vision.class_token:
            hidden = hidden[:, 1:]
        if hidden.shape[1] != self.grid[0] * self.grid[1]:
            raise InputError(
                f"the vision tower gave {hidden.shape[1]} tokens a frame, but this model reads "
                f"{self.grid[0]}x{self.grid[1]}"
            )
        return hidden


def _tiles_of(
    image: UInt8[Tensor, "3 height width"], square: tuple[int, int], resolutions: Sequence[Any]
) -> UInt8[Tensor, "tiles 3 rows columns"]:
    """Return the overview of an image and then its tiles, row by row."""
    from transformers.image_processing_utils import select_best_resolution

    height, width = image.shape[-2:]
    rows, columns = select_best_resolution((height, width), [list(each) for each in resolutions])
    scale = min(rows / height, columns / width)
    fitted = (min(math.ceil(height * scale), rows), min(math.ceil(width * scale), columns))
    top, left = (rows - fitted[0]) // 2, (columns - fitted[1]) // 2
    canvas = image.new_zeros(3, rows, columns)
    canvas[:, top : top + fitted[0], left : left + fitted[1]] = _resized(image, fitted)
    tiles = canvas.unfold(1, square[0], square[0]).unfold(2, square[1], square[1])
    return torch.cat((_resized(image, square)[None], tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)))


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(image[None], size=size, mode="bicubic", antialias=True)[0]

"""Base of Qwen's vision LLMs: packed patches of any size, and M-RoPE positions."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tokenred.errors import InputError
from tokenred.models.cues import CapturedCues, Cue, Tower, capture_cues
from tokenred.models.cues.names import PIXELS, TOWER
from tokenred.models.cues.pixels import packed_pixels
from tokenred.models.families.base import FamilyAdapter, times_of
from tokenred.models.families.llava import CLIP
from tokenred.models.inputs.preparing import Prepared, resize_and_normalise
from tokenred.models.inputs.qwen_pixels import fitted_size, patches
from tokenred.models.prompt_scores import Continuations, PromptScores
from tokenred.models.reduced_calls import Inside, Reduction
from tokenred.models.splice import Clip, ClipLayout, Layout, Spliced, VisualPart
from tokenred.types import VisualTokens

TOKEN_TYPES = {"image": 1, "video": 2}
"""What the models call a placeholder in ``mm_token_type_ids``; text is 0."""


class PixelBounds(NamedTuple):
    """Minimum and maximum number of pixels of an image or frame.

    Attributes
    ----------
    whole_video : whether they hold for all frames of a video together
    """

    fewest: int
    most: int
    whole_video: bool = False


@dataclass(frozen=True)
class QwenSpliced(Spliced):
    """Inputs of the short forward pass, and the offset of the positions after it.

    Attributes
    ----------
    rope_deltas : (rows, 1) what a token after the prompt adds to its number to get its position
    """

    rope_deltas: Int[Tensor, "rows 1"]


class QwenAdapter(FamilyAdapter):
    """Base for Qwen's vision LLMs.

    A clip has the frames and the grid that the LLM reads: groups of frames that the tower reads as
    one, and squares of patches that its merger turns into one token. The tokens that stay keep
    their positions on all three axes, time, height and width.
    """

    default_positions: ClassVar[str] = "original"
    visual_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "image": ("pixel_values", "image_grid_thw", "mm_token_type_ids"),
        "video": ("pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    }
    normalisation: ClassVar[Mapping[str, Sequence[float]]] = CLIP
    bounds: ClassVar[Mapping[str, PixelBounds]] = {
        "image": PixelBounds(56 * 56, 16384 * 28 * 28),
        "video": PixelBounds(128 * 28 * 28, 768 * 28 * 28),
    }

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.model.model.visual

    @property
    def vision(self) -> Tower:
        """The tower; its merger turns squares of patches into tokens."""
        return Tower(
            self.tower,
            reader=self.tower.merger,
            frame_group=self.frame_group,
            pixels=lambda pixels, frame: packed_pixels(
                pixels, self.merge, self.frame_group, frame, self.normalisation
            ),
        )

    @property
    def merge(self) -> int:
        """Patches along each side of the square that becomes one token."""
        return self.config.vision_config.spatial_merge_size

    @property
    def frame_group(self) -> int:
        """Frames that the tower reads as one."""
        return self.config.vision_config.temporal_patch_size

    # From pixels to inputs

    def prepare(
        self,
        videos: Sequence[UInt8[Tensor, "_ 3 _ _"]] = (),
        images: Sequence[UInt8[Tensor, "3 _ _"]] = (),
        *,
        frame_times: Sequence[Float[Tensor, "_"]] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Prepared:
        """Turn pixels into the model's inputs, as its own processor would.

        Images and videos keep their aspect ratio and may differ in size. A video with an odd number
        of frames is filled up with its last one.

        Parameters
        ----------
        frame_times : seconds of the frames, one tensor a video, for models that read them
        settings : of the checkpoint's ``preprocessor_config.json``, and under ``video`` those of
            its ``video_preprocessor_config.json``, if it has one; default: the family's own
        """
        inputs: dict[str, Tensor] = {}
        pieces: dict[str, list[list[int | str]]] = {"image": [], "video": []}
        given = {"image": [image[None] for image in images], "video": list(videos)}
        for kind, media in given.items():
            if not media:
                continue
            chosen = dict(settings or {})
            chosen = {
                **self.normalisation,
                **(chosen.get("video", chosen) if kind == "video" else chosen),
            }
            cut, grids = zip(*(self._cut(each, kind, chosen) for each in media), strict=True)
            pixels, grid_name, *_ = self.visual_inputs[kind]
            inputs |= {pixels: torch.cat(cut), grid_name: torch.tensor(grids)}
            for index, grid in enumerate(grids):
                times = None if frame_times is None or kind == "image" else frame_times[index]
                pieces[kind].append(self.pieces(self._layout(kind, grid), times))
        if videos and frame_times is not None:
            inputs |= self.time_inputs(frame_times)
        types = {self.token_ids[kind]: number for kind, number in TOKEN_TYPES.items()}
        return Prepared(inputs, pieces, types)

    def pieces(
        self, layout: ClipLayout, frame_times: Float[Tensor, "frames"] | None
    ) -> list[int | str]:
        """Return the placeholders of a clip in the prompt."""
        placeholders = [self.token_ids[layout.kind]] * layout.n_placeholders
        return [self.config.vision_start_token_id, *placeholders, self.config.vision_end_token_id]

    def time_inputs(self, frame_times: Sequence[Float[Tensor, "_"]]) -> dict[str, Tensor]:
        """Return the model inputs that carry frame times."""
        return {}

    def _cut(
        self,
        frames: UInt8[Tensor, "frames 3 height width"],
        kind: str,
        settings: Mapping[str, Any],
    ) -> tuple[Tensor, tuple[int, int, int]]:
        vision, bounds = self.config.vision_config, self.bounds[kind]
        size = settings.get("size") or {}
        limits = (
            settings.get("min_pixels") or size.get("shortest_edge") or bounds.fewest,
            settings.get("max_pixels") or size.get("longest_edge") or bounds.most,
        )
        counted = (
            {"n_frames": len(frames), "frame_group": self.frame_group} if bounds.whole_video else {}
        )
        height, width = frames.shape[-2:]
        fitted = fitted_size((height, width), vision.patch_size * self.merge, limits, **counted)
        pixels = resize_and_normalise(frames, fitted, settings)
        return patches(pixels, vision.patch_size, self.merge, self.frame_group)

    def _layout(
        self, kind: str, grid: Sequence[int], seconds_per_frame: float | None = None
    ) -> ClipLayout:
        frames, rows, columns = grid
        size = (rows // self.merge, columns // self.merge)
        return ClipLayout(kind, frames, size, seconds_per_frame=seconds_per_frame)

    # From inputs to clips

    def encode(
        self,
        inputs: Mapping[str, Any],
        needs: Collection[str] = frozenset(),
        frame_times: Sequence[Float[Tensor, "_"]] | None = None,
    ) -> list[Clip]:
        """Encode images and videos up to and including the merger.

        Parameters
        ----------
        inputs : ``pixel_values`` (patches, pixels) with ``image_grid_thw`` (images, 3);
            ``pixel_values_videos`` with ``video_grid_thw``, perhaps ``second_per_grid_ts``
        needs : names of the cues to capture on the way, such as ``attention@-2``; ``tower`` has the
            patches of a token side by side, as the merger reads them
        frame_times : seconds of the frames, or of the groups that the tower reads as one, one
            tensor a video; by default what ``second_per_grid_ts`` says, else 0, 1, 2, ...

        Raises
        ------
        InputError
            If pixel values and grid do not fit each other.
        CapabilityError
            If a cue cannot be given.
        """
        cues = self.cues(needs)
        clips: list[Clip] = []
        for kind, (pixels_name, grid_name, *_) in self.visual_inputs.items():
            pixels, grids = inputs.get(pixels_name), inputs.get(grid_name)
            if pixels is None:
                continue
            flat = pixels.ndim == 2 and 0 not in pixels.shape
            if grids is None or not flat or int(grids.prod(-1).sum()) != len(pixels):
                raise InputError(
                    f"{pixels_name} must be (patches, pixels) and come with a {grid_name} that "
                    f"adds up to them, got shape {tuple(pixels.shape)}"
                )
            seconds = inputs.get("second_per_grid_ts") if kind == "video" else None
            layouts = [
                self._layout(kind, grid, None if seconds is None else float(seconds[index]))
                for index, grid in enumerate(grids.tolist())
            ]
            times = frame_times if kind == "video" else None
            clips += self._encode(pixels, grids, layouts, cues, times)
        return clips

    def _encode(
        self,
        pixels: Float[Tensor, "patches pixels"],
        grids: Int[Tensor, "clips 3"],
        layouts: Sequence[ClipLayout],
        cues: Sequence[Cue],
        frame_times: Sequence[Tensor] | None,
    ) -> list[Clip]:
        with capture_cues(self.vision, cues, pixels) as captured:
            output = self.tower(pixels.type(self.tower.dtype), grid_thw=grids, return_dict=True)
        counts = [layout.n_placeholders for layout in layouts]
        order = self.token_order(grids)
        by_cue = {}
        for cue in cues:
            values = self._of_tokens(cue, captured)
            if order is not None and cue.kind != PIXELS:
                values = values[order]
            by_cue[cue.name] = values.split(counts)
        deepstack = self.deepstack_features(output)
        by_clip = [None] * len(counts) if deepstack is None else deepstack.split(counts, dim=1)
        clips = []
        for index, features in enumerate(output.pooler_output.split(counts)):
            layout = layouts[index]
            shape = (layout.frames, layout.grid[0] * layout.grid[1])
            found = {name: values[index].unflatten(0, shape) for name, values in by_cue.items()}
            for cue in cues:
                if cue.is_received:  # of all queries of the frame, whatever they can see
                    found[cue.name] = found[cue.name] / (shape[1] * self.merge**2)
            given = times_of(frame_times, index, len(layouts), features.device)
            tokens = VisualTokens.of(
                features.unflatten(0, shape),
                layout.grid,
                frame_times=self._times(layout, given, features.device),
                cues=found,
            )
            clips.append(Clip(tokens, layout, by_clip[index]))
        return clips

    def token_order(self, grids: Int[Tensor, "clips 3"]) -> Int[Tensor, "tokens"] | None:
        """Return the order of tokens inside the tower; None if it is raster order."""
        return None

    def deepstack_features(self, output: Any) -> Float[Tensor, "levels tokens dim"] | None:
        """Return the DeepStack features, if the tower has any."""
        return None

    def _of_tokens(self, cue: Cue, captured: CapturedCues) -> Float[Tensor, "tokens *width"]:
        """Return a cue of every token, in the order in which the tower has them.

        Cues of a layer are averaged over the patches of a token; attention received is summed over
        queries. A call shows the patches that see each other: a frame, or a window of one.
        """
        if cue.kind == PIXELS:
            return captured.value(cue)
        if cue.kind == TOWER:
            return captured.value(cue).unflatten(0, (-1, self.merge**2)).flatten(1)
        calls = [
            each[0] * each.shape[1] if cue.is_received else each[0] for each in captured.calls(cue)
        ]
        return torch.cat(calls).unflatten(0, (-1, self.merge**2)).mean(1)

    def _times(
        self, layout: ClipLayout, given: Tensor | None, device: torch.device
    ) -> Float[Tensor, "frames"]:
        """Return the seconds of the groups of frames that the LLM reads."""
        if given is None:
            return torch.arange(layout.frames, device=device) * (layout.seconds_per_frame or 1.0)
        given = given.float()
        if len(given) == layout.frames:
            return given
        return self.group_times(given)

    def group_times(self, frame_times: Float[Tensor, "frames"]) -> Float[Tensor, "groups"]:
        """Return the middle of the first and the last frame of every group."""
        missing = -len(frame_times) % self.frame_group
        full = torch.cat((frame_times, frame_times[-1:].expand(missing)))
        return full.unflatten(0, (-1, self.frame_group))[:, [0, -1]].mean(1)

    # From clips to calls

    def splice_parts(
        self, inputs: Mapping[str, Any], parts: tuple[VisualPart, ...], positions: str
    ) -> QwenSpliced:
        """Embed the prompts with the parts in the place of their placeholders."""
        spliced = super().splice_parts(inputs, parts, "contiguous")
        layout = spliced.layout
        count = layout.attention_mask.long().cumsum(-1) - 1
        count = count.masked_fill(layout.attention_mask == 0, 0)
        axes, deltas = count.expand(3, -1, -1), count.new_zeros(len(count), 1)
        if positions == "original":
            axes, deltas = self._original_axes(inputs, layout, parts)
        return QwenSpliced(
            layout=layout,
            parts=parts,
            inputs_embeds=spliced.inputs_embeds,
            position_ids=torch.cat((count[None], axes)),
            rope_deltas=deltas,
        )

    def _original_axes(
        self, inputs: Mapping[str, Any], layout: Layout, parts: Sequence[VisualPart]
    ) -> tuple[Int[Tensor, "3 rows short"], Int[Tensor, "rows 1"]]:
        """Let the model number the unreduced prompts; return the positions that remain."""
        input_ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        types = torch.zeros_like(input_ids)
        facts: dict[str, Any] = {}
        for kind, number in TOKEN_TYPES.items():
            types[input_ids == self.token_ids[kind]] = number
            grids = [self._grid(part.layout) for part in parts if part.layout.kind == kind]
            facts[f"{kind}_grid_thw"] = input_ids.new_tensor(grids) if grids else None
        if (seconds := self._seconds(inputs, parts)) is not None:
            facts["second_per_grid_ts"] = seconds
        axes, deltas = self.model.model.get_rope_index(
            input_ids=input_ids, mm_token_type_ids=types, attention_mask=mask, **facts
        )
        n_full = input_ids.shape[1] if mask is None else mask.sum(1, keepdim=True)
        saved = n_full - layout.attention_mask.sum(1, keepdim=True)
        return torch.stack([layout.take(axis, 0) for axis in axes]), deltas + saved

    def _grid(self, layout: ClipLayout) -> list[int]:
        return [layout.frames, layout.grid[0] * self.merge, layout.grid[1] * self.merge]

    def _seconds(self, inputs: Mapping[str, Any], parts: Sequence[VisualPart]) -> Any:
        """Return the seconds of one temporal step, one number a video."""
        if inputs.get("second_per_grid_ts") is not None:
            return inputs["second_per_grid_ts"]
        known = [part.layout.seconds_per_frame for part in parts if part.layout.kind == "video"]
        return None if None in known or not known else torch.tensor(known)

    @contextmanager
    def during_call(self, spliced: Spliced) -> Iterator[None]:
        """Set the M-RoPE offset for decoding from the cache."""
        assert isinstance(spliced, QwenSpliced)
        self.model.model.rope_deltas = spliced.rope_deltas.to(spliced.inputs_embeds.device)
        yield

    @contextmanager
    def reduced_calls(self, reduction: Reduction, positions: str, inside: Inside) -> Iterator[None]:
        """Let ``generate`` and calls of the model run reduced while the context lasts."""
        with self._deltas_restored(), super().reduced_calls(reduction, positions, inside):
            yield

    def _prompt_scores_whole(
        self,
        part: VisualPart,
        prompts: Sequence[Tensor],
        inside: Inside,
        continuations: Continuations,
    ) -> PromptScores:
        with self._deltas_restored():
            return super()._prompt_scores_whole(part, prompts, inside, continuations)

    @contextmanager
    def _deltas_restored(self) -> Iterator[None]:
        before = self.model.model.rope_deltas
        try:
            yield
        finally:
            self.model.model.rope_deltas = before

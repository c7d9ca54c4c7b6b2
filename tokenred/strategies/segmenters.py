"""Temporal segmenters: which runs of frames are treated together."""

from typing import Annotated, Literal

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import CapabilityError, InputError
from tokenred.interfaces import TemporalSegmenter
from tokenred.types import Segments


class FixedLengthConfig(StrategyConfig):
    """Settings of the fixed-length segmenter."""

    segment_frames: int = Field(
        4, ge=1, le=2**20, description="frames of a segment; the last may be shorter"
    )


class FixedLengthSegmenter(TemporalSegmenter):
    """Cut every ``segment_frames`` frames.

    Shapes
    ------
    descriptors : (frames, dim), only the count is read

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3 (uniform clips; the length is not stated there).
    Licence of source: written from the paper.
    Differs: any number of frames.
    """

    config: FixedLengthConfig
    static = True

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return segments of ``segment_frames`` frames."""
        frames = descriptors.shape[0]
        return Segments((*range(0, frames, self.config.segment_frames), frames))


class FixedCountConfig(StrategyConfig):
    """Settings of the fixed-count segmenter."""

    n_segments: int = Field(8, ge=1, le=2**20, description="segments; never more than frames")
    only_frames: tuple[Annotated[int, Field(ge=1, le=2**20)], ...] = Field(
        (), description="frame counts that are accepted; empty: all (released AOT: 32 and 64)"
    )


class FixedCountSegmenter(TemporalSegmenter):
    """Cut the video into ``n_segments`` runs whose lengths differ by one frame at most.

    Shapes
    ------
    descriptors : (frames, dim), only the count is read

    Raises
    ------
    InputError
        If ``only_frames`` is set and the video has another number of frames.

    Source
    ------
    TyroneLi/AOT@88455ee ``iter_segments``: 32 frames -> 8 clips of 4, 64 -> 8 of 8.
    Licence of source: Apache-2.0 (written from our description).
    Differs: any number of frames unless ``only_frames`` says otherwise.
    """

    config: FixedCountConfig
    static = True

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return ``min(n_segments, frames)`` segments."""
        frames = descriptors.shape[0]
        allowed = self.config.only_frames
        if allowed and frames not in allowed:
            raise InputError(f"this segmenter accepts {allowed} frames, the video has {frames}")
        count = min(self.config.n_segments, frames)
        return Segments(tuple(frames * i // count for i in range(count + 1)))


class SingleSegmenter(TemporalSegmenter):
    """Treat all frames as one segment.

    Shapes
    ------
    descriptors : (frames, dim), not read

    Source
    ------
    Our own control. Differs: nothing to differ from.
    """

    static = True

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return one segment."""
        return Segments((0, descriptors.shape[0]))


class DynamicConfig(StrategyConfig):
    """Settings of the dynamic segmenter."""

    min_segments: int = Field(8, ge=1, le=2**20, description="segments at least (c)")
    tau: float = Field(0.8, ge=-1, le=1, description="similarities below this cut as well")
    short_video: Literal["clamp", "error"] = Field(
        "clamp", description="with fewer frames than segments: one a frame, or an error as released"
    )


class DynamicSegmenter(TemporalSegmenter):
    """Cut at the ``min_segments - 1`` lowest similarities of neighbouring frames and below ``tau``.

    Shapes
    ------
    descriptors : (frames, dim), any scale

    Raises
    ------
    InputError
        If ``short_video`` is ``error`` and there are fewer frames than ``min_segments``.

    Source
    ------
    AOT, arXiv 2603.01400, section 8, after FastVID's DySeg (LunarShen/FastVID@a40a109, MIT;
    commented out in TyroneLi/AOT@88455ee). Licence: written from our description.
    Differs: short videos are clamped by default; the earlier of equal similarities is cut.
    """

    config: DynamicConfig

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return at least ``min_segments`` segments."""
        frames = descriptors.shape[0]
        if frames < self.config.min_segments and self.config.short_video == "error":
            raise InputError(
                f"{self.config.min_segments} segments asked for, the video has {frames} frames"
            )
        similarity = neighbour_similarity(descriptors)
        n_cuts = min(self.config.min_segments - 1, frames - 1)
        lowest = similarity.argsort(stable=True)[:n_cuts].tolist()
        below = (similarity < self.config.tau).nonzero()[:, 0].tolist()
        cuts = sorted({cut + 1 for cut in (*lowest, *below)})
        return Segments((0, *cuts, frames))


def neighbour_similarity(
    descriptors: Float[Tensor, "frames dim"],
) -> Float[Tensor, "gaps"]:
    """Return the cosine similarity of every frame with the next."""
    unit = F.normalize(descriptors.float(), dim=-1)
    return (unit[:-1] * unit[1:]).sum(-1)


class ClusteringConfig(StrategyConfig):
    """Settings of the clustering segmenter."""

    n_segments: int = Field(8, ge=1, le=2**20, description="segments; never more than frames")
    linkage: Literal["ward", "average", "complete"] = Field(
        "average", description="how agglomerative clustering measures two runs"
    )


class ClusteringSegmenter(TemporalSegmenter):
    """Merge neighbouring frames bottom-up until ``n_segments`` runs are left.

    Agglomerative clustering on unit-length descriptors in which only neighbours in time may join,
    so every cluster is a run of frames.

    Shapes
    ------
    descriptors : (frames, dim), any scale

    Raises
    ------
    CapabilityError
        If scikit-learn is not installed.

    Source
    ------
    AOT, arXiv 2603.01400, section 3.3 ("dynamic clustering"), with scikit-learn's
    ``AgglomerativeClustering`` (BSD-3, used as a library).
    Differs: AOT's own dynamic clips are DySeg, which is the ``dynamic`` segmenter.
    """

    config: ClusteringConfig

    def segment(self, descriptors: Tensor, *, frame_times: Tensor | None = None) -> Segments:
        """Return ``min(n_segments, frames)`` segments."""
        frames = descriptors.shape[0]
        count = min(self.config.n_segments, frames)
        if count in (1, frames):
            return Segments((0, frames) if count == 1 else tuple(range(frames + 1)))
        try:
            from scipy.sparse import diags
            from sklearn.cluster import AgglomerativeClustering
        except ImportError:
            raise CapabilityError(
                "segmenter 'clustering' needs scikit-learn: pip install 'tokenred[embedded]'"
            ) from None
        chain = diags([1.0, 1.0], [-1, 1], shape=(frames, frames)).tocsr()
        unit = descriptors.float().detach().cpu()
        unit = unit / unit.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        labels = AgglomerativeClustering(
            n_clusters=count, connectivity=chain, linkage=self.config.linkage
        ).fit_predict(unit.numpy())
        cuts = [t for t in range(1, frames) if labels[t] != labels[t - 1]]
        return Segments((0, *cuts, frames))

"""Segments from clusters of frames."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig
from tokenred.errors import InputError
from tokenred.interfaces import TemporalSegmenter
from tokenred.kernels.clustering import density_peaks
from tokenred.types import Segments
from tokenred_methods.prunevid.runs import refine_runs


class FrameClustersConfig(StrategyConfig):
    """Settings of the frame-clusters segmenter."""

    share: float = Field(0.25, gt=0, le=1, description="clusters a frame, rounded down")
    neighbours: int = Field(
        7, ge=1, le=2**20, description="frames that make the density, itself among them"
    )
    released: bool = Field(
        False,
        description="fail on videos with fewer frames than `neighbours` or than one cluster needs, "
        "which otherwise use as many neighbours as there are frames, and one cluster",
    )


class FrameClustersSegmenter(TemporalSegmenter):
    """Cluster the frames by density peaks and cut between runs of one cluster.

    A cluster keeps its longest run of frames; stray frames join the longer of the runs beside them.
    So there may be fewer or more segments than clusters: a cluster with two longest runs makes two.

    Shapes
    ------
    descriptors : (frames, dim), any scale

    Raises
    ------
    InputError
        If ``released`` is set and the video is too short.

    Source
    ------
    PruneVid, arXiv 2412.16117; Visual-AI/PruneVid@b12600c ``merge_frames_dynamic``,
    ``refine_clusters``, ``segment_lengths``.
    Licence of source: CC BY-NC-SA 4.0 (written from our description).
    Differs: short videos are clamped by default; of equally dense frames the earlier counts as
    denser, where the release adds random noise to every density. ``noise`` replays that noise.
    """

    config: FrameClustersConfig

    def __init__(self, config: FrameClustersConfig) -> None:
        super().__init__(config)
        self.noise: Float[Tensor, "frames"] | None = None

    def segment(
        self, descriptors: Float[Tensor, "frames dim"], *, frame_times: Tensor | None = None
    ) -> Segments:
        """Return the runs of frames."""
        frames = len(descriptors)
        n_clusters, neighbours = int(frames * self.config.share), self.config.neighbours
        if self.config.released and (n_clusters < 1 or frames < neighbours):
            raise InputError(
                f"{frames} frames are too few for {n_clusters} clusters by {neighbours} neighbours"
            )
        n_clusters, neighbours = max(1, n_clusters), min(neighbours, frames)
        found = density_peaks(descriptors, n_clusters, neighbours, noise=self.noise)
        labels = refine_runs(found.label.tolist())
        cuts = [t for t in range(1, frames) if labels[t] != labels[t - 1]]
        return Segments((0, *cuts, frames))

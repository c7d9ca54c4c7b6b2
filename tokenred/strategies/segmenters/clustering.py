"""Segments by clustering neighbouring frames."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig
from tokenred.errors import CapabilityError
from tokenred.types import Segments


class ClusteringConfig(StrategyConfig):
    """Settings of the clustering segmenter."""

    n_segments: int = Field(8, ge=1, description="segments; never more than frames")
    linkage: Literal["ward", "average", "complete"] = Field(
        "average", description="how agglomerative clustering measures two runs"
    )


class ClusteringSegmenter:
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

    static: ClassVar[bool] = False

    def __init__(self, config: ClusteringConfig) -> None:
        self.config = config

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

"""Anchors in the middle of clusters: density peaks on nearest neighbours."""

import torch
from pydantic import Field
from torch import Tensor

from tokenred.config import StrategyConfig, TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.clustering import density_peaks
from tokenred.kernels.merge import gather_tokens, padded_index
from tokenred.types import VisualTokens

AT_ONCE = 8
"""Frames whose distances are in memory together."""


class DensityPeaksConfig(StrategyConfig):
    """Settings of the density-peaks selector."""

    neighbours: int = Field(
        7,
        ge=1,
        le=2**20,
        description="nearest neighbours that make a density, the token itself counted",
    )
    at_most_anchors: bool = Field(
        False, description="no more neighbours than anchors, as HoliTom has it"
    )
    of: TokenCue = Field("features", description="what is clustered: 'features' or a per-token cue")


class DensityPeaksSelector(AnchorSelector):
    """Select tokens that are dense and far from anything denser (DPC-KNN), frame by frame.

    A frame with fewer tokens than ``neighbours`` uses all it has.

    Shapes
    ------
    features : (frames, tokens, dim)      returns : (frames, n_anchors), best first

    Source
    ------
    Du et al. 2016, as FastVID (LunarShen/FastVID@a40a109, MIT), HoliTom (cokeshao/HoliTom@e9b2972,
    Apache-2.0) and PruneVid (Visual-AI/PruneVid@b12600c, CC BY-NC-SA 4.0) use it. Licence of
    source: as named (written from our description).
    Differs: they add noise of 1e-6 to the densities; here, of two equals the earlier is denser.
    """

    config: DensityPeaksConfig

    def __init__(self, config: DensityPeaksConfig) -> None:
        super().__init__(config)
        self.noise: list[Tensor] | None = None
        """Noise of released code, one tensor for each frame; for comparisons only."""

    @property
    def needs(self) -> frozenset[str]:
        """The cue that is clustered, if it is one."""
        return frozenset() if self.config.of == "features" else frozenset({self.config.of})

    def select(self, tokens: VisualTokens, n_anchors: int, *, generator: torch.Generator) -> Tensor:
        """Return (frames, n_anchors) indices of the cluster centres."""
        of = self.config.of
        points = tokens.features if of == "features" else tokens.cues[of]
        points = points if points.ndim == 3 else points[..., None]
        counts = tokens.keep.sum(-1).tolist()
        chosen = torch.empty((len(counts), n_anchors), dtype=torch.long, device=tokens.keep.device)
        for count in sorted(set(counts)):
            frames = [t for t, n in enumerate(counts) if n == count]
            for start in range(0, len(frames), AT_ONCE):
                some = frames[start : start + AT_ONCE]
                chosen[some] = self._of_frames(points[some], tokens.keep[some], some, n_anchors)
        return chosen

    def _of_frames(self, points: Tensor, keep: Tensor, frames: list[int], n_anchors: int) -> Tensor:
        """Return the centres in frames with equally many tokens."""
        alive, _ = padded_index(keep)
        count = alive.shape[1]
        most = n_anchors if self.config.at_most_anchors else count
        neighbours = min(self.config.neighbours, most, count)
        noise = torch.stack([self.noise[t] for t in frames]) if self.noise else None
        found = density_peaks(gather_tokens(points, alive), n_anchors, neighbours, noise=noise)
        return alive.gather(-1, found.centres)

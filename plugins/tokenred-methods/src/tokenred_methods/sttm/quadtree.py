"""A quadtree inside every frame, whose leaves are then merged over time."""

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.errors import ConfigError
from tokenred.interfaces import TokenGrouper
from tokenred.kernels.sparse import sparse_map
from tokenred.types import Grouping
from tokenred_methods.sttm.leaves import Leaves, find_leaves
from tokenred_methods.sttm.over_time import first_ancestor, released_union, similar_pairs
from tokenred_methods.sttm.pyramid import pyramid


class QuadtreeConfig(StrategyConfig):
    """Settings of the quadtree grouper."""

    threshold: float = Field(
        0.85,
        ge=-10,
        le=10,
        description="a cell stays whole if it is as similar as this to each of its quarters",
    )
    temporal_threshold: float | None = Field(
        0.65,
        ge=-10,
        le=10,
        description="a leaf joins one of the frame before that it overlaps and that is as similar; "
        "null: none does",
    )
    temporal_relative: bool = Field(
        False,
        description="add the spatial threshold to the temporal one, which then says how far below "
        "it lies (-0.2): one knob moves both",
    )
    root_level: int = Field(
        1,
        ge=-1,
        le=20,
        description="where the trees begin: 0: at most 2x2 cells a frame, 1: the next finer grid "
        "and so on; -1: single tokens",
    )
    weighted_avg: bool = Field(
        False, description="average tokens; otherwise average cells, whatever their size"
    )
    head_dim: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="compare as the mean over heads of this width; null: in one piece",
    )
    released: bool = Field(
        False,
        description="cells on the border of odd grids must also resemble the first one, and long "
        "chains over time draw in leaves of the same frame",
    )


class QuadtreeGrouper(TokenGrouper):
    """Merge squares of similar tokens inside frames, then squares that persist over time.

    From coarse to fine, a cell of the pyramid becomes a leaf if its mean resembles each of its
    quarters; otherwise its quarters are visited. Then every leaf joins the first leaf of the frame
    before that it overlaps and resembles, and goes where that one goes. The earliest leaf of such a
    group stands for it, the group becomes the mean of its leaves.

    Shapes
    ------
    features : (frames, tokens, dim)      map : (groups, frames * tokens), rows sum to one

    Raises
    ------
    ConfigError
        If ``head_dim`` does not divide the width of the features.

    Source
    ------
    STTM, arXiv 2507.07990; HYUNJS/STTM@00736c7 ``quadtree_build_video``.
    Licence of source: none in the repository (written from our description).
    Differs: quarters that odd grids lack take no part, while in the release the first cell of the
    level stands in for them; leaves merge in the direction of time only, as the paper says, while
    the release also merges leaves of one frame that share a later one, if there are long chains
    (both: ``released``). Dropped tokens are left out. Acts on what the LLM would see, the release
    on the hidden states before its layer 2.
    """

    config: QuadtreeConfig

    def group(self, tokens: VisualTokens, *, generator: torch.Generator) -> Grouping:
        """Return the groups of leaves, sorted by the place of the first leaf."""
        config, leaves = self.config, whole_cells(tokens, self.config)
        union = released_union if config.released else first_ancestor
        label = union(len(leaves.features), self._links(leaves))
        head, group = label.unique(return_inverse=True)
        place = tokens.keep.flatten().nonzero()[:, 0]
        row = group[leaves.of_token.flatten()[place]]
        share = torch.ones_like(leaves.share) if config.weighted_avg else leaves.share
        values = share.flatten()[place]
        values = values / values.new_zeros(len(head)).index_add(0, row, values)[row]
        size = (len(head), tokens.keep.numel())
        return Grouping(
            leaves.first[head], sparse_map(torch.stack([row, place]), values.float(), size)
        )

    def _links(self, leaves: Leaves) -> Int[Tensor, "2 links"]:
        threshold = self.config.temporal_threshold
        if threshold is None:
            return leaves.of_token.new_zeros(2, 0)
        if self.config.temporal_relative:
            threshold += self.config.threshold
        return similar_pairs(leaves, threshold, self.config.head_dim)


def whole_cells(tokens: VisualTokens, config: QuadtreeConfig) -> Leaves:
    """Return the cells that stay whole in every frame."""
    width = tokens.features.shape[-1]
    if config.head_dim is not None and width % config.head_dim:
        raise ConfigError(f"{width} is no multiple of {config.head_dim}", ["head_dim"])
    wide = tokens.features.to(torch.promote_types(tokens.features.dtype, torch.float32))
    levels = pyramid(wide, tokens.keep, tokens.grid, by_tokens=config.weighted_avg)
    start = len(levels) - 1 if config.root_level < 0 else config.root_level
    return find_leaves(
        levels[min(start, len(levels) - 1) :],
        config.threshold,
        head_dim=config.head_dim,
        released=config.released,
    )

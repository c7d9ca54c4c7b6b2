"""Connected components of similar tokens, inside frames and then across the video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from tokenred import StrategyConfig, VisualTokens
from tokenred.interfaces import TokenGrouper
from tokenred.kernels.sparse import compose
from tokenred.types import Grouping
from tokenred_methods.scissor.graph import Components, components, sample_size
from tokenred_methods.scissor.maps import in_a_row, joined_map, mean_map, placed_map


class ComponentsConfig(StrategyConfig):
    """Settings of the components grouper."""

    tau: float = Field(0.9, ge=-2, le=2, description="tokens are linked if their cosine is above")
    epsilon: float = Field(
        0.05,
        ge=1e-3,
        le=1e6,
        description="links of ln(n) / epsilon^2 random tokens of n count; small: of all",
    )
    released: bool = Field(
        False, description="tokens deep in a tree of the union-find are in no component"
    )


@dataclass(frozen=True)
class TwoPasses:
    """What both passes over the tokens of a video find.

    Attributes
    ----------
    spatial : components of tokens, frame after frame
    overall : components of the spatial ones
    centres : sparse (components, tokens) averages that the overall ones stand for
    nearest : overall component that every token is most similar to
    """

    spatial: Components
    overall: Components
    centres: Tensor
    nearest: Int[Tensor, "tokens"]


class ComponentsGrouper(TokenGrouper):
    """Replace tokens by the components of their similarity graph.

    Tokens of a frame that chains of similar ones connect are averaged; then the same is done with
    these averages of all frames. In the end every token of the video joins the component that it is
    most similar to, and each component becomes the mean of itself and all tokens that joined.

    Shapes
    ------
    features : (frames, tokens, dim)      map : (groups, frames * tokens), rows sum to one

    Source
    ------
    LLaVA-Scissor, arXiv 2506.21862; HumanMLLM/LLaVA-Scissor@b63354c ``approximate_components``.
    Licence of source: CC BY-NC 4.0 (written from our description).
    Differs: components have all their members, while the release lists only those right below a
    root of its union-find and leaves the others out of the average (``released``). Dropped tokens
    are left out.

    Attributes
    ----------
    samples : None, or a list of node samples to use in place of random ones, popped from the front
    """

    config: ComponentsConfig

    def __init__(self, config: ComponentsConfig) -> None:
        super().__init__(config)
        self.samples: list[Tensor] | None = None

    def group(self, tokens: VisualTokens, *, generator: torch.Generator) -> Grouping:
        """Return the components, sorted by frame and place of the tokens that stand for them."""
        place = tokens.keep.flatten().nonzero()[:, 0]
        flat = tokens.features.flatten(0, 1)[place]
        wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
        counts = tokens.keep.sum(-1).tolist()

        def sample(n: int, size: int) -> Tensor | None:
            return self._sample(n, size, generator)

        found = two_passes(wide, counts, self.config, sample)
        joined = joined_map(found.centres, found.nearest)
        return Grouping(
            place[found.spatial.head[found.overall.head]],
            placed_map(joined, place, tokens.keep.numel()),
        )

    def _sample(self, n: int, size: int, generator: torch.Generator) -> Tensor | None:
        """Return the nodes whose links count, of n; None for all."""
        if self.samples is not None:
            return self.samples.pop(0)
        if self.config.released or size < n:
            return torch.randperm(n, generator=generator, device=generator.device)[:size]
        return None


def two_passes(
    features: Float[Tensor, "tokens dim"],
    per_frame: Sequence[int],
    config: ComponentsConfig,
    sample: Callable[[int, int], Tensor | None],
) -> TwoPasses:
    """Return both passes over the tokens of all frames, one frame after the other.

    Parameters
    ----------
    sample : gives, of n nodes, those (so many) whose links count; None for all
    """

    def linked(nodes: Tensor) -> Components:
        drawn = sample(len(nodes), sample_size(len(nodes), config.epsilon))
        return components(nodes, config.tau, drawn, released=config.released)

    frames = features.split(list(per_frame))
    spatial = in_a_row([linked(part) for part in frames])
    inside = mean_map(spatial)
    overall = linked(torch.sparse.mm(inside.to(features.dtype), features))
    centres = compose(mean_map(overall), inside)
    unit = F.normalize(torch.sparse.mm(centres.to(features.dtype), features), dim=-1)
    nearest = [(F.normalize(part, dim=-1) @ unit.mT).argmax(-1) for part in frames]
    return TwoPasses(spatial, overall, centres, torch.cat(nearest))

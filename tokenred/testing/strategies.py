"""Hypothesis strategies for everything that a tokenred strategy takes.

Hypothesis draws shapes, kinds and a seed; torch fills the tensors from the seed. Examples shrink to
small shapes and stay fast.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from jaxtyping import Float
from torch import Tensor

from tokenred.config import is_of_frames
from tokenred.testing.videos import cue_width, frame_cue
from tokenred.types import Coupling, TokenGroup, VisualTokens

SEEDS = st.integers(0, 2**31 - 1)
COST_TERMS = ("cosine", "spatial", "temporal")
"""The terms that drawn couplings carry, by the names of the built-in cost terms."""


@dataclass(frozen=True)
class CouplingProblem:
    """What a coupler receives: ``couple(cost, source_mass, anchor_mass)``."""

    cost: Float[Tensor, "*batch sources anchors"]
    source_mass: Float[Tensor, "*batch sources"]
    anchor_mass: Float[Tensor, "*batch anchors"]

    def __iter__(self):  # type: ignore[no-untyped-def]
        """Unpack as the arguments of ``couple``."""
        return iter((self.cost, self.source_mass, self.anchor_mass))


def generators() -> st.SearchStrategy[torch.Generator]:
    """Draw seeded torch generators."""
    return SEEDS.map(lambda seed: torch.Generator().manual_seed(seed))


@st.composite
def cost_matrices(
    draw: st.DrawFn,
    *,
    batch: tuple[int, ...] = (),
    max_sources: int = 9,
    max_anchors: int = 6,
    kinds: Iterable[str] = ("distinct", "ties", "constant", "wide"),
) -> Float[Tensor, "*batch sources anchors"]:
    """Draw costs in [0, 2]: all distinct, with many ties, constant, or a hundred times wider."""
    shape = (*batch, draw(st.integers(1, max_sources)), draw(st.integers(1, max_anchors)))
    kind = draw(st.sampled_from(tuple(kinds)))
    if kind == "constant":
        return torch.full(shape, draw(st.floats(0, 2, width=32)))
    cost = 2 * torch.rand(shape, generator=draw(generators()))
    if kind == "ties":
        return (2 * cost).round() / 2
    return 100 * cost if kind == "wide" else cost


@st.composite
def marginals(draw: st.DrawFn, n: int, *, batch: tuple[int, ...] = ()) -> Float[Tensor, "*batch n"]:
    """Draw positive masses with total 1, equal or up to four to one."""
    if draw(st.booleans()):
        return torch.full((*batch, n), 1 / n)
    mass = 0.5 + 1.5 * torch.rand((*batch, n), generator=draw(generators()))
    return mass / mass.sum(-1, keepdim=True)


@st.composite
def coupling_problems(
    draw: st.DrawFn,
    *,
    batch: tuple[int, ...] = (),
    max_sources: int = 9,
    max_anchors: int = 6,
    kinds: Iterable[str] = ("distinct", "ties", "constant"),
) -> CouplingProblem:
    """Draw a cost with marginals that fit it."""
    cost = draw(
        cost_matrices(batch=batch, max_sources=max_sources, max_anchors=max_anchors, kinds=kinds)
    )
    return CouplingProblem(
        cost,
        draw(marginals(cost.shape[-2], batch=batch)),
        draw(marginals(cost.shape[-1], batch=batch)),
    )


@st.composite
def couplings(draw: st.DrawFn, *, batch: tuple[int, ...] = ()) -> Coupling:
    """Draw a coupling with a dense random plan that meets its source marginal, and cost terms."""
    problem = draw(coupling_problems(batch=batch, kinds=("distinct",)))
    generator = draw(generators())
    share = torch.rand(problem.cost.shape, generator=generator) + 0.01
    plan = share / share.sum(-1, keepdim=True) * problem.source_mass[..., :, None]
    terms = {name: torch.rand(problem.cost.shape, generator=generator) for name in COST_TERMS}
    return replace(Coupling.direct(plan, *problem), terms=terms)


@st.composite
def token_groups(
    draw: st.DrawFn,
    needs: Iterable[str] = (),
    *,
    batch: tuple[int, ...] = (),
    dim: int = 4,
    max_tokens: int = 7,
    cues: Mapping[str, int] | None = None,
) -> TokenGroup:
    """Draw one side of a coupling: features, some with a common offset, places, whole frames.

    Parameters
    ----------
    needs : names of the per-token cues to fill in
    cues : width of cues of your own by name; 0 is one positive number a token
    """
    n = draw(st.integers(1, max_tokens))
    generator = draw(generators())
    rank = torch.rand((*batch, 2 * n), generator=generator).argsort(-1)[..., :n]
    return TokenGroup(
        torch.randn((*batch, n, dim), generator=generator) + draw(st.sampled_from((0.0, 2.0))),
        torch.rand((*batch, n, 2), generator=generator),
        torch.randint(0, 6, (*batch, n), generator=generator).float(),
        rank,
        {name: _cue(name, (*batch, n), cues, generator) for name in sorted(needs)},
    )


@st.composite
def visual_tokens(
    draw: st.DrawFn,
    needs: Iterable[str] = (),
    *,
    frames: int | None = None,
    max_frames: int = 3,
    max_side: int = 8,
    dim: int = 6,
    drop: bool = False,
    scenes: bool = False,
    cues: Mapping[str, int] | None = None,
) -> VisualTokens:
    """Draw the tokens of a video on a square or oblong grid.

    Parameters
    ----------
    needs : names of the cues to fill in, see ``VisualTokens.cues``
    frames : how many; drawn if None
    drop : drop some tokens beforehand, at least one of every frame stays
    scenes : let frames share a scene, in some of the videos
    cues : width of cues of your own by name; 0 is one positive number a token
    """
    if frames is None:
        frames = draw(st.integers(1, max_frames))
    grid = draw(st.integers(2, max_side)), draw(st.integers(2, max_side))
    generator = draw(generators())
    tokens = grid[0] * grid[1]
    found = {
        name: frame_cue(name, frames, generator)
        if is_of_frames(name)
        else _cue(name, (frames, tokens), cues, generator)
        for name in sorted(needs)
    }
    features = torch.randn(frames, tokens, dim, generator=generator)
    if scenes and draw(st.booleans()):
        features = features[:1] + 0.2 * features
    video = VisualTokens.of(features, grid, cues=found)
    if not drop:
        return video
    keep = torch.rand(frames, tokens, generator=generator) < 0.7
    keep[:, draw(st.integers(0, tokens - 1))] = True
    return replace(video, keep=keep)


def _cue(
    name: str,
    shape: tuple[int, ...],
    cues: Mapping[str, int] | None,
    generator: torch.Generator,
) -> Tensor:
    width = cue_width(name, cues)
    if width:
        return torch.randn(*shape, width, generator=generator)
    received = torch.rand(*shape, generator=generator) ** 4 + 1e-3
    return received / received.sum(-1, keepdim=True)


@st.composite
def descriptors(draw: st.DrawFn, frames: int, *, dim: int = 6) -> Float[Tensor, "frames dim"]:
    """Draw frame descriptors: noise, a still video, or scenes with cuts."""
    kind = draw(st.sampled_from(("noise", "still", "scenes")))
    generator = draw(generators())
    noise = torch.randn(frames, dim, generator=generator)
    if kind == "noise":
        return noise
    n_scenes = 1 if kind == "still" else draw(st.integers(1, frames))
    scene = torch.arange(frames) * n_scenes // frames
    return torch.randn(n_scenes, dim, generator=generator)[scene] + 0.01 * noise


@st.composite
def frame_tokens(
    draw: st.DrawFn, frames: int, *, tokens: int = 6, dim: int = 5
) -> Float[Tensor, "frames tokens dim"]:
    """Draw the tokens of frames: noise, a still video, scenes with cuts, or some still places."""
    kind = draw(st.sampled_from(("noise", "still", "scenes", "places")))
    generator = draw(generators())
    noise = torch.randn(frames, tokens, dim, generator=generator)
    if kind == "noise":
        return noise
    n_scenes = draw(st.integers(1, frames)) if kind == "scenes" else 1
    scene = torch.randn(n_scenes, tokens, dim, generator=generator)
    if kind == "places":
        return torch.where(torch.arange(tokens)[:, None] % 2 == 0, scene, noise)
    return scene[torch.arange(frames) * n_scenes // frames] + 0.01 * noise

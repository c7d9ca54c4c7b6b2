"""PruMerge+ at a fixed number, as released: the one stage that keeps a token more than once."""

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import pad

from tokenred import InputError
from tokenred.config import TokenCue
from tokenred.interfaces import AnchorSelector
from tokenred.kernels.sparse import compose, sparse_map
from tokenred.pipeline.flow import Flow, Output, TokenTable
from tokenred.pipeline.merges import Problem
from tokenred.pipeline.merging import mass_needs, masses
from tokenred.slots import Slot, build
from tokenred.stages.coupling import CouplingStage, CouplingStageConfig
from tokenred.types import MergeWeights


class RepeatsStageConfig(CouplingStageConfig):
    """Settings of PruMerge+'s stage at a fixed number."""

    selector: Slot[AnchorSelector] = Field(description="which tokens of a frame stay, repeats too")
    mass: TokenCue = Field(description="per-token cue: weights of what is taken in")
    n_anchors: float = Field(
        0.25, gt=0, le=1, description="share of a frame's tokens that stay, rounded down"
    )


class PrumergeReleasedFrameStage(CouplingStage):
    """Keep what the selector chooses, repeats included, and one token for all that it left.

    A token that is chosen twice is kept twice, and each may be the other's neighbour. As many
    tokens as were chosen again are lost: the first of those that nothing chose. The others, each
    with its mass as weight, add up to one more token, which stands last, at the place of the
    strongest of them.

    Source
    ------
    42Shawn/LLaVA-PruMerge@097c041 ``CLIPVisionTower.token_prune_merge_advanced_plus`` at a fixed
    ratio. Licence of source: Apache-2.0 (written from our description).
    Differs: any number of frames and any grid that the selector accepts.
    """

    config: RepeatsStageConfig
    decides = "adaptive"
    own_sequence = True

    def __init__(self, config: RepeatsStageConfig) -> None:
        super().__init__(config)
        self.selector = build(AnchorSelector, config.selector)

    @property
    def needs(self) -> frozenset[str]:
        """Cues that the parts ask for."""
        return self.selector.needs | mass_needs(self.config.mass) | super().needs

    def run(self, flow: Flow) -> None:
        """Select, merge, and hand all tokens on in the order of the release."""
        tokens = flow.tokens
        n = tokens.keep.shape[1]
        count = max(1, int(n * self.config.n_anchors))
        chosen = self.selector.select(tokens, count, generator=flow.generator)
        if chosen.dtype == torch.bool:
            raise InputError(
                f"selector '{self.config.selector.name}' gives a mask; this stage needs a list"
            )
        frames = [
            self._frame(flow, row[row >= 0] + t * n, t) for t, row in enumerate(chosen.unbind(0))
        ]
        flow.output = Output(
            torch.cat([place for place, *_ in frames]),
            torch.cat([features for _, features, *_ in frames]),
            torch.cat([mass for *_, mass, _ in frames]),
            torch.cat([trace for *_, trace in frames]) if flow.tracing else None,
        )
        keep = torch.zeros_like(tokens.keep).view(-1).index_fill(0, flow.output.place, True)
        flow.update(keep=keep.view_as(tokens.keep))

    def _frame(self, flow: Flow, chosen: Tensor, frame: int) -> tuple[Tensor, ...]:
        """Return the places of what a frame keeps, its features, masses and rows of the trace."""
        n = flow.mass.shape[1]
        left = flow.unflushed.keep[frame].clone()
        left[chosen - frame * n] = False
        repeats = len(chosen) - len(chosen.unique())
        rest = left.nonzero()[repeats:, 0] + frame * n
        everything = torch.cat([chosen, rest])
        weights = self._weights(flow, everything[None], len(chosen))
        # Rows: the chosen, then the one for the others. Columns: the chosen, then the others.
        rows = pad(torch.diag(weights.anchor[0]), (0, len(rest))) + weights.source[0].mT
        place, strongest = chosen, weights.anchor[0]
        if len(rest):
            mass = flow.tokens.cues[self.config.mass].flatten()[rest].to(rows)
            rows = torch.cat([rows, pad(mass, (len(chosen), 0))[None]])
            place = torch.cat([chosen, rest[mass.argmax()][None]])
            strongest = torch.cat([strongest, mass.amax()[None]])
        features = flow.at(everything)
        made = (rows @ features.to(rows)).to(features)
        sizes = torch.where(strongest > 0, rows.sum(-1) / strongest, 1.0).float()
        return place, made, sizes, _trace(flow, rows, everything) if flow.tracing else place

    def _weights(self, flow: Flow, everything: Tensor, n_chosen: int) -> MergeWeights:
        """Return what the chosen take in of all, but each of itself."""
        chosen = everything[:, :n_chosen]
        real = torch.ones_like(everything, dtype=torch.bool)
        problem = Problem(chosen, real[:, :n_chosen], everything, real)
        itself = torch.eye(everything.shape[1], dtype=torch.bool, device=everything.device)
        apart = itself[:, :n_chosen].expand(len(chosen), -1, -1)
        table = TokenTable(flow, self.transport.needs)
        both = masses(flow, problem, self.config.mass, self.transport)
        coupling = self.transport(table[everything], table[chosen], *both, apart)
        flow.note(coupling)
        weights: MergeWeights = self.aggregator.weights(coupling)
        return weights


def _trace(flow: Flow, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the map from encoder tokens to what is made of them."""
    row, column = rows.nonzero(as_tuple=True)
    index = torch.stack([row, columns[column]])
    made = sparse_map(index, rows[row, column].float(), (len(rows), flow.mass.numel()))
    return made if flow.trace is None else compose(made, flow.trace)

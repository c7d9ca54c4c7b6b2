"""A prompt inside an LLM that fits into a test: states with attention in closed form.

There is no model. Queries and keys are fixed linear maps of the hidden states, two heads with four
channels each; between two layers the hidden states pass through ``tanh`` of a fixed map.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tokenred.interfaces import LayerReducer
from tokenred.kernels.attention import attention_rows
from tokenred.testing.strategies import SEEDS
from tokenred.types import (
    CacheState,
    LayerReduction,
    LayerState,
    LayerStep,
    Newlines,
    Projections,
)

HEADS, HEAD_DIM = 2, 4
READS = frozenset({"attention", "previous-input"})
"""What a step can ask for."""


def layer_state(
    frames: int = 3,
    grid: tuple[int, int] = (2, 3),
    *,
    clips: int = 1,
    newlines: Newlines = "none",
    before: int = 3,
    after: int = 5,
    layer: int = 1,
    n_layers: int = 4,
    dim: int = 8,
    similar: float = 0.5,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> LayerState:
    """Return a prompt of text, videos and text, as it enters ``layer``.

    Parameters
    ----------
    frames, grid : of each video; no frames make a prompt without visual tokens
    clips : videos, with a token of text between two
    newlines : after each video, frame or row of a frame
    before, after : text tokens around the videos
    similar : weight of the scene that all frames of a video share, against noise
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[Tensor] = []
    places: list[tuple[int, int, int, bool]] = []  # clip, frame, cell, newline

    def text(count: int) -> None:
        rows.extend(torch.randn(count, dim, generator=generator))
        places.extend([(-1, -1, -1, False)] * count)

    text(before)
    line = torch.randn(dim, generator=generator)
    for clip in range(clips if frames else 0):
        if clip:
            text(1)
        scene = torch.randn(grid[0] * grid[1], dim, generator=generator)
        for frame in range(frames):
            noise = torch.randn(scene.shape, generator=generator)
            tokens = similar * scene + (1 - similar) * noise
            for cell, token in enumerate(tokens):
                rows.append(token)
                places.append((clip, frame, cell, False))
                ends_frame = cell + 1 == len(tokens)
                ends = {
                    "row": (cell + 1) % grid[1] == 0,
                    "frame": ends_frame,
                    "end": ends_frame and frame + 1 == frames,
                }
                if ends.get(newlines, False):
                    rows.append(line)
                    places.append((clip, frame, cell, True))
    text(after)
    clip_of, frame_of, cell_of, newline = (torch.tensor(column) for column in zip(*places))
    hidden = torch.stack(rows).to(dtype)
    visual = (clip_of >= 0) & ~newline
    group = (clip_of * max(frames, 1) + frame_of).where(clip_of >= 0, -1)
    cos, sin = _rotary(len(rows))
    state = LayerState(
        layer=layer,
        n_layers=n_layers,
        hidden=hidden,
        origin=torch.arange(len(rows)),
        visual=visual,
        newline=newline,
        clip=clip_of,
        frame_index=frame_of,
        token_index=cell_of,
        group=group,
        last=len(rows) - 1,
        embeddings=hidden,
        n_visual=int(visual.sum()),
        cos=cos,
        sin=sin,
        attention=_no_rows,
        probe=_no_rows,
        projections=_no_rows,
        previous_input=_no_rows,
        final_norm=_no_rows,
    )
    return with_attention(state)


def with_attention(state: LayerState, reads: frozenset[str] = READS) -> LayerState:
    """Return the state with attention of its own hidden states; what is not read is refused.

    What entered the layer before differs from them by a fixed map.
    """

    def projected(hidden: Tensor, rotary: bool) -> Projections:
        maps = _maps(hidden.shape[-1])
        query, key = (torch.einsum("nd,hdk->hnk", hidden.float(), part) for part in maps)
        if rotary and state.cos is not None and state.sin is not None:
            query, key = (part * state.cos + _turned(part) * state.sin for part in (query, key))
        return Projections(query, key, HEAD_DIM**-0.5)

    def rows(queries: Tensor, *, rotary: bool, causal: bool) -> Tensor:
        query, key, _ = projected(state.hidden, rotary)
        seen = torch.arange(len(state.hidden)) <= queries[:, None] if causal else None
        return attention_rows(query[:, queries], key, visible=seen, log_weight=state.log_weight)

    def previous_input() -> Float[Tensor, "tokens dim"]:
        declared = "previous-input" in reads
        assert declared, "what entered the layer before is read, but not declared in reads"
        mixed = state.hidden.float() @ _mix(state.hidden.shape[-1])
        return torch.tanh(mixed).to(state.hidden.dtype)

    def projections(
        layer: Literal["next", "previous"] = "next", rotary: bool = True
    ) -> Projections:
        return projected(state.hidden if layer == "next" else previous_input(), rotary)

    def attention(queries: Int[Tensor, "queries"]) -> Float[Tensor, "heads queries tokens"]:
        assert "attention" in reads, "attention is read, but not declared in reads"
        return rows(queries, rotary=True, causal=True)

    def probe(
        queries: Int[Tensor, "queries"],
        layer: Literal["next", "previous"] = "next",
        rotary: bool = True,
        causal: bool = True,
    ) -> Float[Tensor, "heads queries tokens"]:
        declared = layer == "next" or "previous-input" in reads
        assert declared, "the layer before is probed, but previous-input is not declared in reads"
        return rows(queries, rotary=rotary, causal=causal)

    return replace(
        state,
        attention=attention,
        probe=probe,
        projections=projections,
        previous_input=previous_input,
        final_norm=_normed,
    )


def through_layers(
    reducer: LayerReducer, state: LayerState
) -> Iterator[tuple[LayerState, LayerReduction | None]]:
    """Yield what a reducer sees at each of its steps, and what it makes of it; memory is new."""
    state, layer = replace(state, memory={}), 0
    for step in reducer.steps(state.n_layers):
        if step.layer > layer:
            mixed = torch.tanh(state.hidden.float() @ _mix(state.hidden.shape[-1]))
            state = replace(state, hidden=mixed.to(state.hidden.dtype))
        layer = step.layer
        state = at_step(state, step)
        reduction = reducer.reduce(state)
        yield state, reduction
        state = after_reduction(state, reduction)


def at_step(state: LayerState, step: LayerStep) -> LayerState:
    """Return the state as a step sees it: with attention only as declared."""
    return with_attention(replace(state, layer=step.layer), step.reads)


def after_reduction(state: LayerState, reduction: LayerReduction | None) -> LayerState:
    """Return what is left of a state, as an engine would hand it to the next step."""
    if reduction is None:
        return state
    source = reduction.source
    assert bool((source == state.last).any()), "the prompt's last token is lost"
    made = source < 0
    clip = state.clip[source.clamp_min(0)]
    for i in made.nonzero()[:, 0].tolist():
        clip[i] = clip[i - 1] if i else -1

    def taken(values: Tensor, of_made: int) -> Tensor:
        return values[source.clamp_min(0)].where(~made, of_made)

    hidden = state.hidden[source] if reduction.hidden is None else reduction.hidden
    weights = reduction.log_weight
    if weights is None and state.log_weight is not None:
        weights = state.log_weight[source.where(~made, source.cummax(0).values)]
    cos, sin = state.cos, state.sin
    if cos is not None and sin is not None:
        positions = torch.arange(len(source))
        if reduction.positions == "keep":
            positions = source.where(~made, source.cummax(0).values)
        cos, sin = cos[positions], sin[positions]
    return with_attention(
        replace(
            state,
            hidden=hidden,
            origin=taken(state.origin, -1),
            visual=state.visual[source.clamp_min(0)] | made,
            newline=state.newline[source.clamp_min(0)] & ~made,
            clip=clip,
            frame_index=taken(state.frame_index, -1),
            token_index=taken(state.token_index, -1),
            group=taken(state.group, -1),
            last=int((source == state.last).nonzero()[0]),
            cos=cos,
            sin=sin,
            log_weight=weights,
        )
    )


def cache_states(
    steps: int = 3,
    *,
    n_visual: int = 10,
    before: int = 3,
    after: int = 4,
    change: float = 1.0,
    seed: int = 0,
) -> list[CacheState]:
    """Return what a cache pruner sees while ``steps`` tokens are written.

    Parameters
    ----------
    change : how much of the attention is drawn anew at every step; 0 leaves it as it is
    """
    generator = torch.Generator().manual_seed(seed)
    memory: dict[str, Any] = {}
    prompt = before + n_visual + after
    logits = 2 * torch.randn(HEADS, prompt + steps, generator=generator)
    states = []
    for step in range(steps):
        drawn = 2 * torch.randn(logits.shape, generator=generator)
        logits = logits if step == 0 else (1 - change) * logits + change * drawn
        n = prompt + step + 1
        visual = torch.zeros(n, dtype=torch.bool)
        visual[before : before + n_visual] = True
        newline = torch.zeros_like(visual)
        states.append(CacheState(step, logits[:, :n].softmax(-1), visual, newline, memory))
    return states


@st.composite
def layer_states(
    draw: st.DrawFn, *, dtype: torch.dtype = torch.float32, visual: bool = True
) -> LayerState:
    """Draw prompts of one or two small videos with any newlines, or without any video."""
    return layer_state(
        draw(st.integers(1, 4)) if visual else 0,
        draw(st.sampled_from(((1, 1), (1, 3), (2, 2), (3, 2)))),
        clips=draw(st.integers(1, 2)),
        newlines=draw(st.sampled_from(("none", "end", "frame", "row"))),
        before=draw(st.integers(1, 4)),
        after=draw(st.integers(1, 4)),
        n_layers=draw(st.sampled_from((3, 4, 28))),
        similar=draw(st.sampled_from((0.0, 0.5, 0.9, 1.0))),
        seed=draw(SEEDS),
        dtype=dtype,
    )


def places(mask: Bool[Tensor, "tokens"]) -> Int[Tensor, "chosen"]:
    """Return the indices of True."""
    return mask.nonzero()[:, 0]


def _no_rows(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("this state has no attention")


def _fixed(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator) / shape[-2] ** 0.5


def _maps(dim: int) -> tuple[Tensor, Tensor]:
    both = 2 * _fixed(2 * HEADS, dim, HEAD_DIM)
    return both[:HEADS], both[HEADS:]


def _mix(dim: int) -> Tensor:
    return 2 * _fixed(dim, dim)


def _rotary(n: int) -> tuple[Tensor, Tensor]:
    frequency = 10.0 ** -torch.arange(HEAD_DIM // 2).float()
    angle = torch.outer(torch.arange(n).float(), torch.cat([frequency, frequency]))
    return angle.cos(), angle.sin()


def _normed(hidden: Tensor) -> Tensor:
    scale = hidden.float().square().mean(-1, keepdim=True).add(1e-6).rsqrt()
    return (hidden.float() * scale).to(hidden.dtype)


def _turned(values: Tensor) -> Tensor:
    first, second = values.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)

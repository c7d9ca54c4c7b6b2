"""What every stage has to satisfy, standing alone."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from hypothesis import reject
from hypothesis import strategies as st

from tokenred.errors import BudgetError
from tokenred.pipeline.budget import BudgetConfig
from tokenred.pipeline.flow import Flow
from tokenred.pipeline.pipeline import reduced_tokens
from tokenred.pipeline.stage import Stage
from tokenred.testing._run import Bodies, expect, expect_close, expect_finite, for_all
from tokenred.testing.strategies import SEEDS, visual_tokens
from tokenred.testing.videos import half
from tokenred.types import ReducedTokens, VisualTokens

Case = tuple[VisualTokens, int]
"""Tokens and a seed."""
Cues = Mapping[str, int] | None


def keeps_tokens_that_are_there(stage: Stage, *, cues: Cues) -> None:
    """What it keeps was alive, or is a cell of the LLM's grid; features and masses are finite."""

    def body(case: Case) -> None:
        tokens = case[0]
        flow, reduced = _run(stage, *case)
        expect(len(reduced.features) > 0, "no token is left")
        expect_finite(reduced.features, "the features")
        expect_finite(reduced.mass, "the masses")
        expect((reduced.mass > 0).all(), "a token that stands for nothing")
        expect(flow.pooled == stage.pools, f"pools is {stage.pools}, and it does otherwise")
        if not stage.pools:
            alive = tokens.keep[reduced.frame_index, reduced.token_index]
            expect(alive.all(), "a token that was dropped before is kept")

    for_all(_cases(stage, cues, drop=not stage.pools), body)


def is_the_map_in_its_trace(stage: Stage, *, cues: Cues) -> None:
    """The trace applied to the encoder's tokens gives the features."""

    def body(case: Case) -> None:
        tokens = case[0]
        _, reduced = _run(stage, *case)
        assert reduced.trace is not None
        expected = reduced.trace.to_dense() @ tokens.features.flatten(0, 1)
        expect_close(reduced.features, expected, "features and trace", 1e-4)

    for_all(_cases(stage, cues), body)


def leaves_its_input_alone(stage: Stage, *, cues: Cues) -> None:
    """Features, cues and mask of the caller are not written into."""

    def body(case: Case) -> None:
        tokens = case[0]
        held = {"features": tokens.features, "keep": tokens.keep, **tokens.cues}
        before = {name: values.clone() for name, values in held.items()}
        _run(stage, *case)
        for name, values in held.items():
            expect(torch.equal(values, before[name]), f"{name} changed")

    for_all(_cases(stage, cues), body)


def is_reproducible(stage: Stage, *, cues: Cues) -> None:
    """The same generator gives the same tokens; the global random state is left alone."""

    def body(case: Case) -> None:
        before = torch.random.get_rng_state()
        _, first = _run(stage, *case)
        expect(torch.equal(before, torch.random.get_rng_state()), "the global state moved")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(case[1] + 1)
            _, second = _run(stage, *case)
        expect(torch.equal(first.token_index, second.token_index), "two runs keep other tokens")
        expect_close(second.features, first.features, "the features of two runs")

    for_all(_cases(stage, cues), body)


def works_in_half_precision(stage: Stage, *, cues: Cues) -> None:
    """Half-precision features and cues are accepted, and stay what they are."""

    def body(case: Case) -> None:
        tokens = half(case[0])
        _, reduced = _run(stage, tokens, case[1])
        dtype = tokens.features.dtype
        expect(reduced.features.dtype == dtype, f"features of {dtype} become others")
        expect_finite(reduced.features, "the features")

    for_all(_cases(stage, cues), body)


def meets_the_budget(stage: Stage, *, cues: Cues) -> None:
    """It keeps as many tokens as an exact budget says, or says that it cannot."""

    def body(case: Case) -> None:
        for ratio in (0.25, 0.6):
            flow, reduced = _run(stage, *case, BudgetConfig(retention_ratio=ratio))
            n = len(reduced.features)
            expect(n == flow.target, f"{n} tokens are kept, {flow.target} were asked for")

    for_all(_cases(stage, cues), body)


def keeps_all(stage: Stage, *, cues: Cues) -> None:
    """What acts inside the LLM does nothing before it."""

    def body(case: Case) -> None:
        _, reduced = _run(stage, *case)
        expect(len(reduced.features) == int(case[0].keep.sum()), "tokens are dropped before it")
        expect(torch.equal(reduced.features, case[0].features[case[0].keep]), "features changed")

    for_all(_cases(stage, cues), body)


def _run(
    stage: Stage, tokens: VisualTokens, seed: int, budget: BudgetConfig | None = None
) -> tuple[Flow, ReducedTokens]:
    generator = torch.Generator().manual_seed(seed)
    if budget is None:
        mode = "exact" if stage.decides == "exact" else "as-released"
        budget = BudgetConfig(mode=mode, retention_ratio=0.5)
    pool = "bilinear" if stage.pools else "none"
    flow = Flow.start(replace(tokens, native_pool=pool), budget, generator, tracing=True)
    try:
        stage.run(flow)
    except BudgetError:
        reject()  # not every video has as many tokens as are asked for
    return flow, reduced_tokens(flow)


@st.composite
def _cases(draw: st.DrawFn, stage: Stage, cues: Cues, *, drop: bool = False) -> Case:
    frames = draw(st.sampled_from((3, 1, 2, 5)))
    tokens = visual_tokens(stage.needs, frames=frames, drop=drop, scenes=True, cues=cues)
    return draw(tokens), draw(SEEDS)


_BEFORE_THE_LLM = (
    keeps_tokens_that_are_there,
    is_the_map_in_its_trace,
    leaves_its_input_alone,
    is_reproducible,
    works_in_half_precision,
)


def contract(stage: Stage) -> Bodies:
    """Return what holds for it."""
    if stage.inside is not None:
        return (keeps_all,)
    return (*_BEFORE_THE_LLM, *((meets_the_budget,) if stage.decides == "exact" else ()))

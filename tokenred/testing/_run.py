"""What all checks share: a named callable, a fixed Hypothesis profile, comparisons that speak."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from torch import Tensor

from tokenred.errors import StrategyError

EXAMPLES = 25
"""Examples of one check; the same ones in every run."""

PHASES = (Phase.generate, Phase.shrink)
"""What is done with them: an example that fails is made as small as it can be."""


@dataclass(frozen=True)
class Check:
    """One property of one strategy: calling it raises AssertionError where it does not hold."""

    name: str
    body: Callable[[], None]

    def __call__(self) -> None:
        """Run the check; a promise that the guard finds broken is none that is kept."""
        try:
            self.body()
        except StrategyError as error:
            raise AssertionError(str(error)) from error


Bodies = Iterable[Callable[..., None]]
"""Functions of one strategy, each of which holds one thing of it."""


def collect(subject: object, bodies: Bodies, **facts: Any) -> Iterator[Check]:
    """Bind ``subject`` to each body, and those facts that it takes; a check is named like it."""
    for body in bodies:
        taken = {name: facts[name] for name in signature(body).parameters if name in facts}
        yield Check(body.__name__, partial(body, subject, **taken))


def for_all(strategy: st.SearchStrategy[Any], body: Callable[[Any], None]) -> None:
    """Run ``body`` on examples of ``strategy``; the same examples in every run."""

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=PHASES,
        report_multiple_bugs=False,
    )
    @given(strategy)
    def run(example: Any) -> None:
        body(example)

    try:
        run()
    except Flaky as error:  # a subject that answers differently to the same question
        raise AssertionError(f"not reproducible: {error}") from error


def expect(holds: bool | Tensor, message: str) -> None:
    """Raise AssertionError with ``message`` unless ``holds``."""
    if not bool(holds):
        raise AssertionError(message)


def expect_close(found: Tensor, wanted: Tensor, what: str, slack: float = 1e-5) -> None:
    """Raise AssertionError unless no entry differs by more than ``slack``."""
    expect(found.shape == wanted.shape, f"{what}: shape {found.shape}, expected {wanted.shape}")
    if found.numel():
        worst = float((found.double() - wanted.double()).abs().max())
        expect(worst <= slack, f"{what}: differs by {worst:.3g}, allowed is {slack:.3g}")


def expect_finite(values: Tensor, what: str) -> None:
    """Raise AssertionError if an entry is NaN or infinite."""
    expect(bool(torch.isfinite(values).all()), f"{what} holds NaN or infinity")

"""How many tokens enter each layer of an LLM: the schedule that FLOPs formulas read."""

import re
from collections.abc import Sequence
from itertools import groupby

from tokenred.errors import ConfigError, InputError

RUN = re.compile(r"\s*(\d+)\s*x\s*(\d+)\s*")


def schedule_of(
    entering: Sequence[int] | int, n_layers: int, text_tokens: int = 0
) -> tuple[int, ...]:
    """Return the tokens that enter each layer, checked, for the FLOPs of one prefill.

    A layer counts with what enters it. A reducer that acts between the attention and the FFN of a
    layer therefore shows from the next layer on, and its own layer's FFN is counted in full.

    Parameters
    ----------
    entering : visual tokens entering each layer; one number for a reduction before the LLM
    n_layers : depth of the LLM
    text_tokens : tokens that every layer reads besides. The papers count visual tokens alone: 0.

    Raises
    ------
    InputError
        If there is not one number for each layer, or if one is negative.
    """
    schedule = [entering] * n_layers if isinstance(entering, int) else list(entering)
    if len(schedule) != n_layers:
        raise InputError(f"{n_layers} layers need {n_layers} token counts, got {len(schedule)}")
    if any(n < 0 for n in [*schedule, text_tokens]):
        raise InputError(f"token counts cannot be negative, got {min([*schedule, text_tokens])}")
    return tuple(n + text_tokens for n in schedule)


def parse_schedule(text: str, n_layers: int) -> tuple[int, ...]:
    """Read ``18x640,10x320``: 18 layers that 640 tokens enter, then 10 that 320 enter.

    Raises
    ------
    ConfigError
        If it is written otherwise, or is not as long as the LLM is deep.
    """
    runs = [RUN.fullmatch(part) for part in text.split(",")]
    counts = [(int(run[1]), int(run[2])) for run in runs if run is not None]
    if len(counts) < len(runs):
        raise ConfigError(f"write LAYERSxTOKENS, such as 18x640,10x320, got '{text}'", ["schedule"])
    given = sum(layers for layers, _ in counts)
    if given != n_layers:
        raise ConfigError(f"the LLM has {n_layers} layers, '{text}' has {given}", ["schedule"])
    return tuple(n for layers, n in counts for _ in range(layers))


def schedule_text(schedule: Sequence[int]) -> str:
    """Write a schedule as :func:`parse_schedule` reads it."""
    return ",".join(f"{len(list(layers))}x{n}" for n, layers in groupby(schedule))

"""What to say where a pipeline keeps another share of the tokens than it was asked for."""

import warnings

from tokenred.errors import BudgetWarning
from tokenred.pipeline.config import PipelineConfig
from tokenred.types import Realised

_WHY = {
    "exact": "a frame keeps at least one token",
    "calibrated": "its knob is not calibrated to that, see tokenred.calibrate",
    "as-released": "its own settings decide in budget.mode as-released",
}


def budget_remark(config: PipelineConfig, realised: Realised) -> str:
    """Return a sentence where the realised share is not the asked one; nothing where it is.

    One token a frame is rounding, unless that alone more than doubles the share or leaves none. A
    budget of mode ``as-released`` is a remark in its file; it was asked for where somebody set it.
    """
    budget = config.budget
    if budget.mode == "as-released" and not config.is_budget_asked:
        return ""
    wanted = budget.retention_ratio * realised.vanilla_tokens
    is_rounded = abs(realised.n_tokens - wanted) <= len(realised.tokens_per_frame)
    if is_rounded and 0 < realised.n_tokens <= 2 * wanted:
        return ""
    return (
        f"pipeline '{config.name}' keeps {100 * realised.retention_ratio:.3g} % of the tokens, not "
        f"the {100 * budget.retention_ratio:.3g} % of budget.retention_ratio: {_WHY[budget.mode]}"
    )


def warn_of_budget(config: PipelineConfig, realised: Realised) -> bool:
    """Warn with ``budget_remark``; return whether there was something to say."""
    remark = budget_remark(config, realised)
    if remark:
        warnings.warn(remark, BudgetWarning, stacklevel=3)
    return bool(remark)

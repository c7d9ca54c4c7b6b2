"""Where selectors measure how alike two tokens are."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tokenred import CapabilityError, VisualTokens

OF_TEXT = "what is compared: 'features', or a per-token cue such as 'tower' or 'keys@-2'"


def needs_of(of: str) -> frozenset[str]:
    """Return the cue that the setting ``of`` asks for, if it asks for one."""
    return frozenset() if of == "features" else frozenset({of})


def unit_vectors(tokens: VisualTokens, of: str) -> Float[Tensor, "frames tokens width"]:
    """Return the vector of every token in float32, scaled to length one."""
    if of != "features" and of not in tokens.cues:
        raise CapabilityError(f"the pipeline needs the cue '{of}', which these tokens lack")
    vectors = tokens.features if of == "features" else tokens.cues[of]
    if vectors.ndim == 2:
        raise CapabilityError(f"cue '{of}' has one number a token; a similarity needs vectors")
    return F.normalize(vectors.float(), dim=-1)

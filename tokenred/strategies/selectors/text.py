"""What selectors that read the question share."""

from jaxtyping import Float
from torch import Tensor

from tokenred.errors import CapabilityError
from tokenred.types import VisualTokens


def text_cosines(tokens: VisualTokens, cue: str) -> Float[Tensor, "frames tokens words"]:
    """Return the cosine of every token with every word of the question in float32."""
    if cue not in tokens.cues:
        raise CapabilityError(f"the pipeline needs the cue '{cue}', which these tokens lack")
    cosines = tokens.cues[cue].float()
    return cosines if cosines.ndim == 3 else cosines[..., None]

"""placeholder until the engine lands"""

from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PromptTokens:
    attention_mask: Tensor
    visual: Tensor
    newline: Tensor
    clip: Tensor
    frame_index: Tensor
    token_index: Tensor
    group: Tensor


@contextmanager
def inside_llm(text_model, inside):
    raise NotImplementedError
    yield

"""Next-token logits of several prompts about one video, with the video read once."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import InputError
from tokenred.models.splice import VisualPart, placeholder_columns


@torch.no_grad()
def next_token_logits(
    model: Any, part: VisualPart, prompts: Sequence[Tensor], token_id: int
) -> Float[Tensor, "prompts vocabulary"]:
    """Return the float32 logits of the token that follows each prompt.

    Prompts that agree up to and including the video share one pass over that beginning; what comes
    after it is computed as one batch, padded on the right, where causal attention makes padding
    harmless.

    Parameters
    ----------
    model : a causal model of transformers with ``inputs_embeds`` and a cache, 1-D positions
    part : the reduced video, newline included
    prompts : token ids with the placeholders of the unreduced video, in one run
    token_id : the placeholder

    Raises
    ------
    InputError
        If a prompt lacks its placeholders, has other text between them, or ends on the video.
    """
    groups: dict[tuple[int, ...], list[tuple[int, Tensor]]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        before, after = _cut(prompt, token_id, part.layout.n_placeholders)
        groups[tuple(before.tolist())].append((index, after))
    embed = model.get_input_embeddings()
    answers: dict[int, Tensor] = {}
    for beginning, members in groups.items():
        ids = torch.tensor(beginning, dtype=torch.long, device=embed.weight.device)
        head = torch.cat((embed(ids), part.features.to(embed.weight)))[None]
        cache = model(inputs_embeds=head, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_repeat_interleave(len(members))
        tails = pad_sequence([tail for _, tail in members], batch_first=True).to(ids.device)
        last = torch.tensor([len(tail) - 1 for _, tail in members], device=ids.device)
        columns, row_column = last.unique(return_inverse=True)
        logits = model(
            inputs_embeds=embed(tails), past_key_values=cache, logits_to_keep=columns
        ).logits
        rows = logits[torch.arange(len(members), device=logits.device), row_column].float()
        answers.update(zip((index for index, _ in members), rows, strict=True))
    return torch.stack([answers[index] for index in range(len(prompts))])


def _cut(
    prompt: Int[Tensor, "prompt"], token_id: int, n_placeholders: int
) -> tuple[Int[Tensor, "before"], Int[Tensor, "after"]]:
    ((_, columns),) = placeholder_columns(prompt[None], token_id, [n_placeholders])
    first, last = int(columns[0]), int(columns[-1])
    if last - first + 1 != n_placeholders:
        raise InputError("the video placeholders of a prompt must stand in one run")
    if last + 1 == len(prompt):
        raise InputError("a prompt must go on after the video, here it ends on it")
    return prompt[:first], prompt[last + 1 :]

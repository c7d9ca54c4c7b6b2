"""Next-token scores of several prompts about one video, with one forward pass over the video."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenred.errors import InputError
from tokenred.models.splice import VisualPart, placeholder_columns

Continuations = Sequence[Sequence[Int[Tensor, "_"]]]
"""For every prompt the texts, as token ids, of which the log-likelihood is asked for."""


@dataclass(frozen=True)
class PromptScores:
    """Logits, hidden states and continuation scores after each of several prompts.

    Attributes
    ----------
    logits : (prompts, vocabulary) float32, of the next token
    hidden : (prompts, dim) float32, the state that the logits are read from
    continuations : for every prompt, the log-likelihood of each of its continuations, summed over
        their tokens
    """

    logits: Float[Tensor, "prompts vocabulary"]
    hidden: Float[Tensor, "prompts dim"]
    continuations: tuple[tuple[float, ...], ...]


@torch.no_grad()
def shared_prompt_scores(
    model: Any,
    part: VisualPart,
    prompts: Sequence[Tensor],
    token_id: int,
    continuations: Continuations,
) -> PromptScores:
    """Score several prompts about one video, with one forward pass over the video.

    Prompts that agree up to and including the video share one pass over that beginning; what comes
    after it, continuations included, is computed as one batch, padded on the right, where causal
    attention makes padding harmless.

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
    found: dict[int, tuple[Tensor, Tensor, tuple[float, ...]]] = {}
    for beginning, members in groups.items():
        ids = torch.tensor(beginning, dtype=torch.long, device=embed.weight.device)
        head = torch.cat((embed(ids), part.features.to(embed.weight)))[None]
        cache = model(inputs_embeds=head, use_cache=True, logits_to_keep=1).past_key_values
        rows = [
            (index, after, one)
            for index, after in members
            for one in _long(continuations[index]) or [after.new_empty(0)]
        ]
        cache.batch_repeat_interleave(len(rows))
        tails = [torch.cat((after, one[:-1].to(after))) for _, after, one in rows]
        wanted = [range(len(after) - 1, len(tail)) for (_, after, _), tail in zip(rows, tails)]
        columns = torch.tensor(sorted({column for each in wanted for column in each}))
        with last_states(model) as states:
            logits = model(
                inputs_embeds=embed(pad_sequence(tails, batch_first=True).to(ids.device)),
                past_key_values=cache,
                logits_to_keep=columns.to(ids.device),
            ).logits.float()
        likely: dict[int, list[float]] = defaultdict(list)
        for row, ((index, _, one), where) in enumerate(zip(rows, wanted)):
            at = torch.searchsorted(columns, torch.tensor(where)).to(logits.device)
            if index not in found:
                found[index] = (logits[row, at[0]], states[-1][row, at[0]].float(), ())
            if len(one):
                likely[index].append(log_likelihood(logits[row, at], one))
        for index, _ in members:
            next_logits, hidden, _ = found[index]
            scores = likelihoods(next_logits, continuations[index], likely[index])
            found[index] = (next_logits, hidden, scores)
    in_order = [found[index] for index in range(len(prompts))]
    return PromptScores(
        logits=torch.stack([logits for logits, _, _ in in_order]),
        hidden=torch.stack([hidden for _, hidden, _ in in_order]),
        continuations=tuple(scores for _, _, scores in in_order),
    )


def likelihoods(
    logits: Float[Tensor, "vocabulary"], texts: Sequence[Tensor], of_long: Sequence[float]
) -> tuple[float, ...]:
    """Return the log-likelihood of every text: one token from ``logits``, longer ones as given."""
    each = iter(of_long)
    log_p = logits.log_softmax(-1) if texts else logits
    return tuple(float(log_p[int(text)]) if len(text) == 1 else next(each) for text in texts)


def log_likelihood(logits: Float[Tensor, "tokens vocabulary"], text: Tensor) -> float:
    """Return the log-likelihood of a text from the logits in front of each of its tokens."""
    chosen = logits.log_softmax(-1).gather(-1, text.to(logits.device)[:, None])
    return float(chosen.sum())


def _long(texts: Sequence[Tensor]) -> list[Tensor]:
    return [text for text in texts if len(text) > 1]


@contextmanager
def last_states(model: Any) -> Iterator[list[Tensor]]:
    """Collect, call by call, the hidden states that a model reads its logits from."""
    states: list[Tensor] = []
    head = model.get_output_embeddings()
    hook = head.register_forward_pre_hook(lambda module, args: states.append(args[0].detach()))
    try:
        yield states
    finally:
        hook.remove()


def _cut(
    prompt: Int[Tensor, "prompt"], token_id: int, n_placeholders: int
) -> tuple[Int[Tensor, "before"], Int[Tensor, "after"]]:
    ((_, columns),) = placeholder_columns(prompt[None], token_id, [n_placeholders])
    first, last = int(columns[0]), int(columns[-1])
    if last - first + 1 != n_placeholders:
        raise InputError("the video placeholders of a prompt must stand in one run")
    if last + 1 == len(prompt):
        raise InputError("a prompt must not end with the video")
    return prompt[:first], prompt[last + 1 :]

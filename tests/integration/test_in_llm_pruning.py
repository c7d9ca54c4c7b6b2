"""Pruning of the cache while writing: against plain torch, ragged, with beams, without a cache."""

from typing import Any

import pytest
import torch
from in_llm_cases import (
    KeepBest,
    LookAtBest,
    Prompts,
    Reference,
    inside,
    keep_best_reference,
    prompts,
    tiny_causal,
)

from tokenred.models.inside.llm import inside_llm

ALONE = ((3, 12, 4),)
RAGGED = ((3, 12, 4), (2, 8, 3))
N_NEW = 7


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_causal()


def write(model: Any, case: Prompts, work: Any, **options: Any) -> tuple[Any, Any]:
    with inside_llm(model.model, work) as run:
        run.begin(case.tokens)
        out = model.generate(
            input_ids=case.ids,
            **case.inputs(),
            max_new_tokens=N_NEW,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            **options,
        )
    return out, run


@torch.no_grad()
def look_at_best_reference(
    model: Any, case: Prompts, new: torch.Tensor, at: int, share: float
) -> torch.Tensor:
    """Return the logits of ``LookAtBest`` at full length, each new token with a mask of its own."""
    reference, width = Reference(model), case.mask.shape[1]
    hidden = torch.cat((case.embeds, model.get_input_embeddings()(new)), 1)
    mask = torch.cat((case.mask, torch.ones_like(new)), 1)
    positions, seen = reference.positions(mask), reference.causal(mask)
    weights = torch.zeros(())
    for index in range(4):
        if index == at:
            seen = seen.clone()
            for row in range(len(mask)):
                visual = case.tokens.visual[row].nonzero()[:, 0]
                score = torch.zeros(len(visual))
                for step in range(new.shape[1]):
                    score = score + weights[row, :, width + step].mean(0)[visual]
                    if step % 3 == 2:
                        continue
                    order = score.argsort(descending=True)
                    gone = visual[order[round(share * len(visual)) :]]
                    seen[row, width + step, gone] = False
        hidden, weights = reference.attend(index, hidden, positions, seen)
        hidden = reference.finish(index, hidden)
    return reference.logits(hidden)


@pytest.mark.parametrize("rows", [ALONE, RAGGED], ids=["alone", "ragged"])
@pytest.mark.parametrize("at", [1, 3])
def test_looking_at_some_tokens_equals_plain_torch(at: int, rows: Any, model: Any) -> None:
    case, pruner = prompts(model, rows), LookAtBest(at)
    out, _ = write(model, case, inside(pruner=pruner))
    new = out.sequences[:, case.ids.shape[1] :]
    expected = look_at_best_reference(model, case, new[:, :-1], at, 0.5)[:, -N_NEW:]
    assert (torch.stack(out.logits, 1) - expected).abs().max() < 1e-6
    lengths = {layer.keys.shape[-2] for layer in out.past_key_values.layers}
    assert lengths == {case.ids.shape[1] + N_NEW - 1}  # nothing is lost
    plain = look_at_best_reference(model, case, new[:, :-1], 4, 0.5)[:, -N_NEW:]
    assert (plain - expected).abs().max() > 1e-3
    state = pruner.seen[0]
    assert state.visual.tolist() == [False] * 3 + [True] * 12 + [False] * 5
    assert torch.allclose(state.attention.sum(-1), torch.ones(4))


@pytest.mark.parametrize("rows", [ALONE, RAGGED], ids=["alone", "ragged"])
@pytest.mark.parametrize("reduced", [False, True])
def test_without_a_cache_the_tokens_are_the_same(rows: Any, reduced: bool, model: Any) -> None:
    case = prompts(model, rows)
    reducers = [KeepBest({1: 0.75, 3: 0.5})] if reduced else []
    out, _ = write(model, case, inside(*reducers, pruner=LookAtBest(2)))
    width = case.ids.shape[1]
    new = out.sequences[:, width:]
    embeds = torch.cat((case.embeds, model.get_input_embeddings()(new[:, :-1])), 1)
    mask = torch.cat((case.mask, torch.ones_like(new[:, :-1])), 1)
    with inside_llm(model.model, inside(*reducers, pruner=LookAtBest(2))) as run, torch.no_grad():
        run.begin(case.tokens)
        logits = model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=Reference(model).positions(mask),
            use_cache=False,
        ).logits[:, -N_NEW:]
    assert (torch.stack(out.logits, 1) - logits).abs().max() < 1e-6


def test_a_reducer_and_a_pruner_share_the_llm(model: Any) -> None:
    """What the reducer dropped is no longer offered to the pruner."""
    case, pruner = prompts(model, ALONE), LookAtBest(3, share=1.0)
    rule = KeepBest({3: 0.5})
    out, _ = write(model, case, inside(rule, pruner=pruner))
    assert int(pruner.seen[0].visual.sum()) == 6
    assert float(pruner.seen[0].attention.sum(-1).max()) < 1.0  # layer 2 still sees the others
    new = out.sequences[:, case.ids.shape[1] :]
    with torch.no_grad():
        expected, _ = keep_best_reference(model, case, new[:, :-1], rule)
    assert (torch.stack(out.logits, 1) - expected[:, -N_NEW:]).abs().max() < 1e-6


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_memories_follow_their_beams(options: dict[str, Any], model: Any) -> None:
    """``LookAtBest`` chooses by the whole past of a beam."""
    case = prompts(model, RAGGED)
    out, _ = write(model, case, inside(pruner=LookAtBest(2)), output_scores=True, **options)
    n_each = options.get("num_return_sequences", 1)
    new = out.sequences[::n_each, case.ids.shape[1] :]
    logits = look_at_best_reference(model, case, new[:, :-1], 2, 0.5)[:, -N_NEW:]
    scores = logits.log_softmax(-1).gather(2, new[..., None])[..., 0].mean(1)
    assert (scores - out.sequences_scores[::n_each]).abs().max() < 1e-4


def test_flash_attention_cannot_prune_several_queries_at_once() -> None:
    from tokenred.errors import CapabilityError
    from tokenred.models.inside.sequences import backend_mask

    keys = torch.ones(1, 5, dtype=torch.bool)
    chosen = torch.ones(1, 2, 5, dtype=torch.bool)
    with pytest.raises(CapabilityError, match="causal"):
        backend_mask("flash_attention_2", torch.float16, keys, False, 2, chosen)

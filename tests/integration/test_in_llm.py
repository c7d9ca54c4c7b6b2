"""Reducers between the layers of an LLM: against plain torch, with cache, padding and beams."""

from typing import Any

import pytest
import torch
from in_llm_cases import (
    Act,
    KeepBest,
    Prompts,
    Reference,
    inside,
    keep_best_reference,
    prompts,
    tiny_causal,
)

from tokenred.models.inside.llm import inside_llm
from tokenred.types import LayerReduction, LayerState, LayerStep

RULES = {
    "one-step": {"shares": {2: 0.5}},
    "two-steps": {"shares": {1: 0.6, 3: 0.25}},
    "renumbered": {"shares": {1: 0.6, 3: 0.25}, "positions": "renumber"},
    "cut": {"shares": {2: 0.5}, "cut_cache": True},
    "renumbered-cut": {"shares": {1: 0.6, 3: 0.25}, "positions": "renumber", "cut_cache": True},
    "unmasked": {"shares": {2: 0.5}, "unmasked": True},
}
ALONE = ((3, 12, 4),)
RAGGED = ((3, 12, 4), (2, 8, 3))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_causal()


def generate(model: Any, case: Prompts, **options: Any) -> torch.Tensor:
    options = {"max_new_tokens": 6, "do_sample": False, **options}
    inputs = case.inputs()
    if options.get("use_cache") is False:
        inputs.pop("inputs_embeds")  # with embeddings, transformers would use a cache all the same
    return model.generate(input_ids=case.ids, **inputs, **options)[:, case.ids.shape[1] :]


@pytest.fixture(scope="module")
def uncached_ids(model: Any) -> Any:
    """Let the model read embeddings of the prompt also where generation repeats its ids."""

    def install(case: Prompts) -> Any:
        embedding = model.get_input_embeddings()

        def fill(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            width = case.embeds.shape[1]
            if output.shape[1] < width:
                return output
            copies = output.shape[0] // case.embeds.shape[0]
            head = case.embeds.repeat_interleave(copies, 0)
            return torch.cat((head, output[:, width:]), 1)

        return embedding.register_forward_hook(fill)

    return install


@torch.no_grad()
def read(model: Any, case: Prompts, work: Any, **inputs: Any) -> tuple[Any, Any]:
    with inside_llm(model.model, work) as run:
        run.begin(case.tokens)
        return model(**case.inputs(), **inputs), run


def row_of(tensor: torch.Tensor, case: Prompts, row: int) -> torch.Tensor:
    return tensor[row, case.mask[row].bool()]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", RULES)
def test_reading_equals_plain_torch(name: str, attention: str, side: str) -> None:
    # transformers' eager attention masks padding with numbers that doubles hold and floats do not.
    exact = attention == "sdpa"
    model = tiny_causal(attention=attention, dtype=torch.float64 if exact else torch.float32)
    case = prompts(model, RAGGED, side)
    positions = Reference(model).positions(case.mask)
    rule = KeepBest(**RULES[name])
    found, run = read(model, case, inside(rule), position_ids=positions)
    with torch.no_grad():
        expected, alive = keep_best_reference(model, case, None, rule)
    assert [row.tolist() for row in run.kept] == [row.nonzero()[:, 0].tolist() for row in alive]
    assert (found.logits - expected)[alive].abs().max() < (1e-6 if exact else 1e-4)
    assert found.logits.shape == expected.shape


@pytest.mark.parametrize("arch", ["llama", "qwen3"])
def test_other_architectures_equal_plain_torch(arch: str) -> None:
    model = tiny_causal(arch)
    case = prompts(model, RAGGED)
    rule = KeepBest({1: 0.5})
    found, _ = read(model, case, inside(rule), position_ids=Reference(model).positions(case.mask))
    with torch.no_grad():
        expected, alive = keep_best_reference(model, case, None, rule)
    assert (found.logits - expected)[alive].abs().max() < 1e-6


@pytest.mark.parametrize("rows", [ALONE, RAGGED], ids=["alone", "ragged"])
@pytest.mark.parametrize("name", RULES)
def test_writing_with_a_cache_equals_plain_torch(name: str, rows: Any, model: Any) -> None:
    case, rule = prompts(model, rows), KeepBest(**RULES[name])
    with inside_llm(model.model, inside(rule)) as run:
        run.begin(case.tokens)
        out = model.generate(
            input_ids=case.ids,
            **case.inputs(),
            max_new_tokens=6,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = out.sequences[:, case.ids.shape[1] :]
    with torch.no_grad():
        expected, _ = keep_best_reference(model, case, new[:, :-1], rule)
    found = torch.stack(out.logits, 1)
    assert (found - expected[:, -6:]).abs().max() < 1e-6
    assert torch.equal(expected[:, -6:].argmax(-1), new)


@pytest.mark.parametrize("rows", [ALONE, RAGGED], ids=["alone", "ragged"])
@pytest.mark.parametrize("name", [name for name in RULES if not name.endswith("cut")])
def test_without_a_cache_the_tokens_are_the_same(
    name: str, rows: Any, model: Any, uncached_ids: Any
) -> None:
    case = prompts(model, rows)
    with inside_llm(model.model, inside(KeepBest(**RULES[name]))) as run:
        run.begin(case.tokens)
        cached = generate(model, case)
        counted = run.layer_tokens, run.sequence_tokens
        run.begin(case.tokens)
        lengths, count = [], lambda module, args: lengths.append(args[0].shape[1])
        hooks = [uncached_ids(case), model.model.norm.register_forward_pre_hook(count)]
        try:
            assert torch.equal(generate(model, case, use_cache=False), cached)
        finally:
            for hook in hooks:
                hook.remove()
        assert lengths == [case.ids.shape[1] + step for step in range(6)]
        assert (run.layer_tokens, run.sequence_tokens) == counted


@pytest.mark.parametrize("name", RULES)
def test_a_batch_equals_its_rows(name: str, model: Any) -> None:
    case, rule = prompts(model, RAGGED), KeepBest(**RULES[name])
    with inside_llm(model.model, inside(rule)) as run, torch.no_grad():
        run.begin(case.tokens)
        tokens = generate(model, case)
        counts = run.layer_tokens
        for row in range(2):
            alone = case.row(row)
            run.begin(alone.tokens)
            assert torch.equal(generate(model, alone)[0], tokens[row])
            assert run.layer_tokens == [counts[row]]
    assert counts[0] != counts[1]


@pytest.mark.parametrize("name", ["two-steps", "renumbered", "cut"])
def test_beams_read_like_single_rows_and_score_like_plain_torch(name: str, model: Any) -> None:
    case, rule = prompts(model, RAGGED), KeepBest(**RULES[name])
    options = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_scores": True}
    width = case.ids.shape[1]
    with inside_llm(model.model, inside(rule)) as run:
        run.begin(case.tokens)
        out = model.generate(input_ids=case.ids, **case.inputs(), **options)
        found = out.sequences[:, width:]
        assert len(run.layer_tokens) == 2
        for row in range(2):
            alone = case.row(row)
            run.begin(alone.tokens)
            expected = model.generate(input_ids=alone.ids, **alone.inputs(), **options)
            new = expected.sequences[:, alone.ids.shape[1] :]
            assert torch.equal(found[2 * row : 2 * row + 2], new)
    for which in range(2):
        new = found[which::2]
        with torch.no_grad():
            logits = keep_best_reference(model, case, new[:, :-1], rule)[0][:, -6:]
        scores = logits.log_softmax(-1).gather(2, new[..., None])[..., 0].mean(1)
        assert (scores - out.sequences_scores[which::2]).abs().max() < 1e-4


def test_sampled_sequences_share_the_reduced_prompt(model: Any) -> None:
    case = prompts(model, RAGGED)
    with inside_llm(model.model, inside(KeepBest({1: 0.5}))) as run:
        run.begin(case.tokens)
        torch.manual_seed(0)
        found = generate(model, case, do_sample=True, num_return_sequences=3)
        assert found.shape == (6, 6)
        assert len(run.layer_tokens) == 2


def test_positions_shown_are_right_whatever_came_before() -> None:
    deep, case = tiny_causal(layers=6), prompts(tiny_causal(), ALONE)
    at = [LayerStep(layer) for layer in range(1, 6)]
    tables: list[torch.Tensor] = []

    def drop_one(state: LayerState) -> LayerReduction:
        assert state.cos is not None
        if len(state.origin) == len(state.embeddings):
            tables.append(state.cos)
        assert torch.equal(state.cos, tables[-1][state.origin])
        stays = torch.ones_like(state.visual)
        stays[state.visual.nonzero()[0]] = False
        return LayerReduction(stays.nonzero()[:, 0])

    # Two at each layer: what the first leaves is gone soon, and its place in memory is free.
    for _ in range(20):
        read(deep, case, inside(Act(at, drop_one), Act(at, drop_one)))


def test_an_identity_changes_no_bit(model: Any) -> None:
    case = prompts(model, RAGGED)
    places = [
        LayerStep(0),
        LayerStep(2, "before", frozenset({"attention"})),
        LayerStep(1, "middle"),
    ]

    def same(state: LayerState) -> LayerReduction:
        return LayerReduction(torch.arange(len(state.hidden)))

    with torch.no_grad():
        plain = model(**case.inputs()).logits
    for act in (same, lambda state: None):
        found, run = read(model, case, inside(Act(places, act)))
        assert torch.equal(found.logits, plain)
        assert run.layer_tokens == [(12,) * 4, (8,) * 4]


def merge_pairs(state: LayerState) -> LayerReduction:
    """Average each second visual token into the one before it."""
    visual = state.visual.nonzero()[:, 0]
    gone, heads = visual[1::2], visual[::2][: len(visual[1::2])]
    hidden = state.hidden.clone()
    hidden[heads] = (hidden[heads] + hidden[gone]) / 2
    stays = torch.ones_like(state.visual)
    stays[gone] = False
    source = stays.nonzero()[:, 0]
    return LayerReduction(source, hidden[source])


@pytest.mark.parametrize("at", [0, 1, 3])
def test_merging_in_the_middle_equals_plain_torch(at: int, model: Any) -> None:
    case = prompts(model, RAGGED)
    work = inside(Act([LayerStep(at, "middle")], merge_pairs))
    reference = Reference(model)
    positions = reference.positions(case.mask)
    with inside_llm(model.model, work) as run:
        run.begin(case.tokens)
        new = generate(model, case)
        kept = run.kept
    with torch.no_grad():
        hidden = torch.cat((case.embeds, model.get_input_embeddings()(new[:, :-1])), 1)
        mask = torch.cat((case.mask, torch.ones_like(new[:, :-1])), 1)
        alive, positions = mask.clone(), reference.positions(mask)
        for index in range(4):
            seen = reference.causal(alive)
            hidden, _ = reference.attend(index, hidden, positions, seen)
            if index == at:
                hidden, alive = hidden.clone(), alive.clone()
                for row in range(2):
                    visual = case.tokens.visual[row].nonzero()[:, 0]
                    hidden[row, visual[::2]] += hidden[row, visual[1::2]]
                    hidden[row, visual[::2]] /= 2
                    alive[row, visual[1::2]] = 0
            hidden = reference.finish(index, hidden)
        expected = reference.logits(hidden)
    assert torch.equal(expected[:, -6:].argmax(-1), new)
    width = case.mask.shape[1]
    assert [k.tolist() for k in kept] == [a[:width].nonzero()[:, 0].tolist() for a in alive]
    found, _ = read(model, case, work, position_ids=reference.positions(case.mask))
    prompt = alive[:, :width].bool()
    assert (found.logits - expected[:, :width])[prompt].abs().max() < 1e-6


@pytest.mark.parametrize("positions", ["keep", "renumber"])
@pytest.mark.parametrize("point", ["before", "middle"])
def test_a_made_token_stands_behind_the_visual_ones(point: Any, positions: Any, model: Any) -> None:
    """Two of the visual tokens stay; the mean of all others follows them."""
    case = prompts(model, ALONE)
    states: list[LayerState] = []

    def act(state: LayerState) -> LayerReduction | None:
        states.append(state)
        if state.layer == 3:
            return None
        visual = state.visual.nonzero()[:, 0]
        text = (~state.visual).nonzero()[:, 0]
        source = torch.cat((text[:3], visual[:2], torch.tensor([-1]), text[3:]))
        made = state.hidden[visual[2:]].mean(0, keepdim=True)
        hidden = torch.cat((state.hidden[source[:5]], made, state.hidden[text[3:]]))
        return LayerReduction(source, hidden, positions)

    work = inside(Act([LayerStep(1, point), LayerStep(3)], act))
    reference = Reference(model)
    with inside_llm(model.model, work) as run:
        run.begin(case.tokens)
        new = generate(model, case)
        assert run.layer_tokens == [(12, 3, 3, 3)] if point == "before" else [(12, 12, 3, 3)]
        assert run.kept[0].tolist() == [0, 1, 2, 3, 4, 15, 16, 17, 18]
    after = states[1]
    assert after.origin.tolist() == [0, 1, 2, 3, 4, -1, 15, 16, 17, 18]
    assert after.clip.tolist() == [-1, -1, -1, 0, 0, 0, -1, -1, -1, -1]
    assert after.visual.tolist() == [False] * 3 + [True] * 3 + [False] * 4
    with torch.no_grad():
        hidden = torch.cat((case.embeds, model.get_input_embeddings()(new[:, :-1])), 1)
        ids = torch.arange(hidden.shape[1])[None]
        for index in range(4):
            for here in ("before", "middle"):
                if here == "middle":
                    seen = reference.causal(torch.ones(ids.shape, dtype=torch.long))
                    hidden, _ = reference.attend(index, hidden, ids, seen)
                if index == 1 and here == point:
                    made = hidden[:, 5:15].mean(1, keepdim=True)
                    hidden = torch.cat((hidden[:, :5], made, hidden[:, 15:]), 1)
                    ids = torch.cat((ids[:, :5], ids[:, 14:]), 1)
                    if positions == "renumber":
                        ids = torch.arange(hidden.shape[1])[None]
            hidden = reference.finish(index, hidden)
        expected = reference.logits(hidden)[:, -6:].argmax(-1)
    assert torch.equal(expected, new)


def test_later_forward_calls_go_on_with_the_cache(model: Any) -> None:
    """A caller's own loop, several tokens at once, and two turns of a padded conversation."""
    case, rule = prompts(model, RAGGED), KeepBest({1: 0.5})
    generator = torch.Generator().manual_seed(3)
    later = torch.randint(1, 40, (2, 5), generator=generator)
    mask = torch.cat((case.mask, torch.ones_like(later)), 1)
    mask[1, -5:-3] = 0  # the second row's turn is shorter
    with inside_llm(model.model, inside(rule)) as run, torch.no_grad():
        run.begin(case.tokens)
        positions = Reference(model).positions(mask)
        width = case.mask.shape[1]
        first = model(**case.inputs(), position_ids=positions[:, :width], use_cache=True)
        cache = first.past_key_values
        assert cache.get_seq_length() == width
        at_once = model(
            input_ids=later,
            attention_mask=mask,
            position_ids=positions[:, width:],
            past_key_values=cache,
        ).logits
        assert cache.get_seq_length() == width + 5
        run.begin(case.tokens)
        cache = model(
            **case.inputs(), position_ids=positions[:, :width], use_cache=True
        ).past_key_values
        for place in range(5):
            one = model(
                input_ids=later[:, place : place + 1],
                attention_mask=mask[:, : width + place + 1],
                position_ids=positions[:, width + place : width + place + 1],
                past_key_values=cache,
            ).logits
            real = mask[:, width + place].bool()
            assert (one[real, 0] - at_once[real, place]).abs().max() < 1e-6


def test_labels_and_gradients(model: Any) -> None:
    case = prompts(model, RAGGED)
    embeds = case.embeds.clone().requires_grad_()
    labels = case.ids.masked_fill(case.tokens.visual | (case.mask == 0), -100)
    rule = KeepBest({2: 0.25})
    with inside_llm(model.model, inside(rule)) as run:
        run.begin(case.tokens)
        out = model(inputs_embeds=embeds, attention_mask=case.mask, labels=labels, use_cache=False)
        out.loss.backward()
    assert out.logits.shape[:2] == case.ids.shape
    norms = embeds.grad.norm(dim=-1)
    # Dropped tokens acted in the layers before; the last token predicts nothing.
    assert bool((norms[:, :-1][case.mask[:, :-1].bool()] > 0).all())
    assert bool((norms[case.mask == 0] == 0).all())
    model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite(dtype: torch.dtype) -> None:
    model = tiny_causal(dtype=dtype)
    case = prompts(model, RAGGED)
    found, run = read(
        model, case, inside(KeepBest({1: 0.5}), Act([LayerStep(2, "middle")], merge_pairs))
    )
    assert bool(found.logits.isfinite().all())
    assert found.logits.dtype == dtype
    assert run.layer_tokens[0] == (12, 6, 6, 3)

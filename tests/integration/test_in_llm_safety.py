"""Work inside an LLM leaves nothing behind, and refuses what it cannot do right."""

import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from in_llm_cases import ATTENTION, Act, KeepBest, LookAtBest, inside, prompts, tiny_causal
from torch import nn

from tokenred.errors import CapabilityError, ConfigError, InputError
from tokenred.models import attention as capture
from tokenred.models.inside.llm import inside_llm
from tokenred.types import LayerReduction, LayerState, LayerStep

RAGGED = ((3, 12, 4), (2, 8, 3))
READ = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture
def model() -> Any:
    return tiny_causal(dtype=torch.float32)


def hooks_of(model: nn.Module) -> list[int]:
    return [
        len(hooks)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
    ]


def drop_half(state: LayerState) -> LayerReduction:
    visual = state.visual.nonzero()[:, 0]
    stays = torch.ones_like(state.visual)
    stays[visual[::2]] = False
    return LayerReduction(stays.nonzero()[:, 0])


def everything() -> Any:
    return inside(
        KeepBest({1: 0.5}), Act([LayerStep(2, "middle")], drop_half), pruner=LookAtBest(3)
    )


def test_nothing_is_left_behind(model: Any) -> None:
    case = prompts(model, RAGGED)
    config, hooks = model.config._attn_implementation, hooks_of(model)
    before = model.generate(**case.inputs(), **READ)
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    with inside_llm(model.model, everything()) as run:
        assert hooks_of(model) != hooks
        assert torch.equal(model.generate(**case.inputs(), **READ), before)  # nothing announced
        run.begin(case.tokens)
        assert not torch.equal(model.generate(**case.inputs(), **READ), before)
        run.end()
        assert torch.equal(model.generate(**case.inputs(), **READ), before)
    assert (config, hooks) == (model.config._attn_implementation, hooks_of(model))
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    assert not capture._intercepts
    assert torch.equal(model.generate(**case.inputs(), **READ), before)


@pytest.mark.parametrize("where", ["before", "middle", "prune", "body"])
def test_nothing_is_left_behind_after_an_exception(where: str, model: Any) -> None:
    case, hooks = prompts(model, RAGGED), hooks_of(model)
    before = model.generate(**case.inputs(), **READ)

    def fail(*args: Any) -> Any:
        raise RuntimeError("on purpose")

    work = inside(Act([LayerStep(1, "before" if where == "before" else "middle")], fail))
    if where == "prune":
        pruner = LookAtBest(2)
        pruner.prune = fail  # type: ignore[method-assign]
        work = inside(pruner=pruner)

    def run_it() -> None:
        with inside_llm(model.model, work) as run:
            if where == "body":
                fail()
            run.begin(case.tokens)
            model.generate(**case.inputs(), **READ)

    with pytest.raises(RuntimeError, match="purpose"):
        run_it()
    assert hooks_of(model) == hooks
    assert model.config._attn_implementation == "sdpa"
    assert not capture._intercepts
    assert torch.equal(model.generate(**case.inputs(), **READ), before)


def test_a_failed_call_does_not_spoil_the_next(model: Any) -> None:
    case, rule = prompts(model, RAGGED), KeepBest({1: 0.5})
    with inside_llm(model.model, inside(rule)) as run:
        run.begin(case.tokens)
        expected = model.generate(**case.inputs(), **READ)
        run.begin(case.tokens)
        rule.shares = {1: 2.0}  # more than there are
        with pytest.raises(RuntimeError):
            model.generate(**case.inputs(), **READ)
        rule.shares = {1: 0.5}
        run.begin(case.tokens)
        assert torch.equal(model.generate(**case.inputs(), **READ), expected)


def test_generation_may_run_in_another_thread(model: Any) -> None:
    case, found = prompts(model, RAGGED), []
    with inside_llm(model.model, everything()) as run:
        run.begin(case.tokens)
        expected = model.generate(**case.inputs(), **READ)
        run.begin(case.tokens)
        work = lambda: found.append(model.generate(**case.inputs(), **READ))  # noqa: E731
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert torch.equal(found[0], expected)


def test_one_worker_at_a_time(model: Any) -> None:
    work = inside(KeepBest({1: 0.5}))
    with inside_llm(model.model, work):
        with pytest.raises(CapabilityError, match="already"), inside_llm(model.model, work):
            pass
        assert model.config._attn_implementation == "tokenred_sdpa"
    with inside_llm(model.model, inside()) as run:
        run.begin(prompts(model).tokens)
        assert not any(hooks_of(model))


# Caches


@pytest.fixture
def started(model: Any) -> Iterator[tuple[Any, ...]]:
    """A reduced conversation: its run, its cache, and how to go on."""
    case = prompts(model, RAGGED)
    width = case.mask.shape[1]
    with inside_llm(model.model, inside(KeepBest({1: 0.5}, cut_cache=True))) as run:
        run.begin(case.tokens)
        with torch.no_grad():
            cache = model(**case.inputs(), use_cache=True).past_key_values

        @torch.no_grad()
        def go_on(cache: Any, ids: list[int], rows: list[int] = [0, 1]) -> torch.Tensor:  # noqa: B006
            done = cache.get_seq_length()
            mask = torch.cat((case.mask, torch.ones(2, done - width + len(ids))), 1)[rows]
            return model(
                input_ids=torch.tensor([ids]).expand(len(rows), -1),
                attention_mask=mask.long(),
                past_key_values=cache,
            ).logits

        yield run, cache, go_on, width


def test_a_shortened_cache_counts_the_prompt(started: Any) -> None:
    _, cache, go_on, width = started
    held = [layer.keys.shape[-2] for layer in cache.layers]
    assert held == [13] * 4  # the longer row: 7 text and 6 visual tokens
    assert [layer.get_seq_length() for layer in cache.layers] == [width] * 4
    go_on(cache, [5, 6])
    assert [layer.get_seq_length() for layer in cache.layers] == [width + 2] * 4


def test_a_cache_can_be_cropped_behind_the_prompt(started: Any) -> None:
    _, cache, go_on, width = started
    expected = go_on(copy.deepcopy(cache), [5, 9])
    go_on(cache, [5, 6, 7])
    cache.crop(-2)
    assert cache.get_seq_length() == width + 1
    assert torch.allclose(go_on(cache, [9])[:, 0], expected[:, 1], atol=1e-5)
    with pytest.raises(CapabilityError, match="cropped"):
        cache.crop(-3)


def test_rows_of_a_cache_can_be_sorted_repeated_and_chosen(started: Any) -> None:
    _, cache, go_on, _ = started
    expected = go_on(copy.deepcopy(cache), [5])[:, 0]
    cache.batch_repeat_interleave(2)
    found = go_on(cache, [5], [0, 0, 1, 1])[:, 0]
    assert torch.allclose(found, expected.repeat_interleave(2, 0), atol=1e-5)
    cache.crop(-1)
    cache.reorder_cache(torch.tensor([1, 0, 3, 2]))
    assert torch.allclose(go_on(cache, [5], [0, 0, 1, 1])[:, 0], found, atol=1e-5)
    cache.crop(-1)
    cache.batch_select_indices(torch.tensor([0, 2]))
    assert torch.allclose(go_on(cache, [5])[:, 0], expected, atol=1e-5)
    cache.reset()
    assert cache.layers[0].memories == []


# Refusals


def refuse(model: Any, work: Any, match: str, error: Any = CapabilityError, **options: Any) -> None:
    case = prompts(model, RAGGED)
    with inside_llm(model.model, work) as run:
        run.begin(case.tokens)
        with pytest.raises(error, match=match):
            model.generate(input_ids=case.ids, **case.inputs(), **READ, **options)


def test_static_caches_are_refused(model: Any) -> None:
    work = inside(KeepBest({1: 0.5}))
    refuse(
        model,
        work,
        "dynamic cache, not Static",
        cache_implementation="static",
        disable_compile=True,
    )


def test_a_prompt_in_parts_is_refused(model: Any) -> None:
    case = prompts(model, RAGGED)
    with inside_llm(model.model, inside(KeepBest({1: 0.5}))) as run:
        run.begin(case.tokens)
        with pytest.raises(InputError, match="were expected"):
            model.generate(input_ids=case.ids, **READ, prefill_chunk_size=8)


def test_a_cache_that_was_not_seen_is_refused(model: Any) -> None:
    case = prompts(model, RAGGED)
    with torch.no_grad():
        cache = model(**case.inputs(), use_cache=True).past_key_values
        with inside_llm(model.model, inside(KeepBest({1: 0.5}))) as run:
            run.begin(case.tokens)
            with pytest.raises(CapabilityError, match="empty cache"):
                model(input_ids=case.ids[:, :1], past_key_values=cache)


def test_other_rows_than_announced_are_refused(model: Any) -> None:
    case = prompts(model, RAGGED)
    with inside_llm(model.model, inside(KeepBest({1: 0.5}))) as run:
        run.begin(case.tokens)
        with pytest.raises(InputError, match="2 prompts of 19 tokens were expected"):
            model(inputs_embeds=case.embeds[:1])


def test_windows_are_refused() -> None:
    model = tiny_causal(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(CapabilityError, match="full attention"):
        inside_llm(model.model, inside(KeepBest({1: 0.5}))).__enter__()


def test_an_unknown_attention_backend_is_refused(model: Any) -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("other_backend", sdpa_attention_forward)
    AttentionMaskInterface.register("other_backend", sdpa_mask)
    model.set_attn_implementation("other_backend")
    refuse(model, inside(KeepBest({1: 0.5})), "not 'other_backend'")


def test_a_flash_backend_gets_masks_of_two_dimensions(model: Any) -> None:
    """A stand-in with flash attention's interface: a padding mask or none, causal by itself."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import flash_attention_mask

    masks = []

    def stand_in(module: Any, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> Any:
        assert mask is None or mask.ndim == 2
        masks.append(mask)
        assert kwargs.get("position_ids") is None or bool(
            (kwargs["position_ids"].diff() <= 1).all()
        )
        n, held = query.shape[2], key.shape[2]
        seen = torch.ones(n, held, dtype=torch.bool).tril(held - n)[None]
        if mask is not None:
            seen = seen & mask.bool()[:, None]
        seen = seen | torch.eye(n, held, dtype=torch.bool) if n == held else seen
        return sdpa_attention_forward(module, query, key, value, seen[:, None], **kwargs)

    case = prompts(model, RAGGED)
    work = lambda: inside(KeepBest({1: 0.5}), pruner=LookAtBest(2))  # noqa: E731
    with inside_llm(model.model, work()) as run:
        run.begin(case.tokens)
        expected = model.generate(**case.inputs(), **READ)
    AttentionInterface.register("flash_stand_in", stand_in)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    model.config._attn_implementation = "flash_stand_in"
    with inside_llm(model.model, work()) as run:
        run.begin(case.tokens)
        assert torch.equal(model.generate(**case.inputs(), **READ), expected)
        assert any(mask is not None for mask in masks)
        alone = case.row(0)
        masks.clear()
        run.begin(alone.tokens)
        model.generate(**alone.inputs(), **READ)
        assert masks
        assert all(mask is None for mask in masks)
    refuse(model, inside(KeepBest({1: 0.5}, unmasked=True)), "causal attention only")


def test_gradient_checkpointing_is_refused(model: Any) -> None:
    case = prompts(model, RAGGED)
    for layer in model.model.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = lambda function, *args: function(*args)
    model.train()
    with inside_llm(model.model, inside(KeepBest({1: 0.5}))) as run:
        run.begin(case.tokens)
        with pytest.raises(CapabilityError, match="checkpointing"):
            model(**case.inputs(), use_cache=False)


def test_generation_without_a_cache_cannot_cut_it(model: Any) -> None:
    case = prompts(model, RAGGED)
    with inside_llm(model.model, inside(KeepBest({1: 0.5}, cut_cache=True))) as run:
        run.begin(case.tokens)
        with pytest.raises(CapabilityError, match="cut_cache"):
            # With embeddings, transformers would use a cache all the same.
            model.generate(input_ids=case.ids, attention_mask=case.mask, use_cache=False, **READ)


def test_layers_of_another_form_have_no_middle(model: Any) -> None:
    work = inside(Act([LayerStep(1, "middle")], drop_half))
    layer = model.model.layers[1]
    norm = layer.post_attention_layernorm
    del layer.post_attention_layernorm
    with pytest.raises(CapabilityError, match="between its attention and its MLP"):
        inside_llm(model.model, work).__enter__()
    layer.post_attention_layernorm = norm
    original = layer.forward
    layer.forward = lambda *args, **kwargs: 2 * original(*args, **kwargs)
    refuse(model, work, "more than add its MLP")


@pytest.mark.parametrize(
    ("step", "match"),
    [
        (LayerStep(4), "no layer 4"),
        (LayerStep(0, "before", ATTENTION), "before layer 0"),
        (LayerStep(0, unmasked_before=True), "before layer 0"),
    ],
    ids=["too-deep", "too-early", "unmasked"],
)
def test_impossible_places_are_refused(step: LayerStep, match: str, model: Any) -> None:
    with pytest.raises(ConfigError, match=match):
        inside_llm(model.model, inside(Act([step], drop_half))).__enter__()
    with pytest.raises(ConfigError, match="cannot act"):
        inside_llm(model.model, inside(pruner=LookAtBest(0))).__enter__()


BROKEN = {
    "last": (lambda s: LayerReduction(torch.arange(3)), "last token"),
    "twice": (lambda s: LayerReduction(torch.tensor([0, 0, s.last])), "at most once"),
    "made": (lambda s: LayerReduction(torch.tensor([-1, s.last])), "need hidden states"),
    "undeclared attention": (lambda s: s.attention(torch.tensor([0])), "attention has to say so"),
    "undeclared input": (
        lambda s: s.probe(torch.tensor([0]), layer="previous"),
        "previous inputs has to say so",
    ),
    "unknown probe": (lambda s: s.probe(torch.tensor([0]), layer="last"), "next and previous"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_reducers_get_a_sentence(name: str, model: Any) -> None:
    act, match = BROKEN[name]
    refuse(model, inside(Act([LayerStep(1)], act)), match, (InputError, ConfigError))


def test_layers_on_several_devices_are_refused(model: Any) -> None:
    model.model.layers[1].to("meta")
    with (
        pytest.raises(CapabilityError, match="all its layers on one device, not on cpu, meta"),
        inside_llm(model.model, everything()),
    ):
        pytest.fail("layers on several devices were accepted")

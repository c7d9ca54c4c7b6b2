"""The contract of an adapter itself: each of its checks notices the fault that it is there for."""

import contextlib
import sys
from dataclasses import replace

import pytest
import torch

from tokenred.models import reduced_calls as calls
from tokenred.models import splice
from tokenred.models.cues import CapturedCues
from tokenred.models.families.llava import LlavaAdapter
from tokenred.models.families.llava_onevision import LlavaOnevisionAdapter
from tokenred.testing import adapter_checks
from tokenred.testing.models import LLAVA_ONEVISION

pytest.importorskip("transformers")


def other_pixels(patch):
    """The tower sees slightly other pixels."""
    run = LlavaAdapter._run_tower
    patch.setattr(LlavaAdapter, "_run_tower", lambda self, x: run(self, x * 1.001))


def blind(patch):
    """The LLM is shown nothing."""
    run = LlavaAdapter._run_tower

    patch.setattr(LlavaAdapter, "_run_tower", lambda self, pixels: run(self, pixels) * 0)


def one_token_too_many(patch):
    """A token more goes into the prompt than the pipeline kept."""
    pack = splice.pack

    def longer(reduced, *args):
        index = torch.cat((torch.arange(len(reduced.features)), torch.tensor([0])))
        fields = ("features", "frame_index", "token_index", "mass")
        changes = {name: getattr(reduced, name)[index] for name in fields}
        return pack(replace(reduced, **changes), *args)

    patch.setattr("tokenred.models.adapter.pack", longer)


def shifted_positions(patch):
    """Original positions are one too high."""
    right = splice.original_positions
    patch.setattr(
        "tokenred.models.families.base.original_positions", lambda *args: right(*args) + 1
    )


def always_original(patch):
    """The policy is ignored."""
    ids = LlavaOnevisionAdapter.position_ids
    patch.setattr(
        LlavaOnevisionAdapter,
        "position_ids",
        lambda self, inputs, layout, _: ids(self, inputs, layout, "original"),
    )


def always_contiguous(patch):
    """The policy is ignored."""
    patch.setattr(LlavaOnevisionAdapter, "position_ids", lambda *args: None)


def positions_lost_while_writing(patch):
    """generate does not pass the positions on; a plain call does."""
    lower = calls._lower_limits

    def lose(inputs, *args):
        inputs.pop("position_ids", None)
        lower(inputs, *args)

    patch.setattr(calls, "_lower_limits", lose)


def no_mask(patch):
    """Padding is attended to."""
    shorten = calls._Calls._shorten

    def unmasked(self, inputs):
        spliced, rest = shorten(self, inputs)
        rest["attention_mask"] = torch.ones_like(rest["attention_mask"])
        return spliced, rest

    patch.setattr(calls._Calls, "_shorten", unmasked)


def detached(patch):
    """Gradients stop at the visual tokens."""
    scatter = splice.scatter_features
    patch.setattr(
        "tokenred.models.families.base.scatter_features", lambda *args: scatter(*args).detach()
    )


def overflow(patch):
    """A newline overflows in half precision."""
    newline = LlavaOnevisionAdapter.newline
    patch.setattr(LlavaOnevisionAdapter, "newline", lambda self: newline(self) * 1e6)


def leaves_a_method(patch):
    """The wrapped forward stays."""

    @contextlib.contextmanager
    def leaky(adapter, reduce, positions, inside):
        with wrapped(adapter, reduce, positions, inside):
            yield
        adapter.model.forward = adapter.model.forward

    wrapped = calls.wrapped_calls
    patch.setattr("tokenred.models.families.base.wrapped_calls", leaky)


def forgets_who_is_attached(patch):
    """A second attach is let in."""

    class Forgetful(set):
        def __contains__(self, model):
            return False

    patch.setattr(sys.modules["tokenred.models.attach"], "_attached", Forgetful())


def other_answers(patch):
    """Answers about one clip are those of another newline."""
    answer = LlavaOnevisionAdapter.answer_logits
    patch.setattr(
        LlavaOnevisionAdapter,
        "answer_logits",
        lambda self, *args, **kwargs: answer(self, *args, **kwargs) + 0.01,
    )


def backend_matters(patch):
    """Under eager attention the tower's first tokens are lost."""
    values = CapturedCues.values

    def biased(self):
        found = values(self)
        if self.tower.module.config._attn_implementation == "eager":
            found = {name: cue.flip(1) for name, cue in found.items()}
        return found

    patch.setattr(CapturedCues, "values", biased)


def nothing_inside(patch):
    """What works inside the LLM is never told about the prompt."""
    patch.setattr(calls, "prompt_tokens", lambda spliced: None)
    patch.setattr("tokenred.models.inside.llm.InsideLlmRun.begin", lambda self, prompt: None)


FAULTS = {
    "identity_is_bit_equal": other_pixels,
    "identity_generates_the_same": blind,
    "shrinks_by_the_count": one_token_too_many,
    "survivors_equal_masked_prompt": always_contiguous,
    "cache_equals_no_cache": positions_lost_while_writing,
    "batch_equals_singles": no_mask,
    "contiguous_positions": always_original,
    "original_positions": shifted_positions,
    "half_precision_is_finite": overflow,
    "backends_agree": backend_matters,
    "nothing_is_left_behind": leaves_a_method,
    "nested_attach_refuses": forgets_who_is_attached,
    "gradients_flow": detached,
    "answers_equal": other_answers,
    "reduces_inside_the_llm": nothing_inside,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(name, monkeypatch):
    FAULTS[name](monkeypatch)
    (check,) = [check for check in adapter_checks(LLAVA_ONEVISION) if check.name == name]
    with pytest.raises((AssertionError, RuntimeError, ValueError)):
        check()


def test_every_check_has_a_fault():
    assert {check.name for check in adapter_checks(LLAVA_ONEVISION)} == set(FAULTS)

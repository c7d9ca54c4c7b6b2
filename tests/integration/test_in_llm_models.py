"""The LLMs inside vision-language models, rotary positions of several rows and DeepStack features.

The reference is the untouched model of transformers: from the layer of the reduction on, its masks
hide what was dropped.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from in_llm_cases import Act, KeepBest, Prompts, inside, keep_best_reference, prompts

from tokenred.errors import CapabilityError
from tokenred.models.inside.llm import inside_llm
from tokenred.testing.models import tiny_llava_onevision, tiny_qwen2_5_vl, tiny_qwen3_vl
from tokenred.types import LayerReduction, LayerState, LayerStep

RAGGED = ((3, 12, 4), (2, 8, 3))
FAMILIES = {
    "llava-onevision": tiny_llava_onevision,
    "qwen2.5-vl": tiny_qwen2_5_vl,
    "qwen3-vl": tiny_qwen3_vl,
}
N_LATER = 4


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, Any]:
    model, _ = FAMILIES[request.param]()
    return request.param, model.double().eval()


def text_of(model: Any) -> Any:
    return model.model.language_model


def inputs_of(name: str, text: Any, case: Prompts) -> dict[str, Any]:
    """Return inputs of the LLM for the prompts and ``N_LATER`` tokens after them."""
    later = torch.full((len(case.ids), N_LATER), 5)
    embeds = torch.cat((case.embeds, text.get_input_embeddings()(later)), 1).detach()
    mask = torch.cat((case.mask, torch.ones_like(later)), 1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
    if name.startswith("qwen"):
        frame, place = case.tokens.frame_index, case.tokens.token_index
        rows = positions[None].repeat(4, 1, 1)
        width = case.ids.shape[1]
        for axis, value in enumerate((frame, place // 2, place % 2)):
            rows[axis + 1, :, :width] = torch.where(frame >= 0, 3 + value, rows[0, :, :width])
        inputs["position_ids"] = rows
    return inputs


def deepstack_features(case: Prompts, dim: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(2)
    shape = int(case.tokens.visual.sum()), dim
    deepstack = [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    return {"deepstack_visual_embeds": deepstack, "visual_pos_masks": case.tokens.visual}


@contextmanager
def hidden_from(text: Any, layer: int, hides: torch.Tensor) -> Iterator[None]:
    """Hide columns (rows, columns) from all tokens, from a layer on."""

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        n = args[0].shape[1]
        seen = torch.ones(n, n, dtype=torch.bool).tril() & ~hides[:, None, None]
        return args, {**kwargs, "attention_mask": seen | torch.eye(n, dtype=torch.bool)}

    with ExitStack() as stack:
        for each in text.layers[layer:]:
            stack.callback(each.register_forward_pre_hook(before, with_kwargs=True).remove)
        yield


@torch.no_grad()
def test_reading_and_writing_equal_hidden_columns(family: tuple[str, Any]) -> None:
    name, model = family
    text = text_of(model)
    case = prompts(text, RAGGED)
    inputs, width = inputs_of(name, text, case), case.ids.shape[1]
    deepstack = deepstack_features(case, case.embeds.shape[-1]) if name == "qwen3-vl" else {}

    def part(start: int, stop: int) -> dict[str, Any]:
        return {
            "inputs_embeds": inputs["inputs_embeds"][:, start:stop],
            "position_ids": inputs["position_ids"][..., start:stop],
            "attention_mask": inputs["attention_mask"][:, :stop],
        }

    with inside_llm(text, inside(KeepBest({1: 0.5}))) as run:
        run.begin(case.tokens)
        first = text(**part(0, width), **deepstack, use_cache=True)
        found = [first.last_hidden_state]
        for place in range(width, width + N_LATER):
            out = text(**part(place, place + 1), past_key_values=first.past_key_values)
            found.append(out.last_hidden_state)
        kept = run.kept
    hides = inputs["attention_mask"] == 0
    stays = ~hides
    for row, columns in enumerate(kept):
        stays[row, :width] = False
        stays[row, columns] = True
    if deepstack:
        later = torch.zeros(2, N_LATER, dtype=torch.bool)
        deepstack["visual_pos_masks"] = torch.cat((deepstack["visual_pos_masks"], later), 1)
    with hidden_from(text, 1, ~stays):
        expected = text(**inputs, **deepstack, use_cache=False).last_hidden_state
    assert [len(columns) for columns in kept] == [13, 9]
    assert (torch.cat(found, 1) - expected)[stays].abs().max() < 1e-6
    plain = text(**inputs, **deepstack, use_cache=False).last_hidden_state
    assert (plain - expected)[stays].abs().max() > 1e-3


def test_multimodal_positions_are_kept_only(family: tuple[str, Any]) -> None:
    name, model = family
    text = text_of(model)
    case = prompts(text, RAGGED)
    inputs = inputs_of(name, text, case)
    width = case.ids.shape[1]
    states: list[LayerState] = []

    def act(state: LayerState) -> LayerReduction:
        states.append(state)
        rows = state.probe(torch.tensor([state.last]))
        assert torch.allclose(rows.sum(-1), torch.ones(4, 1))
        source = torch.arange(len(state.hidden))
        return LayerReduction(source[state.visual.logical_not()], None, "renumber")

    def read() -> None:
        with inside_llm(text, inside(Act([LayerStep(1)], act))) as run, torch.no_grad():
            run.begin(case.tokens)
            text(
                inputs_embeds=case.embeds,
                attention_mask=case.mask,
                position_ids=inputs["position_ids"][..., :width],
            )

    if name == "llava-onevision":
        read()
        assert states[0].cos is not None
        assert states[0].cos.shape == (19, 16)
    else:
        with pytest.raises(CapabilityError, match="M-RoPE"):
            read()
        assert states[0].cos is None


def test_generation_inside_a_vision_language_model() -> None:
    model = tiny_llava_onevision()[0].double()
    text = text_of(model)
    case, rule = prompts(text, RAGGED), KeepBest({1: 0.5})
    with inside_llm(text, inside(rule)) as run:
        run.begin(case.tokens)
        out = model.generate(
            input_ids=case.ids,
            **case.inputs(),
            max_new_tokens=6,
            do_sample=False,
            eos_token_id=None,
            return_dict_in_generate=True,
            output_logits=True,
        )
    new = out.sequences[:, case.ids.shape[1] :]
    plain = SimpleNamespace(
        model=text, lm_head=model.lm_head, get_input_embeddings=text.get_input_embeddings
    )
    with torch.no_grad():
        expected, _ = keep_best_reference(plain, case, new[:, :-1], rule)
    assert (torch.stack(out.logits, 1) - expected[:, -6:]).abs().max() < 1e-6

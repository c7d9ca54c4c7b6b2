"""What reducers see of the layers around them, and weights of keys: against plain torch."""

from typing import Any

import pytest
import torch
from in_llm_cases import Act, Prompts, Reference, inside, prompts, tiny_causal
from torch import Tensor

from tokenred import ConfigError
from tokenred.models.inside.llm import inside_llm
from tokenred.types import LayerReduction, LayerState, LayerStep

AT = 2
PREVIOUS = frozenset({"previous-input"})
RAGGED = ((3, 12, 4), (2, 8, 3))


def stays_of(visual: Tensor) -> Tensor:
    """Return that text stays, and every other visual token."""
    return ~visual | (visual.cumsum(-1) % 2 == 1)


def drop_half(state: LayerState) -> LayerReduction:
    return LayerReduction(stays_of(state.visual).nonzero()[:, 0])


def weight_of(visual: Tensor) -> Tensor:
    """Return a weight of its own for each visual token."""
    return torch.where(visual, visual.cumsum(-1) * 0.25, 0.0)


def weigh(state: LayerState) -> LayerReduction:
    source = stays_of(state.visual).nonzero()[:, 0]
    return LayerReduction(source, log_weight=weight_of(state.visual)[source].float())


def states_at(model: Any, case: Prompts, *, earlier: bool = False) -> list[Any]:
    """Read the prompts; return what a step before a layer saw, asked while it may be."""
    seen: list[Any] = []

    def look(state: LayerState) -> LayerReduction | None:
        if state.layer < AT:
            return drop_half(state)
        told = {
            (layer, rotary): state.projections(layer, rotary=rotary)
            for layer in ("next", "previous")
            for rotary in (True, False)
        }
        seen.append((state, told, state.previous_input(), state.final_norm(state.hidden)))
        return None

    steps = [LayerStep(AT - 1, "before")] * earlier + [LayerStep(AT, "before", PREVIOUS)]
    with torch.no_grad(), inside_llm(model.model, inside(Act(steps, look))) as run:
        run.begin(case.tokens)
        model(**case.inputs(), position_ids=Reference(model).positions(case.mask))
    return seen


@pytest.mark.parametrize("earlier", [False, True], ids=["whole", "after-a-drop"])
@torch.no_grad()
def test_projections_inputs_and_norm_equal_plain_torch(earlier: bool) -> None:
    model = tiny_causal()
    case, reference = prompts(model, RAGGED), Reference(model)
    positions, alive = reference.positions(case.mask), case.mask.bool()
    hidden, inputs = case.embeds, []
    for index in range(AT):
        if earlier and index == AT - 1:
            alive = alive & stays_of(case.tokens.visual)
        inputs.append(hidden)
        out, _ = reference.attend(index, hidden, positions, reference.causal(alive.long()))
        hidden = reference.finish(index, out)
    inputs.append(hidden)
    found = states_at(model, case, earlier=earlier)
    assert len(found) == len(RAGGED)
    for row, (state, told, previous, normed) in enumerate(found):
        real = alive[row]
        torch.testing.assert_close(state.hidden, inputs[AT][row, real])
        torch.testing.assert_close(previous, inputs[AT - 1][row, real])
        torch.testing.assert_close(normed, model.model.norm(inputs[AT])[row, real])
        for (name, rotary), each in told.items():
            index = AT if name == "next" else AT - 1
            module, layer = model.model.layers[index].self_attn, model.model.layers[index]
            entered = layer.input_layernorm(inputs[index])
            cos, sin = model.model.rotary_emb(entered, positions)
            for projected, part in ((each.query, module.q_proj), (each.key, module.k_proj)):
                wanted = part(entered).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
                if rotary:
                    first, second = wanted.chunk(2, -1)
                    turned = torch.cat((-second, first), -1)
                    wanted = wanted * cos[:, None] + turned * sin[:, None]
                torch.testing.assert_close(projected, wanted[row][:, real])
            assert each.scaling == pytest.approx(module.head_dim**-0.5)


@pytest.mark.parametrize("name", ["previous_input", "projections"])
@torch.no_grad()
def test_previous_inputs_have_to_be_declared(name: str) -> None:
    model = tiny_causal()
    case = prompts(model, RAGGED)

    def act(state: LayerState) -> None:
        state.previous_input() if name == "previous_input" else state.projections("previous")

    with inside_llm(model.model, inside(Act([LayerStep(AT, "before")], act))) as run:
        run.begin(case.tokens)
        with pytest.raises(ConfigError, match="reads"):
            model(**case.inputs())


def weighed_reference(model: Any, case: Prompts, later: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return logits where dropped keys are not seen and the others have their weights."""
    reference, embeds, mask = Reference(model), case.embeds, case.mask
    visual = case.tokens.visual
    if later is not None:
        embeds = torch.cat((embeds, model.get_input_embeddings()(later)), 1)
        mask = torch.cat((mask, torch.ones_like(later)), 1)
        visual = torch.cat((visual, torch.zeros_like(later, dtype=torch.bool)), 1)
    positions, alive, hidden, weight = reference.positions(mask), mask.bool(), embeds, 0.0
    for index in range(len(model.model.layers)):
        if index == AT:
            alive = alive & stays_of(visual)
            weight = weight_of(visual)[:, None, None]
        seen = reference.causal(alive.long())
        hidden, _ = reference.attend(index, hidden, positions, seen, weight)
        hidden = reference.finish(index, hidden)
    return reference.logits(hidden), alive


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_later_layers_weigh_keys(attention: str) -> None:
    exact = attention == "sdpa"
    model = tiny_causal(attention=attention, dtype=torch.float64 if exact else torch.float32)
    case = prompts(model, RAGGED)
    with inside_llm(model.model, inside(Act([LayerStep(AT, "before")], weigh))) as run:
        run.begin(case.tokens)
        found = model(**case.inputs(), position_ids=Reference(model).positions(case.mask)).logits
    expected, alive = weighed_reference(model, case, None)
    assert (found - expected)[alive].abs().max() < (1e-6 if exact else 1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_written_tokens_weigh_keys(attention: str) -> None:
    model = tiny_causal(attention=attention, dtype=torch.float32)
    case = prompts(model, RAGGED)
    with inside_llm(model.model, inside(Act([LayerStep(AT, "before")], weigh))) as run:
        run.begin(case.tokens)
        out = model.generate(
            **case.inputs(),
            max_new_tokens=4,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    width = case.ids.shape[1]
    expected, _ = weighed_reference(model, case, out.sequences[:, -4:])
    found = torch.stack(out.logits, 1)
    assert (found - expected[:, width - 1 : -1]).abs().max() < 1e-3


@torch.no_grad()
def test_a_later_step_sees_the_weights() -> None:
    model, seen = tiny_causal(), []
    case = prompts(model, RAGGED)

    def act(state: LayerState) -> LayerReduction | None:
        seen.append(state.log_weight)
        return weigh(state) if state.layer < AT else drop_half(state)

    steps = [LayerStep(layer, "before") for layer in (1, 2, 3)]
    with inside_llm(model.model, inside(Act(steps, act))) as run:
        run.begin(case.tokens)
        model(**case.inputs())
    assert seen[:2] == [None, None]
    visual = case.tokens.visual[0, case.mask[0].bool()]
    first = weight_of(visual)[stays_of(visual)].float()
    torch.testing.assert_close(seen[2], first)
    left = visual[stays_of(visual)]
    torch.testing.assert_close(seen[4], first[stays_of(left)])  # what is kept keeps its weight

"""A family of somebody else's: an adapter written from the how-to, and held to the contract."""

import pytest
import torch

from tokenred import attach, load_pipeline
from tokenred.errors import CapabilityError
from tokenred.models import Clip, ClipLayout, adapter_for
from tokenred.models.families.base import FamilyAdapter
from tokenred.models.inputs.preparing import Prepared, resize_and_normalise
from tokenred.plugins import load_registry
from tokenred.testing import TinyFamily, parametrize_adapter_checks
from tokenred.testing.models import tiny_llava_1_5
from tokenred.types import VisualTokens

pytest.importorskip("transformers")


class PlainAdapter(FamilyAdapter):
    """LLaVA-1.5 once more, with nothing but what every family has to say."""

    model_class = "LlavaForConditionalGeneration"
    visual_inputs = {"image": ("pixel_values",)}

    def prepare(self, videos=(), images=(), *, frame_times=None, settings=None):
        plain = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        pixels = [resize_and_normalise(image[None], (24, 24), plain) for image in images]
        pieces = {"image": [[self.token_ids["image"]] * 36 for _ in images]}
        return Prepared({"pixel_values": torch.cat(pixels)} if pixels else {}, pieces)

    def encode(self, inputs, needs=frozenset(), frame_times=None):
        states = self.tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
        features = self.model.model.multi_modal_projector(
            states[self.config.vision_feature_layer][:, 1:]
        )
        cues = {name: torch.linspace(0, 1, 36)[None] for name in needs}
        return [
            Clip(VisualTokens.of(each[None], (6, 6), cues=cues), ClipLayout("image", 1, (6, 6)))
            for each in features
        ]


FAMILY = TinyFamily("a plain one", tiny_llava_1_5, (24, 24), ("image",))


@pytest.fixture(autouse=True)
def _ours_instead(monkeypatch):
    """Let ``adapter_for`` find this adapter, as if a plugin had brought it."""
    registry, _ = load_registry(third_party=False)
    key = "model adapter", "LlavaForConditionalGeneration"
    registry._others[key] = (f"{__name__}:PlainAdapter", "a plugin")
    monkeypatch.setattr("tokenred.models.adapter.registry", lambda: registry)


@parametrize_adapter_checks(FAMILY)
def test_contract(check):
    check()


def test_it_is_the_adapter_that_was_tested():
    assert type(adapter_for(tiny_llava_1_5()[0])) is PlainAdapter


def test_an_adapter_may_be_handed_over():
    model, tokenizer = tiny_llava_1_5()
    inputs = FAMILY.inputs(
        model, tokenizer, ["<image>?"], images=[torch.zeros(3, 24, 24, dtype=torch.uint8)]
    )
    quarter = load_pipeline("random", {"budget.retention_ratio": 0.25})
    with attach(model, quarter, adapter=PlainAdapter(model)) as session:
        model(**inputs)
    assert session.realised[0].n_tokens == 9


def test_an_unknown_class_is_told_what_there_is():
    with pytest.raises(CapabilityError, match=r"no adapter for Linear; supported: .*Qwen3VLFor"):
        adapter_for(torch.nn.Linear(1, 1))

"""Cues from models of the package, and from the tower of LLaVA-Video."""

import pytest
import torch
from llava_stub import LlavaStubForCausalLM
from tokenred_llava.testing import LLAVA_VIDEO

from tokenred.errors import CapabilityError
from tokenred.models import adapter_for
from tokenred.testing.models import synthetic_video

pytest.importorskip("transformers")


def stub_clip(needs, **options):
    model = LlavaStubForCausalLM(**options)
    generator = torch.Generator().manual_seed(0)
    call = {"images": [torch.randn(3, 3, 14, 14, generator=generator)], "modalities": ["video"]}
    with torch.no_grad():
        (clip,) = adapter_for(model).encode(call, needs)
    return model, clip.tokens


def test_the_package_gives_the_row_of_its_class_token():
    model, tokens = stub_clip({"class-attention@1", "salience@1"}, class_token=True)
    row = model.get_vision_tower().weights[1][:, :, 0, 1:].mean(1)
    torch.testing.assert_close(tokens.cues["class-attention@1"], row)
    assert torch.equal(tokens.cues["salience@1"], tokens.cues["class-attention@1"])


def test_the_package_without_class_token_has_attention_received():
    _, tokens = stub_clip({"attention@1", "salience@1"})
    assert torch.equal(tokens.cues["salience@1"], tokens.cues["attention@1"])
    with pytest.raises(CapabilityError, match="class token"):
        adapter_for(LlavaStubForCausalLM()).check({"class-attention@1"})


def test_the_package_gives_what_its_projector_reads():
    for class_token in (False, True):
        model, tokens = stub_clip({"tower"}, class_token=class_token)
        with torch.no_grad():
            again = model.get_model().mm_projector(tokens.cues["tower"])
        torch.testing.assert_close(again, tokens.features)
        assert not model.get_model().mm_projector._forward_pre_hooks


@pytest.mark.parametrize(
    ("cue", "message"),
    [("attention@pooler", "the llava package takes away"), ("pixels@0", "scales pixels by itself")],
)
def test_what_the_package_cannot_give(cue, message):
    with pytest.raises(CapabilityError, match=message):
        adapter_for(LlavaStubForCausalLM()).check({cue})


def test_llava_video_gives_what_its_projector_reads_and_its_pixels():
    model, tokenizer = LLAVA_VIDEO.build()
    frames = synthetic_video(4, 28, seed=3)
    inputs = LLAVA_VIDEO.inputs(model, tokenizer, ["<video>?"], [frames])
    with torch.no_grad():
        (clip,) = adapter_for(model).encode(inputs, {"tower", "pixels@0", "attention@-2"})
        again = model.model.multi_modal_projector(clip.tokens.cues["tower"])
    torch.testing.assert_close(again, clip.tokens.features)
    cells = clip.tokens.cues["pixels@0"].unflatten(-1, (3, 4, 4)).unflatten(1, clip.tokens.grid)
    pixels = cells.permute(0, 3, 1, 4, 2, 5).reshape(frames.shape)
    assert (pixels - frames / 255).abs().max() < 1e-6
    assert clip.tokens.cues["attention@-2"].std() > 1e-5

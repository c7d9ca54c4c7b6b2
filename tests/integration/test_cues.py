"""Cues beside attention received and keys: what the class token and the pooling head look at, what
the projector reads, and pixels; each against the model itself."""

import functools

import pytest
import torch

from tokenred.errors import CapabilityError
from tokenred.models import adapter_for
from tokenred.models import attention as capturing
from tokenred.models.attention import attention_layers, given_attention, pooling_head
from tokenred.models.cues.names import parse_cues
from tokenred.testing.models import FAMILIES, synthetic_video, tiny_llava_onevision

transformers = pytest.importorskip("transformers")

CLIP = ("LLaVA-1.5", "LLaVA-NeXT", "LLaVA-NeXT-Video")
SIGLIP = ("LLaVA-OneVision",)
QWEN = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE")
N_FRAMES = 4


@functools.cache
def model_of(name):
    return FAMILIES[name].build()[0]


def pictures(name):
    family = FAMILIES[name]
    height, width = family.frame_size
    frames = synthetic_video(N_FRAMES, max(height, width), seed=3)[..., :height, :width]
    return ([frames], []) if "video" in family.media else ([], [frames[0]])


def encoded(name, needs, model=None):
    adapter = adapter_for(model_of(name) if model is None else model)
    inputs = adapter.prepare(*pictures(name), settings=FAMILIES[name].settings).inputs
    with torch.no_grad():
        return [clip.tokens for clip in adapter.encode(inputs, needs)]


@torch.no_grad()
def maps_of(name, layer):
    """Attention maps (frames, heads, queries, keys) of one call, as the tower itself gives them."""
    model = model_of(name)
    adapter = adapter_for(model)
    inputs = adapter.prepare(*pictures(name), settings=FAMILIES[name].settings).inputs
    pixels = next(value for key, value in inputs.items() if key.startswith("pixel_values"))
    tower, config = adapter.tower, adapter.tower.config
    before, config._attn_implementation = config._attn_implementation, "eager"
    try:
        return tower(pixels.reshape(-1, *pixels.shape[-3:]), output_attentions=True).attentions[
            layer
        ]
    finally:
        config._attn_implementation = before


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("class-atention@-2", "did you mean 'class-attention@LAYER'"),
        ("sailence@3", "did you mean 'salience@LAYER'"),
        ("attention@poler", "no index such as"),
        ("attention", "no cue 'attention'"),
        ("towers", "did you mean 'tower'"),
        ("tower@3", "did you mean 'tower'"),
        ("pixels", "did you mean 'pixels@FRAME'"),
        ("pixel@0", "did you mean 'pixels@FRAME'"),
        ("class-attention@9", "layer 9 lies outside"),
        ("pixels@2", "from 0 to 1"),
        ("pixels@-3", "from -1 to -2"),
        ("pixels@x", "names no frame"),
    ],
)
def test_names_that_are_wrong(name, message):
    with pytest.raises(CapabilityError, match=message):
        parse_cues({name}, 4, class_token=True, frame_group=2)


@pytest.mark.parametrize(("class_token", "kind"), [(True, "class-attention"), (False, "attention")])
def test_salience_is_what_the_tower_has(class_token, kind):
    (cue,) = parse_cues({"salience@-1"}, 4, class_token=class_token)
    assert (cue.name, cue.kind, cue.layer) == ("salience@-1", kind, 3)


def test_frames_count_from_both_ends():
    found = parse_cues({"pixels@0", "pixels@-1"}, 4, frame_group=2)
    assert {cue.name: cue.frame for cue in found} == {"pixels@0": 0, "pixels@-1": 1}


# --- what the class token looks at ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["LLaVA-1.5", "LLaVA-NeXT-Video"])
def test_class_attention_is_the_row_of_the_class_token(name):
    row = maps_of(name, 1)[:, :, 0, 1:].mean(1)
    (tokens,) = encoded(name, {"class-attention@1", "salience@1", "attention@1"})
    if name == "LLaVA-NeXT-Video":  # on the LLM's grid: a mean over squares of 2x2
        row = row.view(-1, 3, 2, 3, 2).mean((2, 4)).flatten(1)
    assert tokens.cues["class-attention@1"].dtype == torch.float32
    assert (tokens.cues["class-attention@1"] - row).abs().max() < 1e-6
    assert torch.equal(tokens.cues["salience@1"], tokens.cues["class-attention@1"])
    assert not torch.allclose(tokens.cues["salience@1"], tokens.cues["attention@1"], rtol=1e-3)


@pytest.mark.parametrize(("name", "first"), [("LLaVA-1.5", 1), ("LLaVA-OneVision", 0)])
def test_attention_of_the_other_patches_alone(name, first):
    maps = maps_of(name, 1).mean(1)
    others = (maps * (1 - torch.eye(maps.shape[-1])))[:, first:, first:].mean(1)
    (tokens, *_) = encoded(name, {"patch-attention@1", "attention@1"})
    found = tokens.cues["patch-attention@1"]
    assert (found - others[: len(found)]).abs().max() < 1e-6
    assert not torch.allclose(found, tokens.cues["attention@1"], rtol=1e-3)


@pytest.mark.parametrize("name", QWEN)
def test_windows_leave_out_what_patches_give_themselves(name):
    needs = {f"{kind}attention@{layer}" for kind in ("", "patch-") for layer in (0, -1)}
    for tokens in encoded(name, needs):
        for layer in (0, -1):
            whole, others = (tokens.cues[f"{kind}attention@{layer}"] for kind in ("", "patch-"))
            assert bool((others < whole).all())
            assert bool((others.sum(-1) < 0.999 * whole.sum(-1)).all())


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("LLaVA-NeXT", "-2"),
        ("LLaVA-NeXT-Video", "-2"),
        *((each, "-1") for each in (*SIGLIP, *QWEN)),
    ],
)
def test_the_block_that_gives_the_features(name, same):
    needs = {f"{cue}@{layer}" for cue in ("salience", "keys") for layer in ("features", same)}
    for tokens in encoded(name, needs):
        for cue in ("salience", "keys"):
            assert torch.equal(tokens.cues[f"{cue}@features"], tokens.cues[f"{cue}@{same}"])


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "LLaVA-OneVision"])
def test_all_heads_as_one(name):
    model = model_of(name)
    adapter = adapter_for(model)
    attention = attention_layers(adapter.tower)[1]
    inputs = adapter.prepare(*pictures(name), settings=FAMILIES[name].settings).inputs
    seen = []
    hook = attention.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    with torch.no_grad():
        clips = adapter.encode(inputs, {"joint-salience@1", "joint-keys@1"})
        hook.remove()
        queries, keys = attention.q_proj(seen[0]), attention.k_proj(seen[0])
        weights = (queries @ keys.mT / keys.shape[-1] ** 0.5).softmax(-1)
    expected = weights[:, 0, 1:] if adapter.vision.class_token else weights.mean(1)
    found = clips[0].tokens.cues
    n = len(found["joint-salience@1"])
    torch.testing.assert_close(found["joint-salience@1"], expected[:n])
    expected_keys = keys[:n, 1:] if adapter.vision.class_token else keys[:n]
    torch.testing.assert_close(found["joint-keys@1"], expected_keys)


def test_tiles_of_an_image_bring_their_own():
    row = maps_of("LLaVA-NeXT", -2)[:, :, 0, 1:].mean(1)
    overview, details = encoded("LLaVA-NeXT", {"class-attention@-2"})
    assert (overview.cues["class-attention@-2"] - row[:1]).abs().max() < 1e-6
    found = set(details.cues["class-attention@-2"].flatten().tolist())
    known = row[1:].flatten()
    near = [value for value in found if (known - value).abs().min() < 1e-6]
    # A newline after every row, which has no attention, is the one thing that is not a tile's.
    assert len(found) - len(near) <= 1
    assert len(near) > 36


@pytest.mark.parametrize("name", [*SIGLIP, *QWEN])
def test_towers_without_class_token_say_so(name):
    adapter = adapter_for(model_of(name))
    with pytest.raises(CapabilityError, match=r"class token.*'salience@-2' is the attention"):
        adapter.check({"class-attention@-2"})
    for tokens in encoded(name, {"salience@-2", "attention@-2"}):
        assert torch.equal(tokens.cues["salience@-2"], tokens.cues["attention@-2"])
        assert tokens.cues["salience@-2"].std() > 1e-5


def test_one_query_in_chunks(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(5, 3, 8, generator=generator)
    key = torch.randn(5, 3, 11, 8, generator=generator)
    expected = torch.einsum("bhd,bhtd->bht", query, key).mul(0.2).softmax(-1).mean(1)
    monkeypatch.setattr(capturing, "FRAME_CHUNK", 2)
    assert torch.allclose(given_attention(query, key, 0.2), expected, atol=1e-7)
    half = given_attention(query.half(), key.half(), 0.2)
    assert half.dtype == torch.float32
    assert torch.allclose(half, expected, atol=1e-3)


# --- what the pooling head looks at ---------------------------------------------------------------


@pytest.fixture(scope="module")
def headed():
    model = tiny_llava_onevision(pooling_head=True)[0]
    head = pooling_head(model.model.vision_tower)
    with torch.no_grad():  # the tiny model's own is nearly flat, which would prove nothing
        head.attention.in_proj_weight *= 4
        head.attention.in_proj_bias += torch.linspace(-1, 1, len(head.attention.in_proj_bias))
    return model


def test_attention_of_the_pooling_head_is_the_modules_own(headed):
    head = pooling_head(headed.model.vision_tower)
    seen = []
    hook = head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    (tokens,) = encoded("LLaVA-OneVision", {"attention@pooler", "pooler"}, headed)
    hook.remove()
    with torch.no_grad():
        probe = head.probe.expand(N_FRAMES, -1, -1)
        _, weights = head.attention(probe, seen[0], seen[0], need_weights=True)
    found = tokens.cues["attention@pooler"]
    assert found.shape == (N_FRAMES, 36)
    assert weights.std() > 1e-3
    assert (found - weights[:, 0]).abs().max() < 1e-6
    assert torch.allclose(found.sum(-1), torch.ones(N_FRAMES))


@pytest.mark.parametrize("name", list(FAMILIES))
def test_towers_without_pooling_head_say_so(name):
    with pytest.raises(CapabilityError, match="pooling head with a learnt probe"):
        adapter_for(model_of(name)).check({"attention@pooler"})


# --- what the projector reads ---------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CLIP, *SIGLIP])
def test_tower_is_what_the_projector_reads(name):
    project = model_of(name).model.multi_modal_projector
    for tokens in encoded(name, {"tower"}):
        cue = tokens.cues["tower"]
        assert cue.shape == (*tokens.features.shape[:2], 32)
        with torch.no_grad():
            again = project(cue)
        same = (again - tokens.features).abs().amax(-1) < 1e-5
        newline = (cue == 0).all(-1)  # which no tower has seen
        assert bool((same | newline).all())
        assert not bool(newline.all())


@pytest.mark.parametrize("name", QWEN)
def test_tower_has_the_patches_of_a_token_side_by_side(name):
    merger = adapter_for(model_of(name)).tower.merger
    for tokens in encoded(name, {"tower"}):
        cue = tokens.cues["tower"]
        assert cue.shape == (*tokens.features.shape[:2], 4 * 32)
        with torch.no_grad():
            again = merger(cue.reshape(-1, 32))
        assert torch.allclose(again.view_as(tokens.features), tokens.features, atol=1e-5)
    assert not merger._forward_pre_hooks


# --- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIGLIP)
def test_pixels_of_squares_give_the_frames_back(name):
    (tokens,) = encoded(name, {"pixels@0", "pixels@-1"})
    (frames,), _ = pictures(name)
    cells = tokens.cues["pixels@0"].unflatten(-1, (3, 4, 4)).unflatten(1, tokens.grid)
    again = cells.permute(0, 3, 1, 4, 2, 5).reshape(frames.shape)
    assert (again - frames / 255).abs().max() < 1e-6
    assert torch.equal(tokens.cues["pixels@0"], tokens.cues["pixels@-1"])
    with pytest.raises(CapabilityError, match="from 0 to 0"):
        adapter_for(model_of(name)).check({"pixels@1"})


@pytest.mark.parametrize("name", QWEN)
def test_pixels_of_packed_patches_give_the_frames_back(name):
    (tokens,) = encoded(name, {"pixels@0", "pixels@1"})
    (frames,), _ = pictures(name)
    height, width = frames.shape[-2:]
    rows, columns = tokens.grid
    for index in (0, 1):
        cells = tokens.cues[f"pixels@{index}"].view(-1, rows, columns, 2, 2, 3, 4, 4)
        again = cells.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(-1, 3, height, width)
        assert (again - frames[index::2] / 255).abs().max() < 1e-6


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(FAMILIES))
def test_features_are_bit_equal_and_cues_carry_no_gradient(name):
    needs = {"salience@0", "salience@-1", "keys@0", "tower", "pixels@0"}
    adapter = adapter_for(model_of(name))
    inputs = adapter.prepare(*pictures(name), settings=FAMILIES[name].settings).inputs
    for bare, clip in zip(adapter.encode(inputs), adapter.encode(inputs, needs), strict=True):
        assert torch.equal(bare.tokens.features, clip.tokens.features)
        assert set(clip.tokens.cues) == needs
        for cue in clip.tokens.cues.values():
            assert cue.shape[:2] == clip.tokens.features.shape[:2]
            assert not cue.requires_grad


def test_attention_layers_are_where_the_tests_look():
    for name in (*CLIP, *SIGLIP):
        assert len(attention_layers(adapter_for(model_of(name)).tower)) == 4

"""LLaVA-Video of ours answers as the original package does, and loads its checkpoints."""

import json
from pathlib import Path

import llava_checkpoint as checkpoint
import pytest
import torch
from tokenred_llava.video import LlavaVideoAdapter

from tokenred.errors import BudgetError, CapabilityError, InputError
from tokenred.models import adapter_for, attach
from tokenred.pipeline import load_pipeline

pytest.importorskip("transformers")

from tokenred_llava.video_model import (
    LlavaVideoConfig,
    LlavaVideoForConditionalGeneration,
    convert_config,
)

RECORDED = json.loads(
    (Path(__file__).parent / "data" / "llava_video.json").read_text(encoding="utf-8")
)["cases"]
LAYOUTS = [name for name in RECORDED if "/" in name]
IDS = {"image_token_id": checkpoint.IMAGE_ID, "video_token_id": checkpoint.VIDEO_ID}


def load(folder, **kwargs):
    return LlavaVideoForConditionalGeneration.from_original(
        folder, vision_config=checkpoint.VISION, **IDS, **kwargs
    )


@pytest.fixture
def original(tmp_path):
    """Writes a checkpoint with the settings given and loads it."""

    def loaded(**settings):
        checkpoint.write_original(tmp_path, **settings)
        return load(tmp_path)

    return loaded


def ids_of(*pieces):
    return torch.tensor(
        [[*checkpoint.BEFORE, *(each for piece in pieces for each in piece), *checkpoint.AFTER]]
    )


def video_inputs(model, n_frames=checkpoint.FRAMES):
    n = model.video_placeholders(n_frames)
    ids = ids_of([checkpoint.VIDEO_ID] * n)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": checkpoint.pixels(n_frames)[None],
    }


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


def check_recorded(found, name):
    case = RECORDED[name]
    assert found.shape[1] == case["length"]
    expected = torch.tensor(case["logits"])
    torch.testing.assert_close(found[0, case["columns"], :12], expected, rtol=0, atol=5e-5)


# --- as the original package ------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_logits_equal_the_original_packages(original, name):
    pool, newlines = name.split("/")
    model = original(mm_spatial_pool_mode=pool, mm_newline_position=newlines)
    check_recorded(logits(model, video_inputs(model)), name)


def test_image_and_video_equal_the_original_package(original):
    model = original()
    tiles, (width, height) = checkpoint.tiles()
    sizes = torch.tensor([[height, width]])
    with torch.no_grad():
        image = model.model.get_image_features(tiles[None], sizes, return_dict=True)
    n_image = len(image.pooler_output[0])
    n_video = model.video_placeholders(checkpoint.FRAMES)
    inputs = {
        "input_ids": ids_of([checkpoint.IMAGE_ID] * n_image, [7], [checkpoint.VIDEO_ID] * n_video),
        "pixel_values": tiles[None],
        "image_sizes": sizes,
        "pixel_values_videos": checkpoint.pixels()[None],
    }
    check_recorded(logits(model, inputs), "image and video")


def test_grid_of_the_released_models():
    """182 tokens a frame: 13 rows of 13 and a newline."""
    config = LlavaVideoConfig()
    with torch.device("meta"):
        model = LlavaVideoForConditionalGeneration(_small_text(config))
    assert model.video_placeholders(1) == 182
    assert model.video_placeholders(64) == 64 * 182
    assert model.config.vision_config.num_hidden_layers == 26


def _small_text(config):
    config.text_config.num_hidden_layers = 1
    return config


def test_generation_starts_as_the_logits_say(original):
    model = original()
    inputs = video_inputs(model)
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    n_prompt = inputs["input_ids"].shape[1]
    first = logits(model, inputs)[0, -1].argmax()
    assert output.shape == (1, n_prompt + 3)
    assert output[0, n_prompt] == first
    longer = {**inputs, "input_ids": output[:, :-1]}
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    assert output[0, -1] == logits(model, longer)[0, -1].argmax()


# --- reduced ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["average/grid", "average/frame", "bilinear/one_token", "max/no_token"]
)
def test_vanilla_is_bit_equal(original, name):
    pool, newlines = name.split("/")
    model = original(mm_spatial_pool_mode=pool, mm_newline_position=newlines)
    assert isinstance(adapter_for(model), LlavaVideoAdapter)
    inputs = video_inputs(model)
    expected = logits(model, inputs)
    with attach(model, "vanilla") as session:
        assert torch.equal(logits(model, inputs), expected)
    (clip,), (realised,) = session.clips, session.realised
    assert clip.tokens.grid == (27, 27)
    n_video = realised.n_tokens + realised.newline_tokens
    assert n_video == model.video_placeholders(checkpoint.FRAMES)


@pytest.mark.parametrize("newlines", ["grid", "frame", "one_token", "no_token"])
def test_newlines_stay_with_what_is_left(original, newlines):
    model = original(mm_newline_position=newlines)
    inputs = video_inputs(model)
    with attach(model, load_pipeline("random", {"budget.retention_ratio": 0.1})) as session:
        output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    (reduced,) = session.reduced
    assert reduced.realised.n_tokens == 2 * 17  # ceil of 0.1 x 169
    rows = {
        (frame, cell // 13)
        for frame, cell in zip(
            reduced.frame_index.tolist(), reduced.token_index.tolist(), strict=True
        )
    }
    expected = {"grid": len(rows), "frame": 2, "one_token": 1, "no_token": 0}[newlines]
    assert reduced.realised.newline_tokens == expected
    assert torch.equal(output[:, :-2], inputs["input_ids"])


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    checkpoint.write_original(tmp_path)
    return tmp_path


def test_shards_and_pickles_load_the_same(tmp_path):
    expected = checkpoint.original_weights()
    places = {}
    for kind in ("whole", "shards", "pickle"):
        places[kind] = tmp_path / kind
        places[kind].mkdir()
        checkpoint.write_original(places[kind], n_shards=3 if kind == "shards" else 1)
    (places["pickle"] / "model.safetensors").unlink()
    torch.save(expected, places["pickle"] / "pytorch_model.bin")
    whole, *others = (load(place).state_dict() for place in places.values())
    assert len(whole) == len(expected)
    for other in others:
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_a_converted_model_can_be_saved_and_loaded(original, tmp_path):
    model = original(mm_newline_position="frame")
    model.save_pretrained(tmp_path / "converted")
    again = LlavaVideoForConditionalGeneration.from_pretrained(tmp_path / "converted").eval()
    inputs = video_inputs(model)
    assert again.config.mm_newline_position == "frame"
    assert torch.equal(logits(again, inputs), logits(model, inputs))


def test_dtype_and_generation_settings_are_taken_over(folder):
    settings = {"eos_token_id": 5, "max_new_tokens": 7}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    model = load(folder, dtype=torch.bfloat16)
    assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
    assert model.generation_config.eos_token_id == 5
    assert not model.training


def change(folder, edit):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors")


def test_what_the_package_takes_off_the_tower_is_left_out(folder):
    tower = "model.vision_tower.vision_tower.vision_model."

    def edit(weights):
        weights[tower + "encoder.layers.3.mlp.fc1.bias"] = torch.zeros(32)
        weights[tower + "head.probe"] = torch.zeros(1, 1, 16)

    change(folder, edit)
    check_recorded(logits(model := load(folder), video_inputs(model)), "average/grid")


def test_tied_embeddings_load(tmp_path):
    checkpoint.write_original(tmp_path, tie_word_embeddings=True)
    change(tmp_path, lambda weights: weights.pop("lm_head.weight"))
    model = load(tmp_path)
    assert torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    assert model.lm_head.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda w: w.pop("model.norm.weight"), InputError, "lacks 1 weights"),
        (
            lambda w: w.update({"model.norm.weight": torch.zeros(3)}),
            InputError,
            r"has shape \(3,\), its config says \(24,\)",
        ),
        (
            lambda w: w.update({"model.adapter.weight": torch.zeros(3)}),
            CapabilityError,
            "'model.adapter.weight'",
        ),
    ],
)
def test_weights_that_do_not_fit(folder, edit, error, message):
    change(folder, edit)
    with pytest.raises(error, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llava_llama"}, "model_type 'llava_llama'"),
        ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
        ({"mm_patch_merge_type": "flat"}, "mm_patch_merge_type 'flat'"),
        ({"add_faster_video": True}, "add_faster_video True"),
        ({"mm_spatial_pool_mode": "conv"}, "mm_spatial_pool_mode 'conv'"),
        ({"mm_newline_position": "nowhere"}, "mm_newline_position 'nowhere'"),
    ],
)
def test_checkpoints_that_are_not_supported(tmp_path, settings, message):
    checkpoint.write_original(tmp_path, **settings)
    with pytest.raises(CapabilityError, match=message):
        load(tmp_path)


def test_sizes_of_an_unknown_tower_have_to_be_said(folder):
    with pytest.raises(CapabilityError, match="'siglip-tiny' are not known"):
        LlavaVideoForConditionalGeneration.from_original(folder, **IDS)


@pytest.mark.parametrize("prefix", ["google/", "/models/", ""])
def test_the_released_tower_is_known_wherever_it_lies(prefix):
    original = checkpoint.original_config(mm_vision_tower=f"{prefix}siglip-so400m-patch14-384")
    config = convert_config(original, None, checkpoint.IMAGE_ID, checkpoint.VIDEO_ID)
    assert config.vision_config.num_hidden_layers == 26
    assert config.vision_config.hidden_size == 1152


def test_placeholders_lie_in_the_vocabulary(folder):
    with pytest.raises(InputError, match="vocabulary of 40"):
        LlavaVideoForConditionalGeneration.from_original(folder, vision_config=checkpoint.VISION)


def test_folders_without_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(checkpoint.original_config()))
    with pytest.raises(InputError, match="holds no weights"):
        load(tmp_path)


RELEASED = {"inter_frame.segmenter.n_segments": 2, "intra_frame.n_anchors": 0.5}


def test_the_release_of_aot_puts_newlines_in_by_itself(original):
    """They are anchors and sources of the temporal stage; the model adds none."""
    model = original()
    inputs = video_inputs(model)
    with attach(model, load_pipeline("aot-released", RELEASED), trace=True) as attached:
        answer = model.generate(**inputs, max_new_tokens=2, do_sample=False)
        (reduced,), (clip,) = attached.reduced, attached.clips
        part = attached.adapter.part(clip, reduced)
    rows, columns = reduced.grid
    newline = reduced.newline
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    assert newline.any()
    assert not newline.all()
    assert bool((reduced.token_index[newline] % columns == columns - 1).all())
    assert reduced.realised.newline_tokens == int(newline.sum())
    assert reduced.realised.n_tokens == int((~newline).sum())
    first = reduced.frame_index == 0  # anchors as they were: a newline for every row, unmerged
    unmerged = reduced.features[first & newline][:rows]
    assert torch.equal(unmerged, model.model.image_newline.expand_as(unmerged))
    assert part.newline.tolist() == newline.tolist()
    width = columns + 1
    closed = reduced.frame_index * rows * width + reduced.token_index // columns * width + columns
    assert torch.equal(part.places[newline], closed[newline])
    traced = reduced.trace.to_dense()
    assert bool((traced[first & newline][:rows] == 0).all())  # made of no visual token


def test_the_release_of_aot_closes_no_video(original):
    model = original(mm_newline_position="one_token", mm_spatial_pool_mode="bilinear")
    with attach(model, load_pipeline("aot-released", RELEASED)) as attached, torch.no_grad():
        model(**video_inputs(model))
        assert attached.reduced[0].realised.newline_tokens == 0


def test_newlines_that_are_merged_meet_no_exact_budget(original):
    model = original()
    pipeline = load_pipeline(
        "aot-released", {**RELEASED, "budget.mode": "exact", "inter_frame.keep.decide": "count"}
    )
    with attach(model, pipeline), pytest.raises(BudgetError, match=r"newline .* as-released"):
        logits(model, video_inputs(model))

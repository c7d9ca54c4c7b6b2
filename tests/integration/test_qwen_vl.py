"""What is particular about Qwen's vision families; the general contract is in test_conformance."""

import copy
import gc
from dataclasses import replace

import pytest
import torch
from packaging.version import Version

from tokenred.errors import CapabilityError, InputError
from tokenred.models import adapter_for, attach, reduce_clip
from tokenred.models.inputs.qwen_pixels import fitted_size
from tokenred.models.splice import ClipLayout
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import FAMILIES, synthetic_video, tiny_qwen2_5_vl, tiny_qwen3_vl

transformers = pytest.importorskip("transformers")

NAMES = ("Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE")
QUARTER = {"budget.retention_ratio": 0.25}
SIDE = 8  # pixels of a token

CASES = {
    "one video": ("Watch: <video> what is it?",),
    "padded": ("<video> what?", "Look at this film: <video> and then what happens?"),
    "two videos": ("First <video> then <video> differ?",),
    "mixed": ("<image> or <video>?", "no picture", "<video>, <image> and <image>!"),
    "images": ("<image><image> which <image>?",),
}


def picture(index, n_frames=4):
    """A film in a size of its own: 3x4, 4x3, 2x5, ... tokens."""
    height, width = ((24, 32), (32, 24), (16, 40), (40, 40))[index % 4]
    return synthetic_video(n_frames, max(height, width), seed=index)[..., :height, :width]


def make_inputs(name, loaded, *prompts, padding="left", n_frames=(4, 6, 5)):
    model, tokenizer = loaded
    counts = {mark: sum(prompt.count(mark) for prompt in prompts) for mark in ("video", "image")}
    videos = [picture(n, n_frames[n % 3]) for n in range(counts["video"])]
    images = [picture(n + 1, 1)[0] for n in range(counts["image"])]
    tokenizer.padding_side = padding
    try:
        return FAMILIES[name].inputs(model, tokenizer, prompts, videos, images)
    finally:
        tokenizer.padding_side = "left"


@torch.no_grad()
def logits_of(model, inputs, **more):
    return model(**inputs, **more).logits


def greedy(model, inputs, **more):
    more = {"max_new_tokens": 6, "suppress_tokens": unwanted(model), "do_sample": False, **more}
    return model.generate(**inputs, **more)


def unwanted(model):
    ids = adapter_for(model).token_ids.values()
    return [model.generation_config.eos_token_id, *ids]


@pytest.fixture(scope="module")
def built():
    return {name: FAMILIES[name].build() for name in NAMES}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def loaded(built, name):
    return built[name]


@pytest.fixture
def model(loaded):
    return loaded[0]


# --- identity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_vanilla_is_equal_to_the_bit_whatever_the_sizes(name, loaded, model, case):
    for padding in ("left", "right"):
        inputs = make_inputs(name, loaded, *CASES[case], padding=padding)
        expected = logits_of(model, inputs)
        with attach(model, "vanilla") as session:
            found = logits_of(model, inputs)
        real = inputs["attention_mask"].bool()
        assert torch.equal(found[real], expected[real])
    inputs = make_inputs(name, loaded, *CASES[case])
    tokens = greedy(model, inputs)
    with attach(model, "vanilla"):
        assert torch.equal(greedy(model, inputs), tokens)
    if case == "mixed":
        assert [clip.layout for clip in session.clips] == [
            *(ClipLayout("image", 1, grid) for grid in ((4, 3), (2, 5), (5, 5))),
            *(ClipLayout("video", n, grid) for n, grid in ((2, (3, 4)), (3, (4, 3)))),
        ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_vanilla_is_equal_to_the_bit_in_half_precision(name, dtype):
    loaded = FAMILIES[name].build()
    model = loaded[0].to(dtype)
    inputs = make_inputs(name, loaded, *CASES["mixed"])
    expected = logits_of(model, inputs)
    with attach(model, "vanilla"):
        found = logits_of(model, inputs)
    real = inputs["attention_mask"].bool()
    assert torch.equal(found[real], expected[real])


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
        {"cache_implementation": "static", "disable_compile": True},
        {"use_cache": False},
    ],
    ids=str,
)
def test_generate_options_work(name, loaded, model, options):
    inputs = make_inputs(name, loaded, *CASES["padded"])

    def run():
        torch.manual_seed(0)
        return greedy(model, inputs, **options)

    expected = run()
    with attach(model, "vanilla"):
        assert torch.equal(run(), expected)
    with attach(model, load_pipeline("random", QUARTER)):
        reduced = run()
    assert reduced.shape == expected.shape
    assert not torch.equal(reduced, expected)


# --- positions ------------------------------------------------------------------------------------


def rotary_positions(model, call):
    """What reaches the rotary embedding, one tensor a pass."""
    seen = []
    hook = model.model.language_model.rotary_emb.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs.get("position_ids", args[-1])),
        with_kwargs=True,
    )
    try:
        call()
    finally:
        hook.remove()
    return seen


@torch.no_grad()
def decode_by_hand(model, inputs, n_tokens=3):
    """Read the prompt, then one token at a time, as a loop of one's own would."""
    output = model(**inputs, use_cache=True)
    for token in range(n_tokens):
        output = model(
            input_ids=torch.tensor([[65 + token]]), past_key_values=output.past_key_values
        )
    return output.logits


@pytest.mark.parametrize("positions", ["original", "contiguous"])
def test_decoding_by_hand_goes_on_where_the_prompt_ends(name, loaded, model, positions):
    inputs = make_inputs(name, loaded, *CASES["two videos"])
    del inputs["attention_mask"]
    whole = rotary_positions(model, lambda: decode_by_hand(model, inputs))
    with attach(model, load_pipeline("random", QUARTER), positions=positions):
        seen = rotary_positions(model, lambda: decode_by_hand(model, inputs))
    assert len(seen) == len(whole) == 4
    assert seen[0].shape[-1] < whole[0].shape[-1]
    if positions == "original":
        expected = [step.flatten().tolist() for step in whole[1:]]
    else:
        expected = [[seen[0].shape[-1] + step] * 3 for step in range(3)]
    assert [step.flatten().tolist() for step in seen[1:]] == expected


def test_decoding_by_hand_equals_reading_it_all(name, loaded):
    model = copy.deepcopy(loaded[0]).double()
    inputs = make_inputs(name, loaded, *CASES["one video"])
    del inputs["attention_mask"]
    with attach(model, load_pipeline("random", QUARTER)):
        found = decode_by_hand(model, inputs)[0, -1]
        more = torch.tensor([[65, 66, 67]])
        grown = {**inputs, "input_ids": torch.cat((inputs["input_ids"], more), 1)}
        expected = logits_of(model, grown)[0, -1]
    assert (found - expected).abs().max() < 1e-5


def test_rope_deltas_are_what_they_were(name, loaded):
    model = loaded[0]
    inputs = make_inputs(name, loaded, *CASES["one video"])
    before = torch.tensor([[-7]])
    model.model.rope_deltas = before
    hooks = model.model.language_model._forward_pre_hooks
    n_hooks = len(hooks)
    try:
        with attach(model, load_pipeline("random", QUARTER)):
            logits_of(model, inputs)
            assert model.model.rope_deltas is not before
        assert model.model.rope_deltas is before
        failing = model.lm_head.register_forward_pre_hook(lambda module, args: 1 / 0)
        try:
            with pytest.raises(ZeroDivisionError), attach(model, load_pipeline("random", QUARTER)):
                logits_of(model, inputs)
        finally:
            failing.remove()
        assert model.model.rope_deltas is before
        assert len(hooks) == n_hooks
        adapter = adapter_for(model)
        (clip,) = adapter.encode(inputs)
        whole = reduce_clip(clip, load_pipeline("vanilla"), newline=None)
        adapter.answer_logits(clip, whole, [inputs["input_ids"][0]])
        assert model.model.rope_deltas is before
    finally:
        model.model.rope_deltas = None


def test_types_of_the_tokens_need_not_be_given(loaded, model, name):
    inputs = make_inputs(name, loaded, *CASES["mixed"])
    expected = logits_of(model, inputs)
    del inputs["mm_token_type_ids"]
    with attach(model, "vanilla"):
        found = logits_of(model, inputs)
    real = inputs["attention_mask"].bool()
    assert torch.equal(found[real], expected[real])


@pytest.mark.parametrize("seconds", [torch.tensor([1.5, 4.0]), [1.0, 3.0]], ids=["tensor", "list"])
def test_seconds_of_a_video_are_counted(built, seconds):
    model, tokenizer = built["Qwen2.5-VL"]
    inputs = make_inputs("Qwen2.5-VL", (model, tokenizer), *CASES["padded"])
    expected = logits_of(model, {**inputs, "second_per_grid_ts": seconds})
    real = inputs["attention_mask"].bool()
    with attach(model, "vanilla") as session:
        found = logits_of(model, {**inputs, "second_per_grid_ts": seconds})
        assert [float(clip.tokens.frame_times[1]) for clip in session.clips] == list(seconds)
        assert not torch.equal(logits_of(model, inputs)[real], expected[real])
    assert torch.equal(found[real], expected[real])


# --- Qwen3-VL: features of the tower's inner layers -----------------------------------------------


def test_deep_features_go_through_the_map_of_their_tokens(built):
    model, tokenizer = built["Qwen3-VL"]
    inputs = make_inputs("Qwen3-VL", (model, tokenizer), *CASES["padded"])
    given = []
    hook = model.model.language_model.register_forward_hook(
        lambda module, args, kwargs, output: given.append(kwargs), with_kwargs=True
    )
    try:
        with attach(model, load_pipeline("aot-paper", QUARTER)) as session:
            logits_of(model, inputs)
    finally:
        hook.remove()
    deep = given[0]["deepstack_visual_embeds"]
    assert len(deep) == 2
    assert given[0]["visual_pos_masks"].sum(1).tolist() == [6, 9]
    for level, found in enumerate(deep):
        expected = [
            each.trace @ clip.deepstack_features[level]
            for clip, each in zip(session.clips, session.reduced, strict=True)
        ]
        assert torch.allclose(found, torch.cat(expected), atol=1e-6)
        kept = [
            clip.deepstack_features[level][each.frame_index * 12 + each.token_index]
            for clip, each in zip(session.clips[:1], session.reduced[:1], strict=True)
        ]
        assert not torch.allclose(expected[0], kept[0], atol=1e-3)  # merged, not picked


def test_deep_features_matter_and_pass_gradients(built):
    loaded = copy.deepcopy(built["Qwen3-VL"])
    model = loaded[0]
    inputs = make_inputs("Qwen3-VL", loaded, *CASES["padded"])
    with attach(model, load_pipeline("random", QUARTER)):
        output = model(**inputs, labels=inputs["input_ids"])
        output.loss.backward()
        for merger in model.model.visual.deepstack_merger_list:
            assert merger.linear_fc2.weight.grad.abs().sum() > 0
            torch.nn.init.zeros_(merger.linear_fc2.weight)
            torch.nn.init.zeros_(merger.linear_fc2.bias)
        assert (logits_of(model, inputs) - output.logits).abs().max() > 1e-2


def test_answers_need_the_deep_features(built):
    model, tokenizer = built["Qwen3-VL"]
    inputs = make_inputs("Qwen3-VL", (model, tokenizer), *CASES["one video"])
    adapter = adapter_for(model)
    (clip,) = adapter.encode(inputs)
    reduced = reduce_clip(clip, load_pipeline("vanilla"), newline=None)
    with pytest.raises(InputError, match="needs the DeepStack features of the clip"):
        adapter.answer_logits(
            replace(clip, deepstack_features=None), reduced, [inputs["input_ids"][0]]
        )


@pytest.mark.parametrize("layer", [1, 2])
def test_tokens_dropped_inside_the_llm_lose_their_deep_features_only(built, layer):
    """As if they were hidden from attention from that layer on, with all features in place."""
    model = copy.deepcopy(built["Qwen3-VL"][0]).double()
    inputs = make_inputs("Qwen3-VL", built["Qwen3-VL"], *CASES["one video"])
    reducer = {"name": "ranked", "ranker": "last-query", "schedule": {str(layer): 0.5}}
    stages = {"pool": {"kind": "pool"}, "llm": {"kind": "llm", "reducer": reducer}}
    with attach(model, load_pipeline({"stages": stages})) as session:
        found = logits_of(model, inputs)
    assert session.layer_tokens == [(24,) * layer + (12,) * (3 - layer)]
    (kept,) = session._inside.kept
    hidden = torch.ones(found.shape[1], dtype=torch.bool)
    hidden[kept] = False
    assert int(hidden.sum()) == 12
    n_tokens = found.shape[1]
    mask = torch.ones(n_tokens, n_tokens, dtype=torch.bool).tril() & ~hidden
    mask |= torch.eye(n_tokens, dtype=torch.bool)
    hooks = [
        each.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask[None, None]}),
            with_kwargs=True,
        )
        for each in model.model.language_model.layers[layer:]
    ]
    try:
        expected = logits_of(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    assert (found - expected)[0, kept].abs().max() < 1e-5


# --- cues -----------------------------------------------------------------------------------------

CUES = frozenset({"attention@0", "keys@0", "attention@-2", "keys@-2"})


def encoded(model, frames, needs=CUES):
    """One video or image through a tower, pixels of one's own size."""
    adapter = adapter_for(model)
    prepared = adapter.prepare(videos=[frames], settings=FAMILIES["Qwen2.5-VL"].settings)
    with torch.no_grad():
        (clip,) = adapter.encode(prepared.inputs, needs)
    return clip.tokens


def test_cues_stand_on_the_grid_of_the_llm(name, loaded, model):
    adapter = adapter_for(model)
    inputs = make_inputs(name, loaded, *CASES["mixed"])
    plain = adapter.encode(inputs)
    for clip, bare in zip(adapter.encode(inputs, CUES), plain, strict=True):
        shape = clip.tokens.features.shape[:2]
        assert torch.equal(clip.tokens.features, bare.tokens.features)
        for cue in ("attention@0", "attention@-2"):
            assert clip.tokens.cues[cue].shape == shape
            # A frame's patches share one attention, and a token has the mean of four of them.
            assert torch.allclose(clip.tokens.cues[cue].sum(1), torch.full(shape[:1], 0.25))
        for cue in ("keys@0", "keys@-2"):
            assert clip.tokens.cues[cue].shape == (*shape, 16)


def test_windows_do_not_show_where_layers_see_all():
    frames = picture(3)
    towers = [tiny_qwen2_5_vl(window=window, full_layers=(0, 1, 2, 3))[0] for window in (16, 512)]
    found, expected = (encoded(tower, frames) for tower in towers)
    assert torch.allclose(found.features, expected.features, atol=1e-4)
    for cue in CUES:
        assert torch.allclose(found.cues[cue], expected.cues[cue], atol=1e-5), cue


def test_a_window_sees_what_it_would_see_alone():
    model = tiny_qwen2_5_vl(window=16)[0]
    frames = synthetic_video(2, 48, seed=3)[..., :24, :]  # 3x6 tokens in windows of 2x2 and 1x2
    attention, keys = (encoded(model, frames).cues[name] for name in ("attention@0", "keys@0"))
    for rows, columns in (
        (slice(0, 2), slice(0, 2)),
        (slice(0, 2), slice(2, 4)),
        (slice(0, 2), slice(4, 6)),
        (slice(2, 3), slice(2, 4)),
    ):
        crop = frames[
            ..., rows.start * SIDE : rows.stop * SIDE, columns.start * SIDE : columns.stop * SIDE
        ]
        wide = tiny_qwen2_5_vl(window=512, full_layers=())[0]
        settings = {"min_pixels": 1}
        prepared = adapter_for(wide).prepare(videos=[crop], settings=settings)
        with torch.no_grad():
            (clip,) = adapter_for(wide).encode(prepared.inputs, CUES)
        alone = clip.tokens
        share = alone.features.shape[1] / 18
        found = attention.unflatten(1, (3, 6))[:, rows, columns].flatten(1)
        assert torch.allclose(found, alone.cues["attention@0"] * share, atol=1e-6)
    assert keys.shape == (1, 18, 16)


def test_packed_calls_of_flash_attention_are_taken_apart(monkeypatch):
    """A stand-in takes flash attention's arguments; its kernel needs a GPU."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    calls = []

    def packed(module, query, key, value, attention_mask, *, cu_seq_lens_q, **kwargs):
        calls.append(len(cu_seq_lens_q))
        sizes = cu_seq_lens_q.diff().tolist()
        given = [each.split(sizes, dim=2) for each in (query, key, value)]
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        kwargs = {name: kwargs[name] for name in ("scaling", "dropout", "is_causal")}
        parts = [sdpa(module, *each, None, **kwargs)[0] for each in zip(*given)]
        return torch.cat(parts, dim=1), None

    AttentionInterface.register("toy_flash", packed)
    AttentionMaskInterface.register("toy_flash", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    frames = picture(0)
    for build in (tiny_qwen2_5_vl, tiny_qwen3_vl):
        model = build()[0]
        expected = encoded(model, frames)
        monkeypatch.setattr(model.model.visual.config, "_attn_implementation_internal", "toy_flash")
        calls.clear()
        found = encoded(model, frames)
        assert len(calls) == 4  # one call a layer
        for cue in CUES:
            assert torch.allclose(found.cues[cue], expected.cues[cue], atol=1e-6)


def test_there_is_no_pooling_head(model):
    with pytest.raises(CapabilityError, match="pooling head, which this vision tower lacks"):
        adapter_for(model).check({"pooler"})


def test_pixels_come_with_their_grid(name, loaded, model):
    inputs = make_inputs(name, loaded, *CASES["mixed"])
    del inputs["image_grid_thw"]
    with pytest.raises(InputError, match="come with a image_grid_thw"), attach(model, "vanilla"):
        model(**inputs)


def test_frame_times_may_be_of_frames_or_of_groups(name, loaded, model):
    inputs = make_inputs(name, loaded, *CASES["two videos"], n_frames=(4, 5, 5))
    adapter = adapter_for(model)
    times = [torch.tensor([0.0, 1.0, 4.0, 6.0]), torch.tensor([0.0, 2.0, 3.0, 5.0, 8.0])]
    found = [clip.tokens.frame_times.tolist() for clip in adapter.encode(inputs, (), times)]
    assert found == [[0.5, 5.0], [1.0, 4.0, 8.0]]
    times = [torch.tensor([0.5, 5.0]), torch.tensor([1.0, 4.0, 8.0])]
    again = [clip.tokens.frame_times.tolist() for clip in adapter.encode(inputs, (), times)]
    assert again == found


# --- inputs without a processor -------------------------------------------------------------------


@pytest.mark.parametrize("size", [(56, 80), (61, 99), (28, 28), (200, 31), (150, 150)], ids=str)
def test_images_are_prepared_as_by_the_processor(name, model, size):
    pytest.importorskip("PIL")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    image = synthetic_video(1, max(size), seed=4)[0, :, : size[0], : size[1]]
    adapter = adapter_for(model)
    pixels = {"shortest_edge": 64 * SIDE**2, "longest_edge": 256 * SIDE**2}
    settings = {**adapter.normalisation, "size": pixels}
    processor = Qwen2VLImageProcessorPil(patch_size=SIDE // 2, temporal_patch_size=2, **settings)
    expected = processor(
        images=[image.numpy()], return_tensors="pt", input_data_format="channels_first"
    )
    found = adapter.prepare(images=[image], settings=settings)
    assert torch.equal(found.inputs["image_grid_thw"], expected["image_grid_thw"])
    gap = (found.inputs["pixel_values"] - expected["pixel_values"]).abs().max()
    level = 1 / 255 / min(settings["image_std"])
    # Where pictures are resized, Pillow rounds in a way of its own.
    assert gap < (1e-5 if size == (56, 80) else 2.1 * level)
    n = int(expected["image_grid_thw"].prod()) // 4
    start, *placeholders, end = found.pieces["image"][0]
    assert placeholders == [model.config.image_token_id] * n
    assert (start, end) == (model.config.vision_start_token_id, model.config.vision_end_token_id)


SIZES = ((100, 200), (32, 32), (1080, 1920), (333, 2500), (720, 40))


def test_sizes_of_images_are_fitted_as_by_the_processor():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for height, width in (*SIZES, (13, 40)):
        for bounds in ((56 * 56, 28 * 28 * 1280), (300**2, 400**2)):
            limits = dict(zip(("min_pixels", "max_pixels"), bounds))
            expected = smart_resize(height, width, factor=28, **limits)
            assert fitted_size((height, width), 28, bounds) == expected
    with pytest.raises(InputError, match="at most 200, got"):
        fitted_size((1, 500), 28, (1, 10**9))


def fits_videos_as_the_processor(sizes, counts):
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    for height, width in sizes:
        for n_frames in counts:
            for bounds in ((4096, 25165824), (128 * 32 * 32, 768 * 32 * 32)):
                found = fitted_size((height, width), 32, bounds, n_frames=n_frames, frame_group=2)
                limits = dict(zip(("min_pixels", "max_pixels"), bounds))
                assert found == smart_resize(
                    n_frames, height, width, temporal_factor=2, factor=32, **limits
                )


def test_sizes_of_videos_are_fitted_as_by_the_processor():
    fits_videos_as_the_processor(SIZES, (2, 4, 8, 64))
    with pytest.raises(InputError, match="at least 2 frames"):
        fitted_size((64, 64), 28, (1, 10**9), n_frames=1, frame_group=2)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"), reason="earlier versions did otherwise"
)
def test_sizes_of_small_and_odd_videos_are_fitted_as_by_the_processor():
    fits_videos_as_the_processor(((13, 40), (28, 28), (20, 900)), (2, 8))
    fits_videos_as_the_processor(SIZES, (3, 5, 7, 33))


def test_videos_are_cut_into_groups_of_patches(name, model):
    frames = picture(0, n_frames=5)
    adapter = adapter_for(model)
    prepared = adapter.prepare(videos=[frames], settings=FAMILIES[name].settings)
    pixels = prepared.inputs["pixel_values_videos"]
    assert prepared.inputs["video_grid_thw"].tolist() == [[3, 6, 8]]
    mean, std = (
        torch.tensor(adapter.normalisation[key])[:, None, None] * 255
        for key in ("image_mean", "image_std")
    )
    full = (torch.cat((frames, frames[-1:])).float() - mean) / std
    cells = pixels.view(3, 3, 4, 2, 2, 3, 2, 4, 4)
    for time, row, column, down, right in ((0, 0, 0, 0, 0), (1, 2, 3, 0, 1), (2, 1, 0, 1, 0)):
        top, left = (2 * row + down) * 4, (2 * column + right) * 4
        patch = full[2 * time : 2 * time + 2, :, top : top + 4, left : left + 4]
        assert torch.allclose(cells[time, row, column, down, right], patch.transpose(0, 1))


def test_settings_of_videos_may_differ_from_those_of_images(name, model):
    adapter = adapter_for(model)
    one = {"min_pixels": SIDE**2, "max_pixels": 16 * SIDE**2}
    frames, image = picture(3), picture(3, 1)[0]
    alike = adapter.prepare([frames], [image], settings=one)
    other = adapter.prepare(
        [frames], [image], settings={**one, "video": {"max_pixels": 8 * 25 * 64}}
    )
    assert alike.inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert other.inputs["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert int(alike.inputs["video_grid_thw"][0, 1]) < int(other.inputs["video_grid_thw"][0, 1])


def test_times_of_frames_stand_where_the_model_looks_for_them(built):
    times = [torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])]
    settings = FAMILIES["Qwen3-VL"].settings
    adapter = adapter_for(built["Qwen3-VL"][0])
    found = adapter.prepare([picture(0, 5)], frame_times=times, settings=settings)
    texts = [piece for piece in found.pieces["video"][0] if isinstance(piece, str)]
    assert texts == ["<0.2 seconds>", "<1.2 seconds>", "<2.0 seconds>"]
    assert found.pieces["video"][0].count(adapter.token_ids["video"]) == 3 * 12
    default = adapter.prepare([picture(0, 4)], settings=settings)
    assert default.pieces["video"][0] == found.pieces["video"][0][: 2 * (1 + 14)]
    adapter = adapter_for(built["Qwen2.5-VL"][0])
    found = adapter.prepare([picture(0, 5)], frame_times=times, settings=settings)
    assert found.inputs["second_per_grid_ts"].tolist() == [1.0]


def test_nothing_keeps_the_model_alive(name):
    import weakref

    loaded = FAMILIES[name].build()
    inputs = make_inputs(name, loaded, *CASES["one video"])
    gone = weakref.ref(loaded[0])
    with attach(loaded[0], load_pipeline("random", QUARTER)):
        greedy(loaded[0], inputs)
    del loaded
    gc.collect()
    assert gone() is None

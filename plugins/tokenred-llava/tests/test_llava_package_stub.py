"""Models of the original llava package, here a stand-in of ours, run on reduced videos."""

import pytest
import torch
from llava_stub import IMAGE_TOKEN_INDEX, PATCH, LlavaStubForCausalLM
from tokenred_llava.package import LlavaPackageAdapter

from tokenred.errors import CapabilityError, InputError
from tokenred.models import adapter_for, attach
from tokenred.pipeline import load_pipeline

SIDE = 7
LAYOUTS = ("one_token", "grid", "frame", "no_token")
POOLED = {"bilinear": 4, "average": 3, "max": 3}
VIDEO = IMAGE_TOKEN_INDEX


def pictures(n_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_frames, 3, SIDE * PATCH, SIDE * PATCH, generator=generator)


def prompt(*items):
    return torch.tensor([items])


ONE = {
    "ids": prompt(1, 2, VIDEO, 3),
    "images": [pictures(4)],
    "modalities": ["video"],
}
CASES = {
    "one": ONE,
    "stacked": {**ONE, "images": pictures(4)[None], "modalities": "video"},
    "two": {
        "ids": prompt(1, VIDEO, 5, VIDEO),
        "images": [pictures(2), pictures(5, 1)],
        "modalities": ["video", "video"],
    },
    "rows": {
        "ids": torch.cat((prompt(1, VIDEO, 4), prompt(VIDEO, 8, 9))),
        "images": [pictures(3), pictures(2, 1)],
        "modalities": ["video", "video"],
    },
    "image-first": {
        "ids": prompt(VIDEO, 1, VIDEO, 2),
        "images": [pictures(1)[0], pictures(3, 1)],
        "modalities": ["image", "video"],
    },
    "image-between": {
        "ids": prompt(VIDEO, VIDEO, 1, VIDEO),
        "images": [pictures(2), pictures(3, 1), pictures(2, 2)],
        "modalities": ["video", "image", "video"],
    },
}


def run(model, case):
    with torch.no_grad():
        return model(case["ids"], images=case["images"], modalities=case["modalities"])


def generate(model, case, **kwargs):
    return model.generate(case["ids"], case["images"], modalities=case["modalities"], **kwargs)


class Watching:
    """A pipeline that keeps what it was given."""

    def __init__(self, *needs, inner="vanilla"):
        self.needs, self.inner, self.seen = frozenset(needs), load_pipeline(inner), []

    def run(self, tokens, **kwargs):
        self.seen.append(tokens)
        return self.inner.run(tokens, **kwargs)


# --- identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLED)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_vanilla_is_bit_equal(case, layout, pool):
    model = LlavaStubForCausalLM(mm_newline_position=layout, mm_spatial_pool_mode=pool)
    expected, answer = run(model, case), generate(model, case)
    with attach(model, "vanilla") as session:
        found = run(model, case)
        assert torch.equal(generate(model, case), answer)
    assert torch.equal(found.inputs_embeds, expected.inputs_embeds)
    assert torch.equal(found.logits, expected.logits)
    n_videos = list(case["modalities"]).count("video") or 1
    assert [each.retention_ratio for each in session.realised] == [1] * n_videos


@pytest.mark.parametrize("merge_type", ["flat", "spatial", None])
@pytest.mark.parametrize("layout", ["one_token", None])
def test_vanilla_is_bit_equal_without_newlines_in_the_layout(merge_type, layout):
    model = LlavaStubForCausalLM(mm_patch_merge_type=merge_type, mm_newline_position=layout)
    expected = run(model, ONE)
    with attach(model, "vanilla") as session:
        assert torch.equal(run(model, ONE).logits, expected.logits)
    assert session.realised[0].newline_tokens == 0
    assert hasattr(model.config, "mm_newline_position") == (layout is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("pool", POOLED)
def test_vanilla_is_bit_equal_in_other_precisions(pool, dtype):
    model = LlavaStubForCausalLM(mm_newline_position="grid", mm_spatial_pool_mode=pool).to(dtype)
    case = {**ONE, "images": [ONE["images"][0].to(dtype)]}
    expected = run(model, case)
    with attach(model, "vanilla"):
        found = run(model, case)
    assert found.inputs_embeds.dtype == dtype
    assert torch.equal(found.logits, expected.logits)


# --- reduction --------------------------------------------------------------------------------


def expected_sequence(model, reduced, layout):
    """What the LLM should read of a video, token by token."""
    columns = reduced.grid[1]
    lines = {
        "one_token": lambda frame, cell: 0,
        "grid": lambda frame, cell: (frame, cell // columns),
        "frame": lambda frame, cell: frame,
    }
    places = list(zip(reduced.frame_index.tolist(), reduced.token_index.tolist(), strict=True))
    sequence = []
    for index, feature in enumerate(reduced.features):
        sequence.append(feature)
        if layout == "no_token":
            continue
        line = lines[layout]
        if index + 1 == len(places) or line(*places[index]) != line(*places[index + 1]):
            sequence.append(model.model.image_newline)
    return torch.stack(sequence)


@pytest.mark.parametrize("pool", ["bilinear", "average"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_newlines_close_what_is_left(layout, pool):
    model = LlavaStubForCausalLM(mm_newline_position=layout, mm_spatial_pool_mode=pool)
    with attach(model, load_pipeline("random", {"budget.retention_ratio": 0.3})) as session:
        found = run(model, ONE).inputs_embeds[0]
    (reduced,) = session.reduced
    kept = {"bilinear": 5, "average": 3}[pool]  # ceil of 0.3 x 16 and 0.3 x 9 cells
    assert reduced.realised.n_tokens == 4 * kept
    video = expected_sequence(model, reduced, layout)
    assert reduced.realised.newline_tokens == len(video) - len(reduced.features)
    words = model.model.embed_tokens(torch.tensor([1, 2, 3]))
    assert torch.equal(found, torch.cat((words[:2], video, words[2:])))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_read_whole(layout):
    model = LlavaStubForCausalLM(mm_newline_position=layout)
    case = CASES["image-between"]
    whole = run(model, case).inputs_embeds[0]
    with attach(model, load_pipeline("random", {"budget.retention_ratio": 0.25})) as session:
        found = run(model, case).inputs_embeds[0]
    with torch.no_grad():
        image = model.encode_images(case["images"][1]).flatten(0, 1)
    first, second = (len(each.features) + each.realised.newline_tokens for each in session.reduced)
    assert len(found) == first + len(image) + 1 + 1 + second
    assert torch.equal(found[first : first + len(image)], image)
    start = len(whole) - len(found)
    assert start > 0


def test_pipelines_with_cues_run_through_generate():
    model = LlavaStubForCausalLM(mm_newline_position="grid", mm_spatial_pool_mode="average")
    with attach(model, "aot-paper") as session:
        answer = generate(model, CASES["two"], max_new_tokens=3)
    assert answer.shape == (1, 3)
    assert [each.vanilla_tokens for each in session.realised] == [18, 45]
    assert all(each.retention_ratio < 0.5 for each in session.realised)


def test_training_reaches_the_projector():
    model = LlavaStubForCausalLM(mm_newline_position="grid")
    with attach(model, "random"):
        logits = model(ONE["ids"], images=ONE["images"], modalities=["video"]).logits
    logits.sum().backward()
    assert model.model.mm_projector.weight.grad.abs().sum() > 0
    assert model.model.image_newline.grad.abs().sum() > 0


# --- cues -------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_token", [False, True])
def test_cues_equal_the_packages_own_attention(class_token):
    model = LlavaStubForCausalLM(class_token=class_token)
    pipeline = Watching("attention@0", "attention@-1", "keys@1")
    case = CASES["image-between"]
    with attach(model, pipeline):
        run(model, case)
    tower, skip = model.get_vision_tower(), int(class_token)
    frames = [pictures(2), pictures(2, 2)]
    assert [len(tokens.features) for tokens in pipeline.seen] == [2, 2]
    for tokens, video in zip(pipeline.seen, frames, strict=True):
        with torch.no_grad():
            tower(video)
        for name, layer in (("attention@0", 0), ("attention@-1", 2)):
            received = tower.weights[layer].mean(dim=(1, 2))[:, skip:]
            torch.testing.assert_close(tokens.cues[name], received, rtol=1e-5, atol=1e-7)
        assert tokens.cues["keys@1"].shape == (2, SIDE * SIDE, 8)
        assert tokens.grid == (SIDE, SIDE)


def test_keys_are_means_over_heads():
    model = LlavaStubForCausalLM()
    attention = model.get_vision_tower().layers[1].self_attn
    seen = []
    handle = attention.k_proj.register_forward_hook(lambda module, args, out: seen.append(out))
    pipeline = Watching("keys@1")
    with attach(model, pipeline):
        run(model, ONE)
    handle.remove()
    expected = seen[0].unflatten(-1, (attention.num_heads, -1)).mean(dim=2)
    assert torch.equal(pipeline.seen[0].cues["keys@1"], expected)


def test_an_encoder_that_runs_in_parts_gives_the_same():
    """Forks of the package encode long videos piece by piece."""

    class InParts(LlavaStubForCausalLM):
        def _encode(self, images):
            return torch.cat([self.encode_images(part) for part in images.split(3)])

    model, other = LlavaStubForCausalLM(), InParts()
    with attach(model, "aot-paper"):
        expected = run(model, CASES["two"]).logits
    with attach(other, "aot-paper"):
        found = run(other, CASES["two"]).logits
    torch.testing.assert_close(found, expected)


def test_encode_gives_what_a_call_reduces():
    model = LlavaStubForCausalLM()
    adapter = adapter_for(model)
    case = CASES["image-between"]
    pipeline = Watching("attention@1")
    with attach(model, pipeline):
        run(model, case)
    with torch.no_grad():
        clips = adapter.encode(case, {"attention@1"}, [torch.tensor([3.0, 4]), torch.arange(2.0)])
    assert clips[0].tokens.frame_times.tolist() == [3, 4]
    for clip, tokens in zip(clips, pipeline.seen, strict=True):
        assert torch.equal(clip.tokens.features, tokens.features)
        assert torch.equal(clip.tokens.cues["attention@1"], tokens.cues["attention@1"])
    assert adapter.encode({"images": pictures(2)}) == []


# --- what passes through, and what is refused -------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        {**ONE, "modalities": ["image"]},
        {**ONE, "images": pictures(1), "modalities": ["image"]},
        {**ONE, "images": None},
    ],
    ids=["image", "tensor-of-images", "text"],
)
def test_calls_without_video_pass_through(case):
    model = LlavaStubForCausalLM()
    if case["images"] is None:
        case = {**case, "ids": prompt(1, 2, 3)}
    expected = run(model, case).logits
    with attach(model, "random") as session:
        assert torch.equal(run(model, case).logits, expected)
    assert session.realised == []


class Failing(Watching):
    def run(self, tokens, **kwargs):
        raise ValueError("on purpose")


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


@pytest.mark.parametrize("pipeline", [Watching("attention@0"), Failing("attention@0")])
def test_nothing_stays_behind(pipeline):
    model = LlavaStubForCausalLM(mm_newline_position="grid")
    before, config = dict(vars(model)), dict(vars(model.config))
    expected = run(model, ONE).logits
    try:
        with attach(model, pipeline):
            run(model, ONE)
    except ValueError:
        assert isinstance(pipeline, Failing)
    assert vars(model) == before
    assert vars(model.config) == config
    assert hooks_of(model) == []
    assert torch.equal(run(model, ONE).logits, expected)


def test_a_failed_call_leaves_the_attached_model_usable():
    model = LlavaStubForCausalLM(mm_newline_position="grid")
    with attach(model, "vanilla"):
        with pytest.raises(IndexError):  # two marks, one video
            run(model, {**ONE, "ids": prompt(VIDEO, VIDEO)})
        found = run(model, ONE).logits
    assert torch.equal(found, run(model, ONE).logits)


def test_original_positions_are_refused():
    with (
        pytest.raises(CapabilityError, match="numbers the short prompt by itself"),
        attach(LlavaStubForCausalLM(), "random", positions="original"),
    ):
        pass


class Reduce:
    needs: frozenset = frozenset()
    frame_times = None

    def encode(self, inputs):
        raise AssertionError("nothing is to be encoded here")

    def reduce(self, clips):
        raise AssertionError("nothing is to be reduced here")


def test_stages_inside_the_llm_are_refused():
    adapter = LlavaPackageAdapter(LlavaStubForCausalLM())
    assert not adapter.reduces_inside_llm
    with (
        pytest.raises(CapabilityError, match="stages inside the LLM cannot run"),
        adapter.reduced_calls(Reduce(), "contiguous", inside=object()),
    ):
        pass


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mm_spatial_pool_mode": None}, "mm_spatial_pool_mode None"),
        ({"mm_spatial_pool_mode": "conv"}, "mm_spatial_pool_mode 'conv'"),
        ({"mm_newline_position": "diagonal"}, "mm_newline_position 'diagonal'"),
        ({"add_faster_video": True}, "add_faster_video"),
    ],
)
def test_configs_that_are_not_supported(config, message):
    with pytest.raises(CapabilityError, match=message):
        adapter_for(LlavaStubForCausalLM(**config)).check(())


@pytest.mark.parametrize(
    ("cue", "message"),
    [("pooler", "pooling head"), ("attention@3", "3 layers"), ("values@1", "no cue 'values@1'")],
)
def test_cues_that_cannot_be_given(cue, message):
    with pytest.raises(CapabilityError, match=message):
        adapter_for(LlavaStubForCausalLM()).check({cue})


def test_towers_without_separate_projections_give_no_cues():
    model = LlavaStubForCausalLM()
    del model.get_vision_tower().layers[1].self_attn.q_proj
    adapter = adapter_for(model)
    adapter.check({"attention@0"})
    with pytest.raises(CapabilityError, match="no q_proj and k_proj"):
        adapter.check({"attention@1"})


def test_another_stride_is_refused():
    model = LlavaStubForCausalLM()
    model.pool_arguments = (3,)
    with (
        attach(model, "vanilla"),
        pytest.raises(CapabilityError, match="stride 3"),
    ):
        run(model, ONE)


def test_a_tower_with_another_grid_is_refused():
    model = LlavaStubForCausalLM()
    model.get_vision_tower().num_patches_per_side = 6
    with (
        attach(model, "vanilla"),
        pytest.raises(InputError, match=r"49 tokens a frame.*6x6"),
    ):
        run(model, ONE)


def test_models_of_other_packages_are_refused():
    class Old(torch.nn.Module):
        pass

    with pytest.raises(CapabilityError, match="Old has no prepare_inputs_labels_for_multimodal"):
        LlavaPackageAdapter(Old())


def test_other_versions_of_the_package_are_refused():
    class Older(LlavaStubForCausalLM):
        def prepare_inputs_labels_for_multimodal(self, input_ids, images):
            raise AssertionError("never called")

    model = Older()
    before = dict(vars(model))
    with pytest.raises(CapabilityError, match="images and modalities"), attach(model, "vanilla"):
        pass
    assert vars(model) == before

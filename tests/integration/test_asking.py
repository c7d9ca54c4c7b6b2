"""Questions of a harness, asked of every family: several pictures, none, and options."""

import pytest
import saved_models
import torch

import tokenred
from tokenred.errors import InputError
from tokenred.integrations.asking import Asker, Request
from tokenred.models.inputs.media import MediaInput
from tokenred.testing.models import FAMILIES, synthetic_video

VIDEO_FAMILIES = [name for name, family in FAMILIES.items() if "video" in family.media]
QUESTION = "what moves?"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    found = {}

    def load(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("model")
            saved_models.save(name, folder)
            found[name] = tokenred.load_model(folder, device="cpu")
        return found[name]

    return load


def visuals(kind, n_media, n_frames=4):
    frames = 1 if kind == "image" else n_frames
    pixels = tuple(
        synthetic_video(frames, 32, seed=seed).permute(0, 2, 3, 1) for seed in range(n_media)
    )
    if kind == "image":
        return MediaInput(kind, pixels)
    times = tuple(torch.arange(n_frames).float() for _ in pixels)
    return MediaInput(kind, pixels, (tuple(range(n_frames)),) * n_media, times)


def request(seen, key=0):
    return Request("task/0", QUESTION, lambda: seen, key)


def plainly(model, seen, n_new):
    """Ask without any reduction; return the new tokens and the length of the prompt."""
    pictures = [pixels.permute(0, 3, 1, 2) for pixels in seen.pixels]
    given = (
        {"images": [each[0] for each in pictures]}
        if seen.kind == "image"
        else {"videos": pictures, "frame_times": seen.frame_times}
    )
    prepared = model.adapter.prepare(**given, settings=model.settings[seen.kind] or None)
    inputs = model.inputs_of(QUESTION, prepared)
    output = model.model.generate(**inputs, max_new_tokens=n_new, do_sample=False)
    return output[0, inputs["input_ids"].shape[1] :], inputs


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "image") for name in FAMILIES] + [(name, "video") for name in VIDEO_FAMILIES],
)
def test_several_pictures_in_one_question(loaded, name, kind):
    model, seen = loaded(name), visuals(kind, 2)
    made, inputs = plainly(model, seen, 4)
    whole = Asker(model, tokenred.load_pipeline("vanilla"))
    text, stats = whole.write(request(seen), 4, {})
    assert text == model.tokenizer.decode(made, skip_special_tokens=True).strip()
    assert stats.input_tokens == stats.vanilla_input_tokens == inputs["input_ids"].shape[1]
    few = Asker(model, tokenred.load_pipeline("random", {"budget.retention_ratio": 0.5}))
    _, stats = few.write(request(seen), 4, {})
    assert 0 < stats.visual_tokens < stats.vanilla_visual_tokens
    assert stats.input_tokens < stats.vanilla_input_tokens == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("name", VIDEO_FAMILIES)
def test_likelihood_is_that_of_the_unreduced_model(loaded, name):
    model, seen = loaded(name), visuals("video", 1)
    made, inputs = plainly(model, seen, 3)
    text = model.tokenizer.decode(made)
    again = model.tokenizer(text, add_special_tokens=False).input_ids
    asker = Asker(model, tokenred.load_pipeline("vanilla"))
    loss, greedy, stats = asker.judge(request(seen), "yes no")
    assert loss > 0
    assert stats.input_tokens == inputs["input_ids"].shape[1]
    assert stats.output_tokens == len(model.tokenizer("yes no", add_special_tokens=False).input_ids)
    likeliest, greedy, _ = asker.judge(request(seen), text)
    if again == made.tolist():  # bytes that are no text do not come back
        assert greedy
        assert likeliest <= loss


def test_a_question_without_pictures(loaded):
    model = loaded("LLaVA-OneVision")
    asker = Asker(model, tokenred.load_pipeline("aot-paper"))
    _, stats = asker.write(request(MediaInput("image", ())), 2, {})
    assert stats.visual_tokens == stats.vanilla_visual_tokens == 0
    assert stats.input_tokens == stats.vanilla_input_tokens > 0


def test_an_empty_continuation_is_refused(loaded):
    asker = Asker(loaded("LLaVA-OneVision"), tokenred.load_pipeline("vanilla"))
    with pytest.raises(InputError, match="has no token"):
        asker.judge(request(visuals("video", 1)), "")


def test_one_sample_draws_the_same_at_any_time(loaded):
    asker = Asker(loaded("LLaVA-OneVision"), tokenred.load_pipeline("random"))
    seen = visuals("video", 1)
    first, _, _ = asker.judge(request(seen), "yes")
    asker.judge(Request("task/1", QUESTION, lambda: seen, 1), "yes")
    again, _, _ = asker.judge(request(seen), "yes")
    assert first == again
    other = [asker.judge(Request(f"task/{n}", QUESTION, lambda: seen, 0), "yes")[0] for n in (1, 2)]
    assert set(other) != {first}

"""The embedded model and its generated task."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from tokenred import embedded
from tokenred.embedded import drawing, scenes
from tokenred.embedded.questions import SPECIAL_TOKENS
from tokenred.embedded.scenes import scene_rng

VIDEO_TOKENS = 8 * 49 + 1


@pytest.fixture(scope="module")
def samples() -> list[embedded.EmbeddedSample]:
    return [embedded.generate_sample(index) for index in range(40)]


def answers_to(sample: embedded.EmbeddedSample, kind: str) -> dict[str, str]:
    return {q.prompt: q.answer for q in sample.questions if q.kind == kind}


def test_import_is_light_and_so_is_a_video():
    """Pixels come from scikit-learn's files, not from its import, which takes a second."""
    code = (
        "import sys, tokenred.embedded\n"
        "loaded = {'transformers', 'sklearn', 'PIL'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "tokenred.embedded.generate_sample(0)\n"
        "loaded = {'transformers', 'sklearn', 'torch'} & set(sys.modules)\n"
        "assert loaded <= {'torch'}, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("split", embedded.SPLITS)
def test_generation_is_deterministic(split):
    one, two = (embedded.generate_sample(5, split, seed=3) for _ in range(2))
    assert np.array_equal(one.frames, two.frames)
    assert one.scene.objects == two.scene.objects
    assert one.questions == two.questions


def test_index_seed_and_split_change_the_video():
    reference = embedded.generate_sample(5, "test", seed=0).frames
    for index, split, seed in [(6, "test", 0), (5, "train", 0), (5, "test", 1)]:
        assert not np.array_equal(reference, embedded.generate_sample(index, split, seed).frames)


def test_unknown_split_is_refused():
    with pytest.raises(ValueError, match="split"):
        embedded.generate_sample(0, "validation")


def test_splits_are_disjoint():
    train, test = (set(drawing.digit_instances(split)) for split in ("train", "test"))
    assert train
    assert test
    assert not train & test
    assert drawing.photo_columns("train")[1] <= drawing.photo_columns("test")[0]
    for index in range(20):
        assert {o.instance for o in embedded.generate_scene(index, "train").objects} <= train
        assert {o.instance for o in embedded.generate_scene(index, "test").objects} <= test


def test_frames_show_the_objects(samples):
    for sample in samples:
        assert sample.frames.shape == (8, 104, 104, 3)
        assert sample.frames.dtype == np.uint8
        for item in sample.scene.objects:
            top, left = item.corners[0]
            plate = sample.frames[item.first, top : top + 16, left : left + 16].astype(int)
            distance = np.abs(plate - drawing.COLORS[item.color]).sum(-1)
            assert distance.min() < 30


def test_objects_move_straight_and_never_overlap(samples):
    for sample in samples:
        grid = sample.scene.object_map()
        for number, item in enumerate(sample.scene.objects):
            steps = np.diff(np.array(item.corners), axis=0)
            expected = np.array(scenes.DIRECTIONS[item.direction]) * scenes.STEP
            assert (steps == expected).all()
            for frame in range(8):
                shown = (grid[frame] == number).sum()
                assert shown == (4 if item.corner(frame) else 0)


def test_questions_agree_with_the_ground_truth(samples):
    for sample in samples:
        objects, cut = sample.scene.objects, sample.scene.cut
        assert answers_to(sample, "count") == {"how many digits": str(len(objects))}
        for item in objects:
            assert answers_to(sample, "digit")[f"what digit is {item.color}"] == str(item.digit)
            assert answers_to(sample, "color")[f"what color is {item.digit}"] == item.color
            moves = answers_to(sample, "direction").get(f"which way moves {item.color}")
            assert moves == (item.direction if len(item.corners) >= 3 else None)
            side = answers_to(sample, "cut").get(f"before or after the cut is {item.color}")
            if side is not None:
                frames = range(item.first, item.last + 1)
                assert {frame >= cut for frame in frames} == {side == "after"}
        for answer in answers_to(sample, "order").values():
            starts = {item.color: item.first for item in objects}
            assert starts.pop(answer) < min(starts.values())


def test_cut_switches_the_photograph(samples):
    for sample in samples:
        changes = np.flatnonzero(np.diff(sample.scene.photos)) + 1
        assert list(changes) == ([] if sample.scene.cut is None else [sample.scene.cut])


def test_every_kind_occurs_and_answers_are_options(samples):
    questions = [question for sample in samples for question in sample.questions]
    assert {question.kind for question in questions} == set(embedded.KINDS)
    for question in questions:
        assert question.answer in question.options
        assert set(question.words) | set(question.options) <= set(embedded.VOCABULARY)
        assert embedded.KINDS[question.kind] == pytest.approx(1 / len(question.options))


def test_pixel_values_resize_and_scale():
    frames = np.zeros((2, 60, 90, 3), dtype=np.uint8)
    frames[1] = 255
    pixels = embedded.to_pixel_values(frames)
    assert tuple(pixels.shape) == (2, 3, 104, 104)
    assert float(pixels[0].max()) == -1.0
    assert float(pixels[1].min()) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="shape"):
        embedded.to_pixel_values(frames[0])


def test_model_files_are_small_and_documented():
    weights = embedded.MODEL_DIR / "model.safetensors"
    assert weights.stat().st_size <= 6_000_000
    assert (embedded.MODEL_DIR / "MODEL_CARD.md").read_text().strip()
    for line in (embedded.MODEL_DIR / "training_log.jsonl").read_text().splitlines():
        json.loads(line)


def test_tokenizer_knows_every_word():
    tokenizer = embedded.load_tokenizer()
    assert len(tokenizer) == len(embedded.VOCABULARY)
    for number, word in enumerate(embedded.VOCABULARY):
        if word not in SPECIAL_TOKENS:
            assert tokenizer(word).input_ids == [number]
    assert tokenizer("<video><video>what digit is red").input_ids[:3] == [
        embedded.VOCABULARY.index(word) for word in ("<video>", "<video>", "what")
    ]


def test_model_answers_held_out_questions():
    import torch

    model, tokenizer = embedded.load_embedded_model(), embedded.load_tokenizer()
    right = []
    for index in range(5):
        sample = embedded.generate_sample(index)
        pixels = embedded.to_pixel_values(sample.frames)[None]
        prompts = ["<video>" * VIDEO_TOKENS + q.prompt for q in sample.questions[:6]]
        for prompt, question in zip(prompts, sample.questions, strict=False):
            ids = tokenizer(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                output = model(input_ids=ids, pixel_values_videos=pixels, logits_to_keep=1)
            guess = embedded.VOCABULARY[int(output.logits[0, -1].argmax())]
            right.append(guess == question.answer)
    assert np.mean(right) > 0.8


def test_generate_stops_after_the_answer():
    model, tokenizer = embedded.load_embedded_model(), embedded.load_tokenizer()
    sample = embedded.generate_sample(0)
    prompt = "<video>" * VIDEO_TOKENS + sample.questions[0].prompt
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    pixels = embedded.to_pixel_values(sample.frames)[None]
    output = model.generate(
        input_ids=ids, pixel_values_videos=pixels, max_new_tokens=4, do_sample=False
    )
    words = [embedded.VOCABULARY[k] for k in output[0, ids.shape[1] :]]
    assert len(words) == 2
    assert words[1] == "<eos>"


def test_splits_and_seeds_draw_apart():
    draws = {
        (split, index, seed): scene_rng(index, split, seed).random()
        for split in ("train", "test")
        for index in (0, 1)
        for seed in (0, 1)
    }
    assert len(set(draws.values())) == len(draws)

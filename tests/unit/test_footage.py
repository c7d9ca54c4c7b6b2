"""Generated videos over photographs and clips: determinism, splits, ground truth, questions."""

import hashlib
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenred import wheels
from tokenred.embedded import footage
from tokenred.embedded.footage import drawing, scenes, sources
from tokenred.errors import TokenredError

FLOWER = sources.SOURCES["test"][:1]


@pytest.fixture(autouse=True)
def _only_what_is_installed(monkeypatch):
    """No test downloads anything."""
    monkeypatch.setitem(sources.SOURCES, "test", FLOWER)


@pytest.fixture(scope="module")
def samples() -> list[footage.FootageSample]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sources.SOURCES, "test", FLOWER)
        return [footage.generate_footage(index) for index in range(120)]


def test_the_same_arguments_give_the_same_sample(samples):
    again = footage.generate_footage(3)
    np.testing.assert_array_equal(again.frames, samples[3].frames)
    assert again.questions == samples[3].questions
    assert again.asked == samples[3].asked
    assert not np.array_equal(footage.generate_footage(3, seed=1).frames, again.frames)
    assert again.frames.shape == (8, 168, 168, 3)
    assert again.frames.dtype == np.uint8


def test_splits_share_no_source_and_no_random_numbers(monkeypatch):
    monkeypatch.undo()
    train, test = (set(sources.SOURCES[split]) for split in ("train", "test"))
    assert len(train) >= 10
    assert len(test) >= 3
    assert not train & test
    monkeypatch.setitem(sources.SOURCES, "train", FLOWER)
    monkeypatch.setitem(sources.SOURCES, "test", FLOWER)
    one, other = (footage.generate_footage(5, split).frames for split in ("train", "test"))
    assert not np.array_equal(one, other)
    with pytest.raises(ValueError, match="split must be one of"):
        footage.generate_footage(0, "val")


def test_kinds_are_those_that_were_fixed():
    assert list(footage.KINDS) == [kind for kinds in footage.GROUPS.values() for kind in kinds]
    assert len(footage.KINDS) == 15
    assert len(footage.GROUPS) == 4
    assert len(set(footage.VOCABULARY)) == len(footage.VOCABULARY)


def test_every_word_is_known_and_every_answer_an_option(samples):
    known = set(footage.VOCABULARY)
    for sample in samples:
        for question in sample.questions:
            assert set(question.words) <= known
            assert question.answer in question.options
            assert set(question.options) <= known
        kinds = [question.kind for question in sample.asked]
        assert kinds == [kind for kind in footage.KINDS if kind in set(kinds)]
        assert set(sample.asked) <= set(sample.questions)
    assert {q.kind for sample in samples for q in sample.asked} == set(footage.KINDS)


def test_no_answer_can_be_guessed_from_its_frequency(samples):
    """Against the expected count of each answer, by chi square at one in a thousand."""
    from scipy.stats import chisquare

    found = Counter((q.kind, q.answer) for sample in samples for q in sample.asked)
    for kind, options in footage.OPTIONS.items():
        assert chisquare([found[kind, option] for option in options]).pvalue > 0.001, kind


def test_objects_are_where_the_truth_says(samples):
    """An object that nothing hides shows its colour at its centre, and no other does before it."""
    checked = 0
    for sample in samples:
        scene = sample.scene
        for item in scene.objects:
            alone = len(scene.objects) == 1 and scene.weather in ("clear", "fog")
            if not alone or item.texture != "plain" or item.shape == "ring":
                continue
            color = np.array(drawing.COLORS[item.color])
            for frame in range(footage.NUM_FRAMES):
                there = item.first <= frame < item.last
                x, y = item.path[min(max(frame - item.first, 0), len(item.path) - 1)]
                shown = np.abs(scene.frames[frame][round(y), round(x)] - color).max() < 3
                assert shown == there
            checked += 1
    assert checked >= 2


def test_objects_stay_inside_and_move_as_they_are_said_to(samples):
    for item in (item for sample in samples for item in sample.scene.objects):
        path = np.array(item.path)
        assert len(path) == item.last - item.first
        assert path.min() >= item.size / 2 - 1e-6
        assert path.max() <= footage.FRAME_SIZE - item.size / 2 + 1e-6
        step = np.diff(path, axis=0)
        low, high = scenes.SPEEDS[item.speed]
        way = np.array(scenes.DIRECTIONS[item.direction])
        assert np.all(step @ way >= low - 1e-6)
        assert np.all(step @ way <= high + 1e-6)
        np.testing.assert_allclose(step @ way[::-1], 0, atol=1e-6)
        assert (item.first > 0, item.last < footage.NUM_FRAMES) == {
            "stays": (False, False),
            "appears": (True, False),
            "vanishes": (False, True),
        }[item.change]


def test_a_resting_camera_shows_the_same_picture_and_a_moving_one_does_not():
    rng = np.random.default_rng(0)
    for kind in drawing.BACKDROPS:
        rests, _ = drawing.draw_backdrop(rng, "test", kind, False)
        moves, _ = drawing.draw_backdrop(rng, "test", kind, True)
        assert np.ptp(rests, axis=0).max() == 0
        assert np.abs(np.diff(moves, axis=0)).mean((1, 2, 3)).min() > 1


def test_drawing_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from tokenred.embedded.footage import sources, generate_footage\n"
        "sources.SOURCES['test'] = sources.SOURCES['test'][:1]\n"
        "generate_footage(0)\n"
        "loaded = {'transformers', 'sklearn', 'matplotlib', 'av'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _wheel(folder: Path) -> wheels.Wheel:
    path = folder / "wheels" / "some_package-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inside.txt", "text")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return wheels.Wheel("some-package", "1.0", digest, 1)


def test_a_wheel_is_read_if_it_is_the_one_expected(tmp_path):
    wheel = _wheel(tmp_path)
    assert wheels.read_members(wheel, ["inside.txt"], tmp_path) == [b"text"]
    with pytest.raises(TokenredError, match="another checksum"):
        wheels.fetch_wheel(replace(wheel, sha256="0" * 64), tmp_path)


def test_a_wheel_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "first\nERROR: " + "no connection " * 50)
    monkeypatch.setattr(wheels.subprocess, "run", lambda *args, **kwargs: failed)
    told: list[str] = []
    wheel = wheels.Wheel("some-package", "1.0", "0" * 64, 1)
    with pytest.raises(TokenredError, match=r"some-package 1\.0 cannot be downloaded: ") as error:
        wheels.fetch_wheel(wheel, tmp_path, told.append)
    assert len(str(error.value)) <= 300
    assert told == ["downloading some-package 1.0 (1 MB, once)"]

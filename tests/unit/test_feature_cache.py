"""The cache of encoder outputs: equal to the last bit, or not served at all."""

import logging
import multiprocessing
import os
import pickle
import resource
import signal
import time
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from tokenred.errors import ConfigError
from tokenred.evaluation import feature_cache
from tokenred.evaluation.clip_file import n_bytes, read_clip, write_clip
from tokenred.evaluation.feature_cache import FeatureCache, content_key
from tokenred.evaluation.model import VideoLlm
from tokenred.evaluation.tasks.embedded import EmbeddedTask
from tokenred.models.splice import Clip, ClipLayout
from tokenred.types import Segments, VisualTokens

CPU = torch.device("cpu")
FORK = multiprocessing.get_context("fork")  # quick, as nothing is imported again
MEGABYTE = 1 << 20
FRAMES, GRID, DIM = 3, (2, 4), 5


def make_clip(seed: int = 0, cues: tuple[str, ...] = ("attention@-2", "tower"), dim: int = DIM):
    """Return a clip with every field filled, in the dtypes and strides that models give."""
    generator = torch.Generator().manual_seed(seed)
    tokens = GRID[0] * GRID[1]
    features = torch.randn(FRAMES, dim, tokens, generator=generator).to(torch.bfloat16).mT
    keep = torch.rand(FRAMES, tokens, generator=generator) > 0.3
    values = {
        name: torch.randn(FRAMES + 1, tokens, generator=generator)[1:].mul(len(name))
        for name in cues
    }
    return Clip(
        VisualTokens(
            features=features,
            grid=GRID,
            keep=keep,
            frame_times=torch.tensor([0.1, 1 / 3, 2.7]),
            cues=values,
            native_pool="bilinear",
            segments=Segments((0, 1, FRAMES)),
        ),
        ClipLayout("video", FRAMES, GRID, "frame", seconds_per_frame=0.4),
        deepstack_features=torch.randn(
            2, FRAMES * tokens, dim, generator=generator, dtype=torch.float64
        ),
    )


def assert_same(found: Clip, wanted: Clip) -> None:
    """Compare every field of two clips, tensors to the last bit and stride."""
    assert found.layout == wanted.layout
    for field in fields(VisualTokens):
        here, there = (getattr(clip.tokens, field.name) for clip in (found, wanted))
        if field.name == "cues":
            assert set(here) == set(there)
            for name in there:
                same_tensor(here[name], there[name])
        elif isinstance(there, torch.Tensor):
            same_tensor(here, there)
        else:
            assert here == there
    assert (found.deepstack_features is None) == (wanted.deepstack_features is None)
    if wanted.deepstack_features is not None:
        same_tensor(found.deepstack_features, wanted.deepstack_features)


def same_tensor(found, wanted) -> None:
    assert found.dtype == wanted.dtype
    assert found.stride() == wanted.stride()
    assert torch.equal(found, wanted)


class Tower:
    """Encodes, and counts how often; knows what it was asked for last."""

    def __init__(self, seed: int = 0, dim: int = DIM) -> None:
        self.calls, self.cues, self.seed, self.dim = 0, (), seed, dim

    def __call__(self, cues) -> Clip:
        self.calls += 1
        self.cues = tuple(sorted(cues))
        return make_clip(self.seed, self.cues, self.dim)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "features", 100 * MEGABYTE)


def files(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.iterdir())


NEEDS = frozenset({"attention@-2", "tower"})


def test_a_hit_equals_what_the_tower_gave(cache: FeatureCache) -> None:
    tower = Tower()
    first = cache(["video"], NEEDS, tower, CPU)
    second = cache(["video"], NEEDS, tower, CPU)
    assert (tower.calls, cache.n_hits, cache.n_misses) == (1, 1, 1)
    assert_same(first, make_clip())
    assert_same(second, make_clip())


def test_every_field_of_a_clip_survives() -> None:
    """Whoever adds a field to these classes has to teach the file format about it."""
    assert {field.name for field in fields(Clip)} == {"tokens", "layout", "deepstack_features"}
    assert {field.name for field in fields(VisualTokens)} == {
        *("features", "grid", "keep", "frame_times", "cues", "native_pool", "segments"),
        "newline",  # comes from the model when a clip is reduced, not from its encoding
    }


def test_plain_clips_survive(tmp_path: Path) -> None:
    plain = replace(make_clip(cues=()), deepstack_features=None)
    plain = replace(plain, tokens=replace(plain.tokens, segments=None))
    expanded = replace(plain.tokens, frame_times=torch.tensor([2.0]).expand(FRAMES))
    for clip in (plain, replace(plain, tokens=expanded)):
        write_clip(tmp_path / "clip", "key", [], clip)
        found, _ = read_clip(tmp_path / "clip", "key", [], CPU)
        assert torch.equal(found.tokens.frame_times, clip.tokens.frame_times)
        assert found.tokens.segments is None
        assert found.deepstack_features is None


def test_another_process_is_served(cache: FeatureCache) -> None:
    cache(["video"], NEEDS, Tower(), CPU)
    other, tower = pickle.loads(pickle.dumps(cache)), Tower()
    assert_same(other(["video"], NEEDS, tower, CPU), make_clip())
    assert (tower.calls, other.n_hits, other.n_misses) == (0, 1, 0)


PARTS = ["weights-1", "cpu", torch.arange(4.0)]


@pytest.mark.parametrize(
    "parts",
    [
        ["weights-2", "cpu", torch.arange(4.0)],
        ["weights-1", "cuda", torch.arange(4.0)],
        ["weights-1", "cpu", torch.arange(4.0) + 1e-6],
        ["weights-1", "cpu", torch.arange(4.0).view(2, 2)],
        ["weights-1", "cpu", torch.arange(4.0).view(torch.int32)],
        ["weights-1", "cpu", torch.arange(5.0)],
        ["weights-1cpu", torch.arange(4.0)],
        ["weights-1", "cpu", torch.arange(4.0), "second_per_grid_ts"],
    ],
)
def test_what_a_clip_depends_on_tells_it_apart(parts) -> None:
    assert content_key(parts) != content_key(PARTS)
    assert content_key(PARTS) == content_key([*PARTS[:2], torch.arange(8.0)[::2] / 2])


def test_versions_tell_clips_apart(cache: FeatureCache, monkeypatch) -> None:
    tower = Tower()
    cache(["video"], NEEDS, tower, CPU)
    versions = feature_cache._versions()
    monkeypatch.setattr(feature_cache, "_versions", lambda: versions + ".1")
    cache(["video"], NEEDS, tower, CPU)
    assert tower.calls == 2


def test_more_cues_serve_fewer(cache: FeatureCache) -> None:
    tower = Tower()
    cache(["video"], NEEDS, tower, CPU)
    clip = cache(["video"], ["tower"], tower, CPU)
    assert tower.calls == 1
    assert set(clip.tokens.cues) == {"tower"}
    assert set(cache(["video"], [], tower, CPU).tokens.cues) == set()


def test_a_missing_cue_is_added_to_the_others(cache: FeatureCache) -> None:
    tower = Tower()
    cache(["video"], ["tower"], tower, CPU)
    clip = cache(["video"], ["attention@-2"], tower, CPU)
    assert tower.cues == ("attention@-2", "tower")
    assert set(clip.tokens.cues) == {"attention@-2"}
    cache(["video"], NEEDS, tower, CPU)
    assert tower.calls == 2
    assert len(files(cache)) == 1


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: flip(data, len(data) - 7),
        lambda data: flip(data, len(data) - 900),
        lambda data: data.replace(b"bilinear", b"bilinfar"),
        lambda data: b"a text that somebody put here",
    ],
)
def test_a_damaged_file_is_made_anew(cache: FeatureCache, damage) -> None:
    tower = Tower()
    cache(["video"], NEEDS, tower, CPU)
    (path,) = files(cache)
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert_same(cache(["video"], NEEDS, tower, CPU), make_clip())
    assert tower.calls == 2


def test_every_flipped_bit_is_seen(cache: FeatureCache) -> None:
    cache(["video"], NEEDS, Tower(), CPU)
    (path,) = files(cache)
    good = path.read_bytes()
    for place in range(0, len(good), 37):
        path.write_bytes(flip(good, place))
        found, _ = read_clip(path, path.stem, NEEDS, CPU)
        if found is not None:  # a bit that says nothing, such as padding
            assert_same(found, make_clip())
    path.write_bytes(good)
    assert read_clip(path, path.stem, NEEDS, CPU)[0] is not None


def test_a_file_under_another_name_is_foreign(cache: FeatureCache) -> None:
    cache(["video"], NEEDS, Tower(), CPU)
    (path,) = files(cache)
    tower = Tower(seed=1)
    path.rename(cache.folder / f"{content_key(['other video'])}.safetensors")
    assert_same(cache(["other video"], NEEDS, tower, CPU), make_clip(1))
    assert tower.calls == 1


def room_for(n_clips: int) -> int:
    return n_clips * (n_bytes(make_clip(dim=4000)) + feature_cache._HEADER_BYTES)


def total(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def fill(cache: FeatureCache, names) -> None:
    for name in names:
        cache([name], NEEDS, Tower(dim=4000), CPU)
        time.sleep(0.01)  # so that the times of the files differ


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, room_for(4))
    fill(cache, "abcd")
    fill(cache, "a")  # used again
    fill(cache, "e")
    assert total(tmp_path) <= cache.max_bytes
    tower = Tower(dim=4000)
    cache(["a"], NEEDS, tower, CPU)
    cache(["e"], NEEDS, tower, CPU)
    assert tower.calls == 0
    cache(["b"], NEEDS, tower, CPU)
    assert tower.calls == 1


def test_the_cap_holds_whatever_comes(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, room_for(3))
    for name in "abcdefghij":
        fill(cache, name)
        assert total(tmp_path) <= cache.max_bytes
    assert len(files(cache)) >= 2


def test_a_clip_beyond_the_cap_is_not_kept(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / "features", 1000)
    tower = Tower()
    assert_same(cache(["video"], NEEDS, tower, CPU), make_clip())
    assert not cache.folder.exists()


def test_files_of_others_stay(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, room_for(2))
    mine = tmp_path / "model.safetensors"
    mine.write_bytes(bytes(room_for(2)))
    fill(cache, "abcd")
    assert mine.stat().st_size == room_for(2)


def test_forgotten_drafts_go(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, room_for(2))
    key = content_key(["video"])
    old, new = (tmp_path / f".{key}.{digit * 32}.draft" for digit in "01")
    for draft in (old, new):
        draft.write_bytes(b"half of a cl")
    past = time.time() - 2 * feature_cache._STALE_SECONDS
    os.utime(old, (past, past))
    fill(cache, "a")
    assert not old.exists()
    assert new.exists()


def test_a_cap_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one byte"):
        FeatureCache(tmp_path, 0)


@contextmanager
def largest_file(n: int):
    """Let every file that grows beyond ``n`` bytes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_once(cache: FeatureCache, caplog) -> None:
    cache(["kept"], NEEDS, Tower(), CPU)
    tower = Tower(dim=4000)
    with caplog.at_level(logging.WARNING), largest_file(10_000):
        clips = [cache([name], NEEDS, tower, CPU) for name in ("a", "b", "a")]
    (record,) = caplog.records
    assert "cannot be written (" in record.getMessage()
    assert "continuing without it" in record.getMessage()
    assert tower.calls == 3
    for clip in clips:
        assert_same(clip, make_clip(dim=4000))
    assert len(files(cache)) == 1  # no half file, no draft
    cache(["kept"], NEEDS, tower, CPU)
    assert tower.calls == 3  # what is there still serves


def test_a_folder_that_is_a_file_is_said(tmp_path: Path, caplog) -> None:
    (tmp_path / "features").write_text("no folder")
    cache = FeatureCache(tmp_path / "features", MEGABYTE)
    assert_same(cache(["video"], NEEDS, Tower(), CPU), make_clip())
    (record,) = caplog.records
    assert "File exists" in record.getMessage()


def hammer(folder: str, max_bytes: int, seed: int) -> None:
    """Ask for clips in an order of one's own, and check every one."""
    torch.set_num_threads(1)
    cache = FeatureCache(folder, max_bytes)
    order = torch.randint(6, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
    for n in order:
        clip = cache([str(n)], NEEDS if n % 2 else ["tower"], Tower(n, dim=400), CPU)
        assert_same(clip, make_clip(n, tuple(sorted(NEEDS)) if n % 2 else ("tower",), 400))


def test_processes_share_a_folder(tmp_path: Path) -> None:
    one = n_bytes(make_clip(dim=400)) + feature_cache._HEADER_BYTES
    others = [FORK.Process(target=hammer, args=(str(tmp_path), 4 * one, n)) for n in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0, 0]
    assert total(tmp_path) <= 5 * one
    assert all(path.suffix == ".safetensors" for path in tmp_path.iterdir())


def die_before_the_end(cache: FeatureCache) -> None:
    """Write a clip, and be killed when all of it is there but its name."""
    torch.set_num_threads(1)
    Path.replace = lambda self, target: os.kill(os.getpid(), signal.SIGKILL)
    cache(["video"], NEEDS, Tower(), CPU)


def test_a_process_killed_while_it_writes_leaves_nothing_to_trust(cache: FeatureCache) -> None:
    other = FORK.Process(target=die_before_the_end, args=(cache,))
    other.start()
    other.join(60)
    assert other.exitcode == -signal.SIGKILL
    assert [path.suffix for path in files(cache)] == [".draft"]
    tower = Tower()
    assert_same(cache(["video"], NEEDS, tower, CPU), make_clip())
    assert tower.calls == 1


def test_the_embedded_model_answers_the_same_from_the_cache(cache: FeatureCache) -> None:
    task = EmbeddedTask()
    plain, model = VideoLlm(), VideoLlm(remember=cache)
    needs = frozenset({"attention@-2", "tower"})
    sample, other = task.sample(0), task.sample(1)
    with torch.inference_mode():
        wanted = plain.encode(sample, needs)
        for _ in range(2):
            found = model.encode(sample, needs)
            assert_same(found.clip, wanted.clip)
            assert set(found.inputs) == set(wanted.inputs)
        assert (cache.n_hits, cache.n_misses) == (1, 1)
        model.encode(other, needs)
        model.encode(sample.take(4), needs)
        assert (cache.n_hits, cache.n_misses) == (1, 3)
        later = replace(sample, frame_times=sample.frame_times * 2)
        assert torch.equal(model.encode(later, needs).clip.tokens.frame_times, later.frame_times)
        renamed = replace(sample, id="another task's name")
        model.encode(renamed, needs)
        assert cache.n_hits == 2

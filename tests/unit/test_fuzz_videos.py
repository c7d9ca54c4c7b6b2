"""Videos that fail otherwise than by a sentence: the search for them, and what it notices."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")
from fuzz import runner, videos
from fuzz.videos import VIDEOS_KIND, cases


def test_a_seed_says_which_videos_and_they_are_read_or_refused(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    first, again = (list(cases(25, 3, folder)) for folder in folders)
    assert first == again
    found = set()
    for _, data, given in first:
        (tmp_path / "damaged").write_bytes(data)
        found.add(runner.tried(VIDEOS_KIND, tmp_path / "damaged", given))
    assert {"read with remarks", "refused"} <= found <= set(VIDEOS_KIND.outcomes)


@pytest.mark.parametrize("error", [IndexError("no stream"), SystemExit(3)])
def test_what_is_no_sentence_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("tokenred.video.read_video", fail)
    assert runner.tried(VIDEOS_KIND, tmp_path / "x", {}) == f"{type(error).__name__}: {error}"


@pytest.mark.slow
def test_a_process_that_hangs_or_ends_is_noticed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SECONDS", 1.0)
    videos.VIDEOS["plain.mp4"].make(tmp_path / "plain.mp4")
    reader = runner.Reader(VIDEOS_KIND)
    try:
        assert reader.read(tmp_path / "plain.mp4", {"n_frames": 2}).what == "read"
        reader._process.terminate()
        reader._process.join()
        assert reader.read(tmp_path / "plain.mp4", {"n_frames": 2}).what != "read"
        assert reader.read(tmp_path / "plain.mp4", {"n_frames": 2}).what == "read"
    finally:
        reader.close()

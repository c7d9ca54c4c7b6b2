"""Awkward videos: the frames that arrive are those that are named, or one sentence says why not."""

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("av")
import av
from awkward import REFUSED, VIDEOS, numbered, read_number, read_numbers, write_video
from awkward.cases import VFR
from awkward.writing import damage

from tokenred.errors import ConfigError, InputError
from tokenred.video import VideoLimits, read_video, sample_indices
from tokenred.video.sampling import sample_rate, sample_times

N_SAMPLES = 8


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return what makes a video of the corpus, once a session."""
    folder = tmp_path_factory.mktemp("awkward")

    def make(name: str) -> Path:
        path = folder / name
        if not path.exists():
            VIDEOS[name].make(path)
        return path

    return make


def test_numbers_are_read_from_pixels_and_from_nothing_else() -> None:
    pictures = [numbered(n) for n in (0, 1, 511, 1023)]
    assert read_numbers(pictures) == [0, 1, 511, 1023]
    assert read_number(numbered(5)[::-1, ::-1]) is None
    assert read_number(np.full((48, 64, 3), 127)) is None


@pytest.mark.parametrize("name", VIDEOS, ids=ascii)
def test_the_frames_that_arrive_are_those_that_are_named(made: Any, name: str) -> None:
    video = VIDEOS[name]
    clip = read_video(made(name), N_SAMPLES)
    assert clip.frames.shape == (N_SAMPLES, *video.size, 3)
    named = [index + video.first for index in clip.frame_indices]
    wrong = sum(a != b for a, b in zip(read_numbers(clip.frames), named))
    assert wrong <= video.wrong
    assert list(named) == sorted(named)
    if video.n_frames is not None:
        assert clip.n_source_frames == video.n_frames
    if not video.damaged:
        assert clip.frame_indices == sample_indices(clip.n_source_frames, N_SAMPLES)
    assert video.remark in " ".join(clip.remarks)
    if not video.remark:
        assert not any("damaged" in remark or "backwards" in remark for remark in clip.remarks)


@pytest.mark.parametrize("name", VIDEOS, ids=ascii)
def test_time_begins_with_the_first_frame_and_does_not_fall(made: Any, name: str) -> None:
    video = VIDEOS[name]
    clip = read_video(made(name), N_SAMPLES)
    times = clip.frame_times
    assert torch.isfinite(times).all()
    assert (times.diff() >= 0).all()
    if video.times is not None:
        wanted = torch.tensor([video.times[index] / 1000 for index in clip.frame_indices])
        torch.testing.assert_close(times, wanted, atol=2e-3, rtol=0)
    elif not video.damaged and clip.fps in (10, 25):
        wanted = torch.tensor(clip.frame_indices) / clip.fps
        torch.testing.assert_close(times, wanted, atol=2e-3, rtol=0)


@pytest.mark.parametrize("sampling", ["round", "floor", "start"])
@pytest.mark.parametrize("name", ["b-frames.mp4", "b-frames.ts", "raw-b-frames.h264", "vp8.webm"])
def test_a_sample_is_the_same_frame_however_it_is_reached(
    made: Any, name: str, sampling: str
) -> None:
    whole = read_video(made(name), 30)
    assert whole.frame_indices == tuple(range(30))
    for n_frames in (1, 2, 4, 7, 29):
        clip = read_video(made(name), n_frames, sampling)
        assert clip.frame_indices == sample_indices(30, n_frames, sampling)
        assert torch.equal(clip.frames, whole.frames[list(clip.frame_indices)])
        assert clip.n_source_frames == 30
        assert clip.remarks == ()


def test_only_what_is_needed_is_decoded(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four frames of 30 with a key frame every ten: decoding all would be 30."""
    from tokenred.video import decoding

    seen = []
    inner = decoding._frames_from

    def counted(*given: Any) -> Any:
        for index, frame in inner(*given):
            seen.append(index)
            yield index, frame

    monkeypatch.setattr(decoding, "_frames_from", counted)
    assert read_video(made("plain.mp4"), 3, "start").frame_indices == (0, 10, 20)
    assert seen == [0, 10, 20]


class TestTime:
    def test_seconds_count_the_same_by_time(self, made: Any) -> None:
        clip = read_video(made("variable.mkv"), 8, by="time")
        wanted = np.linspace(0, VFR[-1] / 1000, 8)
        assert read_numbers(clip.frames) == list(clip.frame_indices)
        assert np.abs(clip.frame_times.numpy() - wanted).max() <= 2.6
        assert sum(index < 30 for index in clip.frame_indices) == 1
        assert clip.remarks == ()

    def test_by_index_says_how_far_that_is_from_time(self, made: Any) -> None:
        (remark,) = read_video(made("variable.mp4"), 8).remarks
        assert "frames do not come at a steady rate: 6 of 8 samples" in remark
        assert not read_video(made("plain.mp4"), 8).remarks

    def test_frames_a_second_are_those_on_screen(self, made: Any) -> None:
        clip = read_video(made("plain.mp4"), fps=2)
        assert clip.frame_indices == (0, 5, 10, 15, 20, 25)
        assert read_numbers(clip.frames) == [0, 5, 10, 15, 20, 25]
        assert read_video(made("late.mkv"), fps=10).frame_indices == tuple(range(30))
        variable = read_video(made("variable.mp4"), fps=0.1)
        assert variable.frame_indices == (0, 30, 32, 34, 36, 38, 40)

    def test_more_frames_a_second_than_there_are_repeat_some(self, made: Any) -> None:
        clip = read_video(made("plain.mp4"), fps=20)
        assert clip.frame_indices[:4] == (0, 0, 1, 1)
        assert "samples repeat some" in clip.remarks[0]

    @pytest.mark.parametrize("n_frames", [1, 3, 8, 50])
    def test_a_steady_rate_gives_the_same_by_time(self, n_frames: int) -> None:
        times = [0.1 * n for n in range(37)]
        for sampling in ("floor", "start"):
            assert sample_times(times, n_frames, sampling) == sample_indices(37, n_frames, sampling)
        by_time = np.array(sample_times(times, n_frames))
        assert np.abs(by_time - np.array(sample_indices(37, n_frames))).max() <= 1
        assert sample_rate(times, 10) == tuple(range(37))
        assert sample_times([0.0], n_frames, "start") == (0,) * n_frames

    @pytest.mark.parametrize(
        ("given", "error", "sentence"),
        [
            ({}, ConfigError, "a number of frames, or frames a second"),
            ({"n_frames": 4, "fps": 1}, ConfigError, "a number of frames, or frames a second"),
            ({"fps": 0}, InputError, "more than 0"),
            ({"fps": float("nan")}, InputError, "more than 0"),
            ({"n_frames": 4, "by": "mood"}, ConfigError, "by index or time, not 'mood'"),
            ({"n_frames": 4, "sampling": "rund"}, ConfigError, "did you mean 'round'"),
        ],
    )
    def test_what_cannot_be_asked(
        self, made: Any, given: dict[str, Any], error: type[Exception], sentence: str
    ) -> None:
        with pytest.raises(error, match=sentence):
            read_video(made("plain.mp4"), **given)


class TestLimits:
    @pytest.mark.parametrize(
        ("given", "limit"),
        [
            ({"n_frames": 10**6}, "the limit is 4096 (max_frames)"),
            ({"fps": 1e6}, "the limit is 4096 (max_frames)"),
            ({"n_frames": 8, "limits": VideoLimits(max_frames=7)}, "the limit is 7 (max_frames)"),
            (
                {"n_frames": 8, "limits": VideoLimits(max_frame_pixels=3000)},
                "the limit is 3000 (max_frame_pixels)",
            ),
            (
                {"n_frames": 8, "limits": VideoLimits(max_pixels=8 * 64 * 48 - 1)},
                "the limit is 24575 (max_pixels)",
            ),
            (
                {"n_frames": 8, "limits": VideoLimits(max_source_frames=29)},
                "the limit is 29 (max_source_frames)",
            ),
        ],
    )
    def test_what_is_too_large_is_refused_by_the_name_of_the_limit(
        self, made: Any, given: dict[str, Any], limit: str
    ) -> None:
        with pytest.raises(InputError) as caught:
            read_video(made("plain.mp4"), **given)
        assert str(caught.value).endswith(limit)

    @pytest.mark.parametrize("name", ["plain.mp4", "b-frames.ts", "film.gif", "raw.h264"])
    def test_exactly_the_limit_is_no_more_than_it(self, made: Any, name: str) -> None:
        exact = VideoLimits(
            max_frames=8,
            max_frame_pixels=64 * 48,
            max_pixels=8 * 64 * 48,
            max_source_frames=30,
        )
        assert len(read_video(made(name), 8, limits=exact).frames) == 8
        smaller = exact.model_copy(update={"max_frame_pixels": 64 * 48 - 1})
        with pytest.raises(InputError, match="max_frame_pixels"):
            read_video(made(name), 8, limits=smaller)

    def test_unknown_limits_are_errors(self) -> None:
        with pytest.raises(ValueError, match="max_seconds"):
            VideoLimits(max_seconds=3)  # type: ignore[call-arg]


class TestDamage:
    @pytest.mark.parametrize("n_bad", [1, 3, 9])
    @pytest.mark.parametrize(
        ("codec", "suffix"), [("mpeg4", "mp4"), ("libvpx-vp9", "webm"), ("libsvtav1", "mkv")]
    )
    def test_what_can_be_read_is_read(
        self, tmp_path: Path, codec: str, suffix: str, n_bad: int
    ) -> None:
        path = write_video(tmp_path / f"bad.{suffix}", range(60), codec, gop=10)
        damage(path, [5 + 6 * n for n in range(n_bad)])
        clip = read_video(path, 8, limits=VideoLimits(max_damage=1))
        right = sum(a == b for a, b in zip(read_numbers(clip.frames), clip.frame_indices))
        assert right >= 8 - n_bad
        assert "is damaged: of 60 frames" in clip.remarks[0]

    def test_too_much_damage_is_refused_by_its_share(self, made: Any) -> None:
        path = made("damaged-mpeg4.mp4")
        with pytest.raises(InputError, match=r"9 cannot be decoded .* 10% .*\(max_damage\)"):
            read_video(path, 8, limits=VideoLimits(max_damage=0.1))

    def test_damage_looks_the_same_every_time(self, made: Any) -> None:
        first, second = (read_video(made("damaged-libx264.mp4"), 16) for _ in range(2))
        assert torch.equal(first.frames, second.frames)
        assert (first.frame_indices, first.remarks) == (second.frame_indices, second.remarks)

    def test_a_damaged_transport_stream_with_late_streams(self, made: Any, tmp_path: Path) -> None:
        """Bytes that turn into the tables of a new stream end PyAV's iteration by an IndexError."""
        data = bytearray(made("sound.ts").read_bytes())
        generator = np.random.default_rng(0)
        said = []
        for attempt in range(40):
            bad = bytearray(data)
            for at in generator.integers(0, len(bad), 20):
                bad[at] = generator.integers(256)
            path = tmp_path / f"{attempt}.ts"
            path.write_bytes(bytes(bad))
            try:
                read_video(path, 4)
            except InputError as error:
                said.append(str(error))
        assert not any("\n" in each for each in said)


class TestOneFileOnly:
    @pytest.mark.parametrize("name", REFUSED)
    def test_what_names_other_files_or_renders_text_is_no_video(
        self, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / name
        REFUSED[name](path)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(socket, "socket", None)
        opened: list[str] = []
        hook = _watch(opened)
        try:
            for given in (path, name):
                with pytest.raises(InputError) as caught:
                    read_video(given, 4)
        finally:
            hook.append(True)
        assert "\n" not in str(caught.value)
        assert {Path(each).name for each in opened} <= {name}

    def test_a_playlist_says_what_it_is(self, tmp_path: Path) -> None:
        REFUSED["absolute.m3u8"](tmp_path / "a.m3u8")
        with pytest.raises(InputError, match="is a list of other files, not a video"):
            read_video(tmp_path / "a.m3u8", 4)

    @pytest.mark.parametrize("name", [n for n in VIDEOS if ":" in n or n[0] in "-%"])
    def test_names_are_no_protocols_from_their_own_folder_either(
        self, made: Any, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = made(name)
        monkeypatch.chdir(path.parent)
        assert read_numbers(read_video(name, 3).frames) == [0, 14, 29]

    @pytest.mark.parametrize(
        "name",
        [
            "http://127.0.0.1:9/x.mp4",
            "https://example.org/x.mp4",
            "data:video/mp4;base64,AAAA",
            "concat:a|b",
            "file:///etc/hostname",
            "pipe:0",
            "x" * 5000,
            "x" * 300 + ".mp4",
            "a\0b.mp4",
            "two\nlines.mp4",
            "caf\udce9.mp4",
        ],
        ids=lambda name: ascii(name[:20]),
    )
    def test_what_is_no_file_does_not_exist(self, name: str) -> None:
        with pytest.raises(InputError) as caught:
            read_video(name, 4)
        said = str(caught.value)
        assert "\n" not in said
        assert len(said) < 400
        said.encode("utf-8")

    def test_a_pipe_is_no_video_and_nobody_waits_for_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.mp4")
        with pytest.raises(InputError, match="is a device or a pipe, not a video file"):
            read_video(tmp_path / "pipe.mp4", 4)

    def test_a_file_that_may_not_be_read(self, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(InputError, match="cannot be opened: permission denied"):
            read_video(made("plain.mp4"), 4)


_HOOKS: list[tuple[list[str], list[bool]]] = []


def _watch(opened: list[str]) -> list[bool]:
    """Note every file that Python opens, until something is put into the list that is returned."""
    import sys

    done: list[bool] = []

    def note(event: str, given: Any) -> None:
        if event == "open" and not done and isinstance(given[0], str):
            opened.append(given[0])

    sys.addaudithook(note)
    return done


FORMATS = (
    "yuv410p yuv411p yuv422p yuv444p9le yuv420p12le yuv444p14le yuv444p16le yuva420p bgra bgr0 "
    "rgba64le gbrp10le gbrp16le gray9le gray10le gray12le ya8"
)


@pytest.mark.parametrize("pix_fmt", FORMATS.split())
def test_every_pixel_format_is_shown_as_it_looks(tmp_path: Path, pix_fmt: str) -> None:
    path = write_video(tmp_path / "film.mkv", range(3), "ffv1", pix_fmt, gop=None)
    clip = read_video(path, 3)
    assert read_numbers(clip.frames) == [0, 1, 2]
    light = float(clip.frames.max())
    assert 200 <= light <= 235, f"white is {light}"


def test_pixels_that_are_not_square_are_said_to_be_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "wide.mp4", range(4), options={"x264-params": "sar=4/3"})
    clip = read_video(path, 2)
    assert read_numbers(clip.frames) == [0, 3]
    assert clip.remarks == (
        "pixels of wide.mp4 are 1.33 times as wide as high; frames are as stored",
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_turned_as_a_player_turns_them(
    tmp_path: Path, degrees: int, mirrored: bool
) -> None:
    path = write_video(tmp_path / "film.mp4", range(4), turned=(degrees, mirrored))
    clip = read_video(path, 4)
    assert read_numbers(clip.frames) == [0, 1, 2, 3]
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    if not mirrored:
        assert frame.rotation % 360 == degrees
        stored = frame.to_ndarray(format="rgb24")
        assert np.array_equal(clip.frames[0].numpy(), np.rot90(stored, degrees // 90))

"""Reading video files: the files are written here, with PyAV."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from tokenred.errors import InputError
from tokenred.video import read_video, sample_indices

av = pytest.importorskip("av")
Disposition = pytest.importorskip("av.stream").Disposition

COLOURS = 12  # frame i has grey level 20 * i, so a frame can be told from its neighbours


def write_video(path, n_frames=12, width=64, height=48, fps=10, stamps=None, codec="mpeg4"):
    """Write grey frames that get lighter; ``stamps`` are presentation times in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv420p"
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(n_frames):
            picture = np.full((height, width, 3), 20 * (index % COLOURS), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_audio(container, seconds=0.2):
    stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
    samples = np.zeros((1, int(8000 * seconds)), dtype=np.int16)
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def levels(clip):
    """Grey level of every frame, as the frame number that it was written with."""
    return (clip.frames.float().mean(dim=(1, 2, 3)) / 20).round().long().tolist()


@pytest.mark.parametrize(
    ("n_source", "n_frames", "expected"),
    [(12, 4, (0, 4, 7, 11)), (12, 1, (0,)), (5, 5, (0, 1, 2, 3, 4)), (2, 4, (0, 0, 1, 1))],
)
def test_sample_indices_run_from_first_to_last(n_source, n_frames, expected):
    assert sample_indices(n_source, n_frames) == expected


def test_read_video_takes_the_frames_that_it_names(tmp_path):
    clip = read_video(write_video(tmp_path / "plain.mp4"), 4)
    assert clip.frames.shape == (4, 48, 64, 3)
    assert clip.frames.dtype == torch.uint8
    assert clip.frame_indices == (0, 4, 7, 11)
    assert levels(clip) == [0, 4, 7, 11]
    assert clip.n_source_frames == 12
    assert clip.fps == 10
    assert torch.allclose(clip.frame_times, torch.tensor([0.0, 0.4, 0.7, 1.1]))
    assert clip.remarks == ()


def test_read_video_counts_where_the_file_does_not_say(tmp_path):
    path = write_video(tmp_path / "uncounted.mkv")
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    clip = read_video(path, 3)
    assert clip.n_source_frames == 12
    assert levels(clip) == [0, 6, 11]


def test_read_video_repeats_with_a_remark(tmp_path):
    clip = read_video(write_video(tmp_path / "short.mp4", n_frames=3), 5)
    assert clip.frame_indices == (0, 0, 1, 2, 2)
    assert levels(clip) == [0, 0, 1, 2, 2]
    assert clip.remarks == ("short.mp4 holds 3 frames, so 5 samples repeat some",)


def test_read_video_of_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", n_frames=1)
    clip = read_video(path, 1)
    assert clip.frame_indices == (0,)
    assert clip.remarks == ()
    assert read_video(path, 2).frame_indices == (0, 0)


@pytest.mark.parametrize(("width", "height"), [(63, 48), (64, 47), (63, 47)])
def test_read_video_keeps_odd_sizes(tmp_path, width, height):
    path = write_video(tmp_path / "odd.avi", width=width, height=height, codec="ffv1")
    clip = read_video(path, 2)
    assert clip.frames.shape == (2, height, width, 3)
    assert levels(clip) == [0, 11]


def test_read_video_tells_real_times_at_a_variable_rate(tmp_path):
    stamps = [0, 100, 200, 300, 1300, 2300]
    path = write_video(tmp_path / "variable.mkv", n_frames=6, stamps=stamps)
    clip = read_video(path, 6)
    assert levels(clip) == [0, 1, 2, 3, 4, 5]
    assert torch.allclose(clip.frame_times, torch.tensor(stamps) / 1000, atol=2e-3)


def test_read_video_counts_again_when_the_file_overstates(tmp_path):
    path = write_video(tmp_path / "whole.avi", n_frames=12, codec="ffv1")
    data = path.read_bytes()
    start = data.index(b"movi")
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: start + (len(data) - start) // 2])
    with av.open(str(cut)) as container:
        assert container.streams.video[0].frames == 12
    clip = read_video(cut, 4)
    assert 1 < clip.n_source_frames < 12
    assert clip.frame_indices == sample_indices(clip.n_source_frames, 4)
    assert levels(clip) == list(clip.frame_indices)
    assert f"announces 12 frames but holds {clip.n_source_frames}" in clip.remarks[0]


def test_read_video_ignores_sound_beside_the_picture(tmp_path):
    path = tmp_path / "both.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        write_audio(container)
        for index in range(3):
            picture = np.full((48, 64, 3), 20 * index, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert levels(read_video(path, 3)) == [0, 1, 2]


def missing(folder):
    return folder / "nowhere.mp4"


def directory(folder):
    return folder


def empty(folder):
    path = folder / "empty.mp4"
    path.touch()
    return path


def text(folder):
    path = folder / "text.mp4"
    path.write_text("This is not a video.\n" * 50)
    return path


def truncated(folder):
    path = write_video(folder / "truncated.mp4")
    path.write_bytes(path.read_bytes()[:400])
    return path


def audio_only(folder):
    path = folder / "sound.wav"
    with av.open(str(path), "w") as container:
        write_audio(container)
    return path


def cover_only(folder):
    path = folder / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode()])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux([*sound.encode(silence), *sound.encode()])
    return path


def no_frames(folder):
    path = write_video(folder / "header.avi")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])
    return path


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (missing, r"nowhere\.mp4 does not exist"),
        (directory, r"is a directory, not a video file"),
        (empty, r"empty\.mp4 is empty"),
        (text, r"text\.mp4 cannot be decoded as video: "),
        (truncated, r"truncated\.mp4 cannot be decoded as video: "),
        (audio_only, r"sound\.wav holds no video, only audio"),
        (cover_only, r"song\.m4a holds no video, only a cover picture and audio"),
        (no_frames, r"header\.avi (holds no frame that can be decoded|cannot be decoded)"),
    ],
)
def test_read_video_explains_in_one_sentence(tmp_path, make, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        read_video(make(tmp_path), 4)
    assert "\n" not in str(caught.value)


def test_read_video_wants_at_least_one_frame(tmp_path):
    with pytest.raises(InputError, match="at least one frame"):
        read_video(write_video(tmp_path / "plain.mp4"), 0)

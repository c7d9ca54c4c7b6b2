"""Read frames of a video file, uniformly sampled, with PyAV."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import ConfigError, InputError, nearest

SAMPLINGS = ("round", "floor", "start")


@dataclass(frozen=True)
class VideoClip:
    """Sampled frames of one video, as they are stored: rotation metadata is ignored.

    Attributes
    ----------
    frames : (frames, height, width, 3) uint8, RGB
    frame_indices : index of every sampled frame in the file, from 0
    frame_times : (frames,) seconds since the file's first frame
    fps : average frames per second of the file; 0 where it does not say
    n_source_frames : frames that the file holds
    remarks : what a reader of the result should know, one sentence each
    """

    frames: UInt8[Tensor, "frames height width 3"]
    frame_indices: tuple[int, ...]
    frame_times: Float[Tensor, "frames"]
    fps: float
    n_source_frames: int
    remarks: tuple[str, ...] = ()


def sample_indices(n_source_frames: int, n_frames: int, sampling: str = "round") -> tuple[int, ...]:
    """Return ``n_frames`` indices, uniformly spread.

    Parameters
    ----------
    sampling : ``round`` and ``floor`` spread them from the first frame to the last, both included,
        and take the nearest whole numbers, or the next lower ones as LLaVA-NeXT does; ``start``
        takes the first frame of each of ``n_frames`` equal pieces, as transformers does
    """
    if sampling == "start":
        return tuple(int(index * n_source_frames / n_frames) for index in range(n_frames))
    spread = np.linspace(0, n_source_frames - 1, n_frames)
    return tuple(int(index) for index in (spread.round() if sampling == "round" else spread))


def read_video(path: str | PathLike[str], n_frames: int, sampling: str = "round") -> VideoClip:
    """Read ``n_frames`` frames, uniformly spread over the file.

    A file that does not say how many frames it holds, or says it wrongly, is decoded once more to
    count them. A file with fewer frames than asked for repeats some, with a remark.

    Parameters
    ----------
    path : a file in any format that FFmpeg reads
    n_frames : how many frames to sample, at least 1
    sampling : ``round``, ``floor`` or ``start``, see ``sample_indices``

    Raises
    ------
    ConfigError
        If there is no such sampling.
    InputError
        If the file is missing, a directory, empty, corrupt, or holds no moving picture.
    """
    path = Path(path)
    if n_frames < 1:
        raise InputError(f"at least one frame must be sampled, not {n_frames}")
    if sampling not in SAMPLINGS:
        raise ConfigError(f"unknown sampling '{sampling}'{nearest(sampling, SAMPLINGS)}")
    _check_file(path)
    announced, fps = _describe(path)
    n_source = announced or _count(path)
    decoded, n_decoded = _decode(path, sample_indices(n_source, n_frames, sampling))
    remarks = []
    if n_decoded < n_source:
        remarks.append(f"{path.name} announces {n_source} frames but holds {n_decoded}")
        n_source = n_decoded
        decoded, _ = _decode(path, sample_indices(n_source, n_frames, sampling))
    if n_source < n_frames:
        remarks.append(f"{path.name} holds {n_source} frames, so {n_frames} samples repeat some")
    indices = sample_indices(n_source, n_frames, sampling)
    times = [_seconds(decoded[index][1], index, fps) for index in indices]
    return VideoClip(
        frames=torch.from_numpy(np.stack([decoded[index][0] for index in indices])),
        frame_indices=indices,
        frame_times=torch.tensor(times, dtype=torch.float32),
        fps=fps,
        n_source_frames=n_source,
        remarks=tuple(remarks),
    )


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory, not a video file")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")


def _describe(path: Path) -> tuple[int, float]:
    """Return the announced number of frames (0 if the file does not say) and the frame rate."""
    with _opened(path) as (_, stream):
        return stream.frames, float(stream.average_rate or 0)


def _count(path: Path) -> int:
    with _opened(path) as (container, stream):
        n_frames = sum(1 for _ in container.decode(stream))
    if n_frames == 0:
        raise InputError(f"{path} holds no frame that can be decoded")
    return n_frames


def _decode(
    path: Path, indices: Sequence[int]
) -> tuple[dict[int, tuple[np.ndarray, float | None]], int]:
    """Return picture and time of the wanted frames, and how many frames were decoded."""
    wanted, last = set(indices), max(indices)
    decoded: dict[int, tuple[np.ndarray, float | None]] = {}
    n_decoded, first, start = 0, None, None
    with _opened(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            n_decoded = index + 1
            if first is None:
                first, start = frame, frame.time
            if index in wanted:
                # A stream may change its size midway; all frames take the size of the first.
                picture = frame.to_ndarray(format="rgb24", width=first.width, height=first.height)
                known = frame.time is not None and start is not None
                decoded[index] = picture, frame.time - start if known else None
            if index == last:
                break
    if n_decoded == 0:
        raise InputError(f"{path} holds no frame that can be decoded")
    return decoded, n_decoded


def _seconds(stamp: float | None, index: int, fps: float) -> float:
    if stamp is not None:
        return stamp
    return index / fps if fps else float(index)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file at its first moving picture; every fault becomes one sentence."""
    try:
        import av
    except ImportError as error:
        raise InputError("reading video needs PyAV: pip install 'tokenred[video]'") from error
    try:
        with av.open(str(path)) as container:
            stream = next((each for each in container.streams.video if not _is_cover(each)), None)
            if stream is None:
                raise InputError(f"{path} holds no video, only {_kinds(container)}")
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise InputError(f"{path} cannot be decoded as video: {error.strerror}") from error


def _is_cover(stream: Any) -> bool:
    """Say whether a stream is the cover picture of an audio file."""
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _kinds(container: Any) -> str:
    """Name what a file without moving picture holds instead."""
    kinds = {"a cover picture" if each.type == "video" else each.type for each in container.streams}
    return " and ".join(sorted(kinds)) or "no streams"

"""Write numbered frames with PyAV, and damage what was written."""

import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from awkward.pixels import numbered

os.environ.setdefault("SVT_LOG", "1")  # an encoder that talks on stderr
QUIET = {
    "libx264": {"preset": "ultrafast", "threads": "1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx": {"deadline": "good", "cpu-used": "4", "threads": "1", "b": "1M"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "mpeg4": {"qscale": "3"},
}
"""Options of encoders: quick, silent, and the same on every machine."""


def write_video(
    path: Path,
    numbers: Iterable[int] = range(30),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    rate: int = 10,
    stamps: Sequence[int] | None = None,
    options: Mapping[str, str] | None = None,
    gop: int | None = 10,
    format: str | None = None,
    muxer: Mapping[str, str] | None = None,
    title: str | None = None,
    metadata_encoding: str = "utf-8",
    turned: tuple[float, bool] = (0, False),
) -> Path:
    """Write numbered frames.

    Parameters
    ----------
    stamps : presentation times in 1/1000 s; by default the frames follow at ``rate``
    options, muxer : of the encoder, of the container
    gop : frames from one key frame to the next
    turned : degrees, and whether the picture is mirrored, as the container tells a player
    """
    with create(path, format=format, muxer=muxer, metadata_encoding=metadata_encoding) as container:
        if title is not None:
            container.metadata["title"] = title
        stream = add_stream(container, codec, pix_fmt, size, rate, options, gop)
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if turned != (0, False):
            stream.set_display_rotation(turned[0], hflip=turned[1])
        for index, number in enumerate(numbers):
            stamp = index if stamps is None else stamps[index]
            base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
            container.mux(encode(stream, number, stamp, base, turned))
        container.mux(stream.encode())
    return path


def create(path: Path, muxer: Mapping[str, str] | None = None, **settings: Any) -> Any:
    """Open a container for writing, which gets no random number of its own."""
    options = {"fflags": "+bitexact", **(muxer or {})}
    return av.open(str(path), "w", options=options, **settings)


def add_stream(
    container: Any,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    rate: int = 10,
    options: Mapping[str, str] | None = None,
    gop: int | None = 10,
) -> Any:
    """Add a stream of numbered frames to a container that is being written."""
    stream = container.add_stream(
        codec, rate=rate, options={**QUIET.get(codec, {}), **(options or {})}
    )
    stream.width, stream.height = size
    stream.pix_fmt = pix_fmt
    if gop is not None:
        stream.codec_context.gop_size = gop
    return stream


def encode(
    stream: Any, number: int, stamp: int, base: Fraction, turned: tuple[float, bool] = (0, False)
) -> Any:
    """Encode one numbered frame, turned so that a player turns it back."""
    quarters, mirrored = int(turned[0]) // 90, turned[1]
    size = (stream.width, stream.height)
    seen = numbered(number, *(size[::-1] if quarters % 2 else size))
    stored = np.rot90(seen[:, ::-1] if mirrored else seen, -quarters)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(stored), "rgb24")
    frame = frame.reformat(format=stream.pix_fmt)
    frame.pts, frame.time_base = stamp, base
    return stream.encode(frame)


def damage(path: Path, packets: Iterable[int], bits: int = 0xFF, share: float = 0.5) -> Path:
    """Overwrite the middle of some packets of the first video, counted as they are stored.

    Parameters
    ----------
    bits : each byte is combined with it by exclusive or
    share : of the packet that is overwritten
    """
    wanted = set(packets)
    with av.open(str(path)) as container:
        stored = [bytes(each) for each in container.demux(container.streams.video[0])]
    data, place = bytearray(path.read_bytes()), 0
    for index, payload in enumerate(each for each in stored if each):
        found = data.find(payload, place)
        if found < 0:  # a container that cuts packets, such as a transport stream
            found = data.find(payload[:60], place)
            payload = payload[:60]
        assert found >= 0, f"packet {index} is not stored as it is read"
        place = found + len(payload)
        if index in wanted:
            middle = len(payload) // 2
            half = max(1, int(len(payload) * share / 2))
            for at in range(found + middle - half, found + middle + half):
                if found <= at < place:
                    data[at] ^= bits
    path.write_bytes(bytes(data))
    return path


def cut(path: Path, share: float) -> Path:
    """Keep the first part of a file."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path

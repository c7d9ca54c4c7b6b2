"""Find out what a file holds by reading its packets, without decoding one.

Headers are often wrong, and nobody can tell when: a fragmented file counts its first fragment, a
recording that was cut counts what is no longer there. Packets are what there is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenred.errors import InputError
from tokenred.video.limits import VideoLimits

_MAX_FAULTS = 64
"""Errors in a row after which a container is at its end."""
_FULL = 0.5
"""A stream with less than this share of the frames of the longest is a preview, not the film."""


@dataclass(frozen=True)
class KeyFrame:
    """Where decoding can start.

    Attributes
    ----------
    index : of the frame, in the order in which frames are shown
    pts, dts : time stamps of its packet, in the time base of the stream
    """

    index: int
    pts: int
    dts: int | None


@dataclass(frozen=True)
class Track:
    """One moving picture of a file.

    Attributes
    ----------
    stream : index in the container
    stamps : presentation time of every frame, in the order in which frames are shown, in the time
        base of the stream; None where some are unknown or occur twice
    times : seconds since the first frame, of every frame
    keys : where decoding can start, if there are stamps
    announced : frames according to the header, 0 where it does not say
    stored : frames that packets hold, with those that an edit list leaves out
    fps : average frames per second, 0 where nobody knows
    restarts : frames at which time stamps run backwards
    base : seconds of one unit of time, 0 where nobody knows
    pixel_shape : width of a pixel over its height
    """

    stream: int
    stamps: tuple[int, ...] | None
    times: tuple[float, ...]
    keys: tuple[KeyFrame, ...]
    announced: int
    stored: int
    fps: float
    restarts: tuple[int, ...]
    base: float
    pixel_shape: float

    @property
    def n_frames(self) -> int:
        """Frames to be shown, one a packet."""
        return len(self.times)


@dataclass
class _Packets:
    """What is kept of the packets of a stream."""

    pts: list[int | None] = field(default_factory=list)
    dts: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    stored: int = 0


def find_track(container: Any, limits: VideoLimits, name: str) -> tuple[Track, int]:
    """Return the film of a file, and how many moving pictures there are.

    Covers and previews are no film; of several films, the default one is, or the first.

    Raises
    ------
    InputError
        If the file holds no frame, or more than the limits allow.
    """
    streams = _moving(container, limits, name)
    found = {stream.index: _Packets() for stream in streams}
    for packet in packets(container, streams):
        kept = found[packet.stream.index]
        kept.stored += 1
        if not packet.is_discard and _is_shown(packet):
            if packet.is_keyframe:
                kept.keys.append(len(kept.pts))
            kept.pts.append(packet.pts)
            kept.dts.append(packet.dts)
            if len(kept.pts) > limits.max_source_frames:
                limits.check("max_source_frames", len(kept.pts), f"frames and more in {name}")
    lengths = {stream.index: len(found[stream.index].pts) for stream in streams}
    longest = max(lengths.values())
    if longest == 0:
        raise InputError(f"{name} holds no frame that can be decoded")
    films = [stream for stream in streams if lengths[stream.index] >= _FULL * longest]
    film = next((stream for stream in films if _is_default(stream)), films[0])
    return _track(film, found[film.index]), len(streams)


def packets(container: Any, streams: Sequence[Any]) -> Iterator[Any]:
    """Yield the packets of some streams, and go on behind what cannot be read.

    A stream that turns up late (transport streams have such) ends PyAV's iteration by an
    ``IndexError``, damage may end it by another one; the container stands behind it then. The last
    packet of a file that was cut is left out where it is not whole.
    """
    import av

    faults, before = 0, None
    while faults < _MAX_FAULTS:
        try:
            for packet in container.demux(*streams):
                if packet.size:
                    faults = 0
                    if before is not None:
                        yield before
                    before = packet
            break
        except (av.FFmpegError, LookupError, ValueError):
            faults += 1
    if before is not None and not before.is_corrupt:
        yield before


def _moving(container: Any, limits: VideoLimits, name: str) -> list[Any]:
    """Return the streams of moving pictures that can be decoded."""
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    moving = [each for each in container.streams.video if not each.disposition & still]
    if not moving:
        kinds = {"a cover picture" if e.type == "video" else e.type for e in container.streams}
        raise InputError(
            f"{name} holds no video, only {' and '.join(sorted(kinds)) or 'no streams'}"
        )
    known = [each for each in moving if each.codec_context is not None]
    if not known:
        raise InputError(f"{name} holds video in a format that cannot be decoded here")
    for each in known:
        width, height = each.codec_context.width, each.codec_context.height
        what = f"pixels in a frame of {name} ({width}x{height})"
        limits.check("max_frame_pixels", width * height, what)
    return known


def _is_shown(packet: Any) -> bool:
    """Say whether a packet is a frame to be seen; VP8 has some that only others refer to."""
    if packet.stream.codec_context.name not in ("vp8", "libvpx"):
        return True
    return bool(memoryview(packet)[0] >> 4 & 1)


def _is_default(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.default)


def _track(stream: Any, kept: _Packets) -> Track:
    starts = [0, *_restarts(kept)]
    ends = [*starts[1:], len(kept.pts)]
    known = [each for each in kept.pts if each is not None]
    certain = len(known) == len(kept.pts)
    unique = certain and len(starts) == 1 and len(set(known)) == len(known)
    order = sorted(range(len(known)), key=known.__getitem__) if unique else []
    places = {packet: index for index, packet in enumerate(order)}
    keys = [KeyFrame(places[at], known[at], kept.dts[at]) for at in kept.keys] if unique else []
    rate = stream.average_rate if certain else stream.guessed_rate or stream.average_rate
    fps = float(rate or 0)
    base = float(stream.time_base or 0)
    sections = [sorted(known[a:b]) for a, b in zip(starts, ends)] if certain and base else None
    return Track(
        stream=stream.index,
        stamps=tuple(sorted(known)) if unique else None,
        times=_times(sections, base, fps) if sections else evenly(len(kept.pts), fps),
        keys=tuple(sorted(keys, key=lambda key: key.index)),
        announced=stream.frames,
        stored=kept.stored,
        fps=fps,
        restarts=tuple(starts[1:]),
        base=base,
        pixel_shape=float(stream.sample_aspect_ratio or 1),
    )


def _restarts(kept: _Packets) -> list[int]:
    """Return the packets at which time stamps run backwards.

    A key frame is shown behind all that is stored before it, or a recording begins anew. Packets
    without presentation times have at least times at which they are decoded.
    """
    keys = set(kept.keys)
    found: list[int] = []
    latest: int | None = None
    for n, stamps in enumerate(zip(kept.pts, kept.dts)):
        stamp = next((each for each in stamps if each is not None), None)
        if stamp is None:
            continue
        if latest is not None and n in keys and stamp < latest:
            found.append(n)
            latest = stamp
        latest = stamp if latest is None else max(latest, stamp)
    return found


def _times(sections: Sequence[Sequence[int]], base: float, fps: float) -> tuple[float, ...]:
    """Return seconds since the first frame; what starts anew follows what was before."""
    times: list[float] = []
    for stamps in sections:
        begin = 0.0
        if times:
            step = 1 / fps if fps else (times[-1] - times[-2] if len(times) > 1 else 0.0)
            begin = times[-1] + step
        times += [begin + (stamp - stamps[0]) * base for stamp in stamps]
    return tuple(times)


def evenly(n_frames: int, fps: float) -> tuple[float, ...]:
    """Return the times of frames that follow at a constant rate; one a second if it is unknown."""
    return tuple(index / fps if fps else float(index) for index in range(n_frames))

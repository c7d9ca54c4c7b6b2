"""Fetch frames: by seeking to the key frames before them, or by decoding all where that fails.

Seeking is trusted as long as every frame that comes has the very time stamp that the packets
promised. One surprise (an error, a frame too many, one too few), and the whole file is decoded
instead, by one thread so that damage looks the same every time, and what is lost is counted.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenred.video.limits import VideoLimits
from tokenred.video.opening import opened
from tokenred.video.pictures import Pictures
from tokenred.video.scanning import KeyFrame, Track, evenly, packets

_BACK_SECONDS = 3.0
"""How far before a key frame to seek, where seeking to it went too far."""
_MAX_FLUSHES = 64


class Unreliable(Exception):
    """What is decoded is not what the packets promised; never leaves this package."""


def fetch(container: Any, track: Track, pictures: Pictures, limits: VideoLimits) -> None:
    """Decode sampled frames from the key frames before them.

    Raises
    ------
    Unreliable
        If the file does not give what its packets promise.
    """
    if track.stamps is None:
        raise Unreliable
    stream = container.streams[track.stream]
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"max_pixels": str(limits.max_frame_pixels)}
    run: Iterator[tuple[int, Any]] = iter(())
    at = -1
    for index in pictures.wanted:
        key = _key_before(track, index)
        if at < 0 or (key is not None and key.index > at):
            run = _frames_from(container, stream, track, key)
        for at, frame in run:
            if at == index:
                pictures.take(index, frame)
                break
        else:
            raise Unreliable


def _key_before(track: Track, index: int) -> KeyFrame | None:
    """Return the last key frame up to a frame; None: decoding starts with the file."""
    place = bisect_right(track.keys, index, key=lambda key: key.index)
    return track.keys[place - 1] if place else None


def _frames_from(
    container: Any, stream: Any, track: Track, key: KeyFrame | None
) -> Iterator[tuple[int, Any]]:
    """Yield (index, frame) from a key frame on."""
    import av

    assert track.stamps is not None
    index = key.index if key else 0
    first = track.stamps[index]
    try:
        for packet in _packets_from(container, stream, track, key):
            for frame in stream.decode(packet):
                if frame.pts is not None and frame.pts < first:
                    continue  # shown before the key frame, and decoded after it
                if frame.is_corrupt or frame.pts != track.stamps[index]:
                    raise Unreliable
                yield index, frame
                index += 1
    except (av.FFmpegError, LookupError, ValueError) as error:
        raise Unreliable from error


def _packets_from(container: Any, stream: Any, track: Track, key: KeyFrame | None) -> Iterator[Any]:
    """Yield packets from a key frame on, and None behind the last one."""
    assert track.stamps is not None
    target = track.stamps[0] if key is None else key.pts if key.dts is None else key.dts
    back = int(_BACK_SECONDS / track.base) if track.base else 0
    for attempt in (target, target - back):
        container.seek(attempt, stream=stream)
        found = key is None
        for packet in packets(container, [stream]):
            found = found or (key is not None and packet.is_keyframe and packet.pts == key.pts)
            if found:
                yield packet
            elif key and key.dts is not None and (packet.dts or key.dts) > key.dts:
                break
        if found:
            yield None
            return
    raise Unreliable


@dataclass(frozen=True)
class Survey:
    """What decoding a whole file gave.

    Attributes
    ----------
    places : index of every decoded frame, in the order in which frames came
    whole : which of them show no damage, nor refer to a frame that does
    times : seconds since the first frame, of every frame, lost ones included
    n_lost, n_disturbed : frames that cannot be decoded, and those that are decoded in part
    """

    places: tuple[int, ...]
    whole: tuple[int, ...]
    times: tuple[float, ...]
    n_lost: int
    n_disturbed: int

    def stand_in(self, index: int, reach: float) -> int:
        """Return the frame to show for another one: itself, if it is whole.

        Parameters
        ----------
        reach : how many frames away a whole one may be; beyond it, any decoded one will do
        """
        found = _nearest(self.whole, index)
        if found is None or abs(found - index) > reach:
            found = _nearest(self.places, index)
        assert found is not None
        return found


def _nearest(places: Sequence[int], index: int) -> int | None:
    after = bisect_left(places, index)
    around = places[max(after - 1, 0) : after + 1]
    return min(around, key=lambda each: abs(each - index), default=None)


def survey(path: Path, track: Track, limits: VideoLimits) -> Survey:
    """Decode a whole file, and find out which of its frames are there."""
    stamps: list[int | None] = []
    disturbed: list[int] = []
    faults: list[Exception] = []
    for frame in _decode_all(path, track, limits, faults):
        if frame.is_corrupt:
            disturbed.append(len(stamps))
        stamps.append(frame.pts)
    places, times = _placed(track, stamps)
    n_lost = max(track.n_frames - len(stamps), 0)
    if not faults and abs(n_lost - len(stamps)) <= 1:  # two packets a frame, one for each field
        times = tuple(times[each] - times[places[0]] for each in places)
        places, n_lost = tuple(range(len(stamps))), 0
    affected = [places[each] for each in disturbed]
    lost = sorted({*range(len(times))} - {*places})
    return Survey(
        places=places,
        whole=tuple(sorted({*places} - _referring(track, [*lost, *affected]))),
        times=times,
        n_lost=n_lost,
        n_disturbed=len(disturbed),
    )


def _placed(
    track: Track, stamps: Sequence[int | None]
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the index of every decoded frame, and the times of all frames of the file."""
    rising = all(a is not None and b is not None and a < b for a, b in pairwise(stamps))
    promised = {at: n for n, at in enumerate(track.stamps or ())}
    if stamps and rising and all(stamp in promised for stamp in stamps):
        return tuple(promised[stamp] for stamp in stamps if stamp is not None), track.times
    same = len(stamps) == track.n_frames
    times = track.times if same else evenly(len(stamps), track.fps)
    return tuple(range(len(stamps))), times


def _referring(track: Track, damaged: Iterable[int]) -> set[int]:
    """Return damaged frames with all that may refer to them: up to the next key frame."""
    found: set[int] = set()
    keys = [key.index for key in track.keys]
    end = 0
    for each in sorted(damaged):
        if each >= end:
            place = bisect_right(keys, each)
            end = keys[place] if place < len(keys) else max(track.n_frames, each + 1)
            found.update(range(each, end))
    return found


def collect_samples(
    path: Path, track: Track, found: Survey, pictures: Pictures, limits: VideoLimits
) -> None:
    """Decode a whole file once more, and take the sampled frames."""
    wanted, last = set(pictures.wanted), pictures.wanted[-1]
    for place, frame in zip(found.places, _decode_all(path, track, limits, [])):
        if place in wanted:
            pictures.take(place, frame)
        if place >= last:
            break


def _decode_all(
    path: Path, track: Track, limits: VideoLimits, faults: list[Exception]
) -> Iterator[Any]:
    """Yield all frames that can be decoded, by one thread; note what goes wrong on the way."""
    import av
    from av.codec.context import Flags

    with opened(path) as container:
        stream = container.streams[track.stream]
        context = stream.codec_context
        context.thread_type, context.thread_count = "NONE", 1
        context.flags |= Flags.output_corrupt  # frames that refer to lost ones are better than none
        context.options = {"max_pixels": str(limits.max_frame_pixels)}

        def frames_of(packet: Any) -> list[Any] | None:
            try:
                return list(stream.decode(packet))
            except EOFError:
                return None
            except (av.FFmpegError, LookupError, ValueError) as error:
                faults.append(error)
                return []

        for packet in packets(container, [stream]):
            yield from frames_of(packet) or ()
        for _ in range(_MAX_FLUSHES):
            n_faults = len(faults)
            yield from frames_of(None) or ()
            if len(faults) == n_faults:
                return

"""Read sampled frames of a video file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from os import PathLike
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tokenred.errors import ConfigError, InputError, nearest, shown
from tokenred.video.decoding import Survey, Unreliable, collect_samples, fetch, survey
from tokenred.video.limits import DEFAULT_LIMITS, VideoLimits
from tokenred.video.opening import opened
from tokenred.video.pictures import Pictures
from tokenred.video.sampling import (
    BY,
    SAMPLINGS,
    far_apart,
    rate_length,
    sample_indices,
    sample_rate,
    sample_times,
)
from tokenred.video.scanning import Track, find_track


@dataclass(frozen=True)
class VideoClip:
    """Sampled frames of one video, as a player shows them: upright, the right way round.

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


@dataclass(frozen=True)
class _Wish:
    """Which frames somebody wants."""

    n_frames: int | None
    sampling: str
    by: str
    fps: float | int | None

    def check(self) -> None:
        if self.sampling not in SAMPLINGS:
            raise ConfigError(
                f"unknown sampling '{self.sampling}'{nearest(self.sampling, SAMPLINGS)}"
            )
        if self.by not in BY:
            raise ConfigError(f"frames are sampled by {' or '.join(BY)}, not '{self.by}'")
        if (self.n_frames is None) == (self.fps is None):
            raise ConfigError("give a number of frames, or frames a second (fps)")
        if self.n_frames is not None and self.n_frames < 1:
            raise InputError(f"at least one frame must be sampled, not {self.n_frames}")
        if self.fps is not None and not (isfinite(self.fps) and self.fps > 0):
            raise InputError(f"frames a second must be more than 0, not {self.fps}")

    def length(self, times: Sequence[float]) -> int:
        """Return how many frames there will be."""
        return self.n_frames or rate_length(times, self.fps or 1)

    def choose(self, times: Sequence[float]) -> tuple[int, ...]:
        """Return the indices of the samples."""
        if self.fps is not None:
            return sample_rate(times, self.fps)
        if self.by == "time":
            return sample_times(times, self.length(times), self.sampling)
        return sample_indices(len(times), self.length(times), self.sampling)


def read_video(
    path: str | PathLike[str],
    n_frames: int | None = None,
    sampling: str = "round",
    *,
    by: str = "index",
    fps: float | int | None = None,
    limits: VideoLimits = DEFAULT_LIMITS,
) -> VideoClip:
    """Read frames of a video, uniformly spread over the file.

    Frames are counted by reading the packets of the file, whatever its header says, and fetched by
    seeking. Of several videos in a file the film is read, no cover and no preview. Frames are
    turned as a player turns them; transparency is left out. In a damaged file the nearest whole
    frame stands for one that cannot be decoded. A file with fewer frames than asked for repeats
    some. What departs from the file is said in a remark.

    Parameters
    ----------
    path : a file in any format of video or image that FFmpeg reads; playlists, which name other
        files, are no videos, and nothing but the file itself is opened
    n_frames : how many frames to sample, at least 1
    sampling : ``round``, ``floor`` or ``start``, see ``sample_indices``
    by : spread by ``index``, so that each frame counts the same, or by ``time``, so that each
        second does; they differ where the frame rate varies
    fps : frames a second instead of a number of them: those on screen every ``1 / fps`` seconds
    limits : how large a video may be, and how damaged

    Raises
    ------
    ConfigError
        If there is no such sampling, or not exactly one of ``n_frames`` and ``fps`` is given.
    InputError
        If the file is missing, a directory, empty, corrupt, holds no moving picture, or exceeds a
        limit, which the error names.
    """
    path = Path(path)
    wish = _Wish(n_frames, sampling, by, fps)
    wish.check()
    if n_frames is not None:
        limits.check("max_frames", n_frames, "frames are asked for")
    name = shown(path.name)
    with opened(path) as container:
        track, n_videos = find_track(container, limits, shown(path))
        remarks = _about_the_file(track, n_videos, name)
        _check_length(wish, track.times, limits, name)
        pictures = Pictures(wish.choose(track.times), limits, name)
        try:
            fetch(container, track, pictures, limits)
        except Unreliable:
            pictures = Pictures((), limits, name)
    if not pictures.indices:
        track, pictures, damage = _read_whatever_is_left(path, track, wish, limits)
        remarks += damage
    remarks += pictures.remarks
    remarks += _about_the_samples(wish, track.times, len(pictures.indices), name)
    return VideoClip(
        frames=torch.from_numpy(pictures.pixels),
        frame_indices=pictures.indices,
        frame_times=torch.tensor(
            [track.times[index] for index in pictures.indices], dtype=torch.float32
        ),
        fps=track.fps,
        n_source_frames=track.n_frames,
        remarks=tuple(remarks),
    )


def _read_whatever_is_left(
    path: Path, track: Track, wish: _Wish, limits: VideoLimits
) -> tuple[Track, Pictures, list[str]]:
    """Read a file that is damaged, or does not give what it promises; say what is lost."""
    found = survey(path, track, limits)
    if not found.places:
        raise InputError(
            f"{shown(path)} holds no frame that can be decoded, up to "
            f"{limits.max_frame_pixels} pixels (max_frame_pixels)"
        )
    name = shown(path.name)
    track = replace(track, times=found.times, stamps=None)
    _check_length(wish, found.times, limits, name)
    chosen = wish.choose(found.times)
    reach = len(found.times) / len(chosen)
    taken = tuple(found.stand_in(index, reach) for index in chosen)
    pictures = Pictures(taken, limits, name)
    remarks = _about_the_damage(found, chosen, taken, limits, name)
    collect_samples(path, track, found, pictures, limits)
    return track, pictures, remarks


def _about_the_damage(
    found: Survey,
    chosen: Sequence[int],
    taken: Sequence[int],
    limits: VideoLimits,
    name: str,
) -> list[str]:
    n_frames = len(found.places) + found.n_lost
    if not found.n_lost + found.n_disturbed:
        return []
    what = f"{name} is damaged: of {n_frames} frames {found.n_lost} cannot be decoded"
    if found.n_disturbed:
        what += f" and {found.n_disturbed} only in part"
    if found.n_lost > limits.max_damage * n_frames:
        raise InputError(f"{what}; up to {limits.max_damage:.0%} are put up with (max_damage)")
    n_moved = sum(a != b for a, b in zip(chosen, taken))
    what += f"; {n_moved} of {len(taken)} samples are neighbours that are whole"
    whole = set(found.whole)
    n_disturbed = sum(each not in whole for each in taken)
    return [what + (f", {n_disturbed} may look wrong" if n_disturbed else "")]


def _check_length(wish: _Wish, times: Sequence[float], limits: VideoLimits, name: str) -> None:
    if wish.fps is not None:
        what = f"frames would be sampled of {name} at {wish.fps:g} a second"
        limits.check("max_frames", wish.length(times), what)


def _about_the_file(track: Track, n_videos: int, name: str) -> list[str]:
    remarks = []
    if n_videos > 1:
        remarks.append(
            f"{name} holds {n_videos} videos; the one of {track.n_frames} frames is read"
        )
    if track.announced > track.stored:
        remarks.append(f"{name} announces {track.announced} frames but holds {track.stored}")
    if track.restarts:
        places = ", ".join(map(str, track.restarts[:3])) + (" ..." if track.restarts[3:] else "")
        remarks.append(
            f"time stamps of {name} run backwards at frame {places}; what comes then is taken to "
            "follow what was before"
        )
    if track.pixel_shape != 1:
        remarks.append(
            f"pixels of {name} are {track.pixel_shape:.3g} times as wide as high; "
            "frames are as stored"
        )
    return remarks


def _about_the_samples(wish: _Wish, times: Sequence[float], n_samples: int, name: str) -> list[str]:
    remarks = []
    if len(times) < n_samples:
        remarks.append(f"{name} holds {len(times)} frames, so {n_samples} samples repeat some")
    elif wish.n_frames is not None and wish.by == "index":
        apart = far_apart(times, wish.n_frames, wish.sampling)
        remarks += [f"of {name}, {apart}"] if apart else []
    return remarks

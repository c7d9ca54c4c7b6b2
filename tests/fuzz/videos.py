"""Read damaged videos: each is read or refused by a sentence, within five seconds.

``PYTHONPATH=tests python -m fuzz.videos --n 1000 --seed 0`` (``make fuzz``). The videos are those
of ``awkward``, damaged anew. Exits with 4 if there was a finding.
"""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from awkward import VIDEOS

from fuzz.damage import damaged
from fuzz.runner import Kind, main


def ways(random: Random) -> dict[str, Any]:
    """Return arguments of ``read_video``."""
    ways = ({"n_frames": random.randint(1, 16)}, {"fps": random.choice((0.5, 2.0, 30.0))})
    by = {"by": random.choice(("index", "time"))}
    return {**random.choice(ways), **by, "sampling": random.choice(("round", "floor", "start"))}


def read(path: Path, given: dict[str, Any]) -> str:
    """Read a video; return what became of it."""
    from tokenred.video import read_video

    clip = read_video(path, **given)
    if len({len(clip.frames), len(clip.frame_indices), len(clip.frame_times)}) > 1:
        return "frames, indices and times differ in number"
    if not clip.frame_times.isfinite().all():
        return f"times are {clip.frame_times.tolist()}"
    return "read with remarks" if clip.remarks else "read"


def quiet() -> None:
    """Keep FFmpeg silent and torch on one thread."""
    import av
    import torch

    av.logging.set_level(None)
    torch.set_num_threads(1)


def cases(n: int, seed: int, folder: Path) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Yield name, content and arguments of damaged videos; the same for the same seed."""
    names = sorted(name for name, video in VIDEOS.items() if ":" not in name and not video.damaged)
    whole: dict[str, bytes] = {}
    for number in range(n):
        random = Random(f"{seed} {number}")
        name = random.choice(names)
        if name not in whole:
            VIDEOS[name].make(folder / name)
            whole[name] = (folder / name).read_bytes()
        yield name, damaged(whole[name], random), ways(random)


VIDEOS_KIND = Kind("videos", ("read", "read with remarks"), cases, read, quiet, 1000)

if __name__ == "__main__":
    raise SystemExit(main(VIDEOS_KIND))

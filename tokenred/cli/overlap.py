"""``tokenred overlap``: which tokens pipelines keep, and what they cover."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.cli._common import Json, PluginFiles, parse_retention, say, table_console
from tokenred.cli._media import (
    NUM_FRAMES,
    By,
    Device,
    Dtype,
    Model,
    Offline,
    Revision,
    TrustRemoteCode,
    check_sampling,
    load,
    quiet_transformers,
)
from tokenred.errors import ConfigError

if TYPE_CHECKING:
    from tokenred.evaluation.overlap.encoders import Encoder
    from tokenred.video import VideoClip

EXAMPLES = (
    "tokenred overlap clip.mp4",
    "tokenred overlap clip.mp4 --pipelines top-attention,aot-paper,visionzip",
)
"""What its help shows."""

PIPELINES = "top-attention,no-merge,aot-paper,cosine-merge"
TOWER_FRAMES = 16
DINOV2 = "dinov2"
PIPE_WIDTH = 140
"""Width of a table that is piped or redirected."""


def overlap(
    videos: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[VIDEO ...]", help="Video files; sample clips by default."),
    ] = None,
    pipelines: Annotated[
        str, typer.Option(help="Presets or YAML files, comma-separated; controls are added.")
    ] = PIPELINES,
    retention: Annotated[str, typer.Option(help="Token budgets, such as 0.25,0.10.")] = "0.10",
    model: Model = None,
    tower: Annotated[
        str | None,
        typer.Option(
            metavar="dinov2|FOLDER",
            help="A vision tower instead of a model: a folder with a DINOv2, or dinov2 to download "
            "one (92 MB with its sample clips).",
        ),
    ] = None,
    side: Annotated[
        int, typer.Option(min=2, max=2**20, help="Patches per side of a frame, for --tower.")
    ] = 16,
    pool: Annotated[
        str,
        typer.Option(
            help="Pooling before the LLM, for --tower: none, or bilinear (LLaVA-OneVision: "
            "--side 27 --pool bilinear)."
        ),
    ] = "none",
    cache: Annotated[
        Path | None,
        typer.Option(help="Download folder of --tower dinov2; ~/.cache/tokenred/real."),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=2**20,
            help="Frames to sample; 32, 16 with --tower, 8 for the embedded model.",
        ),
    ] = None,
    by: By = "index",
    limit: Annotated[
        int,
        typer.Option(min=1, max=2**20, help="Number of generated videos, if no VIDEO is given."),
    ] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Also write JSON, CSV and heat maps into this folder.")
    ] = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    plugin: PluginFiles = None,
    json: Json = False,
) -> None:
    """Compare which tokens pipelines keep, and what they cover.

    Needs no questions or labels, so any video will do. Without VIDEO: the generated videos of the
    embedded task, or with --tower dinov2 three real clips.
    """
    from tokenred.evaluation.overlap.comparison import compare, expand_pipelines
    from tokenred.report.overlap import overlap_json, overlap_tables, write_overlap

    ratios = parse_retention(retention)
    names = [name.strip() for name in pipelines.split(",") if name.strip()]
    if ratios is None or not names:
        raise ConfigError("give at least one pipeline and one budget", ["--pipelines"])
    if tower is not None and model is not None:
        raise ConfigError("give a model or a tower", ["--tower"])
    check_sampling(frames, by, None)
    rows = expand_pipelines(names, ratios)
    quiet_transformers()
    if tower is not None:
        encoder, default = _tower(tower, side, pool, cache), TOWER_FRAMES
    else:
        encoder, default = _model(model, device, dtype, revision, offline, trust_remote_code)
    n_frames = frames or default
    if not videos and tower == DINOV2:
        from tokenred.testing.real import DEFAULT_FOLDER, real_clips

        videos = list(real_clips(cache or DEFAULT_FOLDER).values())
    clips = _read(videos, n_frames, by) if videos else _generated(limit, n_frames)
    say(f"{len(rows)} rows on {len(clips)} clips of {n_frames} frames")
    comparison = compare(
        rows, clips, encoder, lambda done: say(f"{done} of {len(clips)} clips compared")
    )
    for row, reason in comparison.left_out.items():
        say(f"left out: {row}: {reason}")
    if out is not None:
        for path in write_overlap(comparison, out):
            say(f"wrote {path}")
    if json:
        print(overlap_json(comparison), end="")
    else:
        table_console(PIPE_WIDTH).print(overlap_tables(comparison))


def _tower(tower: str, side: int, pool: str, cache: Path | None) -> Encoder:
    from tokenred.models.families.dinov2 import Dinov2Tower
    from tokenred.testing.real import DEFAULT_FOLDER, dinov2_folder

    if pool not in ("none", "bilinear", "average"):
        raise ConfigError(f"expected none, bilinear or average, got '{pool}'", ["--pool"])
    folder = dinov2_folder(cache or DEFAULT_FOLDER) if tower == DINOV2 else Path(tower)
    return Dinov2Tower.load(folder, side, pool)


def _model(model: str | None, *options: Any) -> tuple[Encoder, int]:
    """Load a model; return it with its default number of frames."""
    from tokenred.embedded import NUM_FRAMES as FEW
    from tokenred.evaluation.overlap.encoders import ModelEncoder

    loaded, _ = load(model, *options)
    if model is None:
        return ModelEncoder(loaded, "embedded LLaVA-OneVision"), FEW
    return ModelEncoder(loaded), NUM_FRAMES


def _read(videos: list[Path], n_frames: int, by: str) -> dict[str, VideoClip]:
    """Read videos, keyed by file name, or by path where names repeat."""
    from tokenred import read_video

    stems = [path.stem for path in videos]
    unique = len(set(stems)) == len(stems)
    clips = {}
    for path in videos:
        clip = read_video(path, n_frames, by=by)
        for remark in clip.remarks:
            say(remark)
        clips[path.stem if unique else str(path)] = clip
    return clips


def _generated(limit: int, n_frames: int) -> dict[str, VideoClip]:
    """Generate videos of the embedded task, with ``n_frames`` evenly spaced frames each."""
    from tokenred.evaluation.tasks.embedded import EmbeddedTask
    from tokenred.video import VideoClip

    task = EmbeddedTask()
    whole = [task.sample(index) for index in range(limit)]
    return {
        part.id: VideoClip(part.frames, part.frame_indices, part.frame_times, 0.0, len(all_.frames))
        for all_ in whole
        for part in [all_.take(min(n_frames, len(all_.frames)))]
    }

"""``tokenred viz``: draw which tokens pipelines keep, merge and drop."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.cli._common import Json, Overrides, PluginFiles, emit, parse_overrides
from tokenred.cli._media import (
    By,
    Device,
    Dtype,
    Force,
    Fps,
    Frames,
    Model,
    Offline,
    Revision,
    TrustRemoteCode,
    check_media,
    check_sampling,
    default_frames,
    embedded_words,
    generated_media,
    load,
    read_media,
)
from tokenred.errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

    from tokenred.models.inputs.media import MediaInput
    from tokenred.models.loading import LoadedModel
    from tokenred.pipeline import Pipeline
    from tokenred.report.viz import Anchor, View

EXAMPLES = (
    "tokenred viz clip.mp4 --pipeline aot",
    "tokenred viz clip.mp4 --pipeline mine.yaml --plugin mine.py",
)
"""What its help shows."""

EXAMPLE = "example"
EXAMPLE_SAMPLE = 38
"""Which of the generated videos the example is."""
LONGEST_STEM = 100
"""Letters of a video's name in that of a folder, which must not be too long for a file system."""


def viz(
    video: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO_OR_IMAGE",
            help="A video file, or an image file; 'example' is a short generated video.",
        ),
    ] = EXAMPLE,
    pipeline: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a preset, or path of a YAML file; aot-paper by default. "
            "Repeat to see several side by side."
        ),
    ] = None,
    anchor: Annotated[
        str,
        typer.Option(
            metavar="FRAME,ROW,COLUMN|strongest",
            help="The token whose sources are shown: its place among the sampled frames and on the "
            "LLM's grid, counted from 0; by default the one that stands for most.",
        ),
    ] = "strongest",
    ask: Annotated[
        str | None,
        typer.Option(
            help="The question, which matters for pipelines that read it or work inside the LLM."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the images; viz/VIDEO-PIPELINE by default.")
    ] = None,
    retention: Annotated[
        float | None,
        typer.Option(help="Token budget, such as 0.25; each pipeline's own by default."),
    ] = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    frames: Frames = None,
    by: By = "index",
    fps: Fps = None,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
    set_: Overrides = None,
    plugin: PluginFiles = None,
    json: Json = False,
) -> None:
    """Draw which patches are kept, merged and dropped, the sources of a token, and the segments.

    Writes overlay.png, anchor.png, timeline.png and animation.gif. All of it is read from the
    linear map of the reduction, so it works for any pipeline.
    """
    from tokenred.errors import shown
    from tokenred.models.loading.memory import memory_errors
    from tokenred.report.viz import anchor_map, animation, overlay, timeline, to_png

    names = list(dict.fromkeys(pipeline or ["aot-paper"]))
    reducers = [_load(name, parse_overrides(set_), retention) for name in names]
    wanted = _parse_anchor(anchor)
    check_sampling(frames, by, fps)
    if video != EXAMPLE:
        check_media(Path(video))
    folder = out or Path("viz") / _folder_name(video, [each.config.name for each in reducers])
    _check_folder(folder)
    loaded, small = load(model, device, dtype, revision, offline, trust_remote_code, force)
    n_frames = frames or default_frames(small)
    if video == EXAMPLE:
        media = generated_media(EXAMPLE_SAMPLE, n_frames)
    else:
        media = read_media(Path(video), n_frames, by, fps)
    question = ask or ("how many digits" if small else "What happens here?")
    with memory_errors("try fewer --frames"):
        views = _views(loaded, media, reducers, embedded_words(question) if small else question)
    pairs = _anchors(views, wanted)
    title = f"{shown(Path(video).name)} on {'the embedded model' if model is None else loaded.name}"
    paths = _write(
        folder,
        {
            "overlay.png": to_png(overlay(views, title=title)),
            "anchor.png": to_png(anchor_map(pairs, title=title)),
            "timeline.png": to_png(timeline(views, title=title)),
            "animation.gif": animation(views, title=title),
        },
    )
    report: dict[str, Any] = {
        "video": shown(video),
        "model": "embedded" if model is None else loaded.name,
        "frame_indices": media.all_indices,
        "pipelines": [
            {**view.figures(), "anchor": _figures(dict(pairs).get(view))} for view in views
        ],
        "files": [str(path) for path in paths],
    }
    if json:
        emit(report)
    else:
        print("\n".join([*(view.title for view in views), "", *report["files"]]))


def _load(name: str, overrides: Mapping[str, Any], retention: float | None) -> Pipeline:
    """Load a pipeline; one that keeps everything ignores the retention."""
    from functools import partial

    from tokenred import Pipeline
    from tokenred.evaluation.ablation import expand_rows
    from tokenred.pipeline import load_config

    ratios = None if retention is None else [retention]
    (row,) = expand_rows(name, partial(load_config, name), overrides, ratios)
    return Pipeline(row.config)


def _parse_anchor(text: str) -> str | tuple[int, int, int]:
    from tokenred.report.viz import STRONGEST

    if text == STRONGEST:
        return text
    try:
        frame, row, column = (int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"expected FRAME,ROW,COLUMN such as 2,0,5, or {STRONGEST}, got '{text}'", ["--anchor"]
        ) from None
    return frame, row, column


def _folder_name(video: str, names: Sequence[str]) -> str:
    from tokenred.errors import shown

    return "-".join([shown(Path(video).stem)[:LONGEST_STEM], *names])


def _check_folder(folder: Path) -> None:
    """Raise at once if the folder cannot be written."""
    existing = next(each for each in (folder, *folder.absolute().parents) if os.path.exists(each))
    if not os.path.isdir(existing):
        raise InputError(f"{folder} cannot be a folder: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written: no permission in {existing}")


def _views(
    loaded: LoadedModel, media: MediaInput, reducers: Sequence[Pipeline], question: str
) -> list[View]:
    from tokenred.report.viz import views_of

    return views_of(
        loaded.model,
        loaded.inputs_of(question, loaded.prepare(media)),
        reducers,
        _seen(loaded, media),
        adapter=loaded.adapter,
        frame_times=media.frame_times,
        questions=[loaded.question_ids(question)],
        labels=[f"frame {index}" for index in media.all_indices] or ["image"],
    )


def _seen(loaded: LoadedModel, media: MediaInput) -> torch.Tensor:
    """Return (frames, height, width, 3): the part of the frames that the model reads."""
    (pixels,) = media.pixels
    settings = {**loaded.adapter.normalisation, **loaded.settings["video"]}
    if media.kind == "image" or not settings.get("do_center_crop"):
        return pixels
    height, width = pixels.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[:, top : top + side, left : left + side]


def _anchors(
    views: Sequence[View], wanted: str | tuple[int, int, int]
) -> list[tuple[View, Anchor]]:
    """Find the token in every view that has it; raise if none has."""
    from tokenred.report.viz import find_anchor

    pairs, refused = [], None
    for view in views:
        try:
            pairs.append((view, find_anchor(view, wanted)))
        except InputError as error:
            refused = refused or error
    if not pairs and refused is not None:
        raise refused
    return pairs


def _figures(anchor: Anchor | None) -> dict[str, Any] | None:
    if anchor is None:
        return None
    return {
        "frame": anchor.frame,
        "row": anchor.row,
        "column": anchor.column,
        "weight_per_frame": list(anchor.per_frame),
    }


def _write(folder: Path, images: Mapping[str, bytes]) -> list[Path]:
    """Write all images or none: drafts first, then all are renamed."""
    places = [folder / name for name in images]
    waiting = [place.with_name(f".{place.name}.{os.getpid()}") for place in places]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, data in zip(waiting, images.values()):
            path.write_bytes(data)
        for path, place in zip(waiting, places):
            path.replace(place)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror}") from error
    finally:
        for path in waiting:
            path.unlink(missing_ok=True)
    return places

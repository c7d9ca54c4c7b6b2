"""Options of verbs that load a model, and reading of videos and images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenred.cli._common import say
from tokenred.errors import ConfigError, InputError, nearest

if TYPE_CHECKING:
    from tokenred.models.inputs.media import MediaInput
    from tokenred.models.loading import LoadedModel

NUM_FRAMES = 32
"""Default number of frames of a video; the embedded model has its own."""

By = Annotated[
    str,
    typer.Option(
        metavar="index|time",
        help="What the samples of a video are spread over: its frames, or its seconds.",
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=1e6, help="Frames a second of a video, instead of a number of --frames."
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="ID_OR_PATH",
        help="A local folder, or the id of a model on the hub; the embedded one by default.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit on the hub; the newest by default.")
]
Device = Annotated[
    str, typer.Option(help="Such as cpu or cuda:1; auto takes a GPU if there is one.")
]
Dtype = Annotated[
    str, typer.Option(help="float32, bfloat16 or float16; auto keeps that of the checkpoint.")
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Use local files only; never contact the hub.")
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run code of the checkpoint if transformers lacks its class.",
    ),
]
Frames = Annotated[
    int | None,
    typer.Option(
        min=1, max=2**20, help=f"Frames to sample; {NUM_FRAMES}, and 8 for the embedded model."
    ),
]
Threads = Annotated[
    int, typer.Option(min=1, max=1024, help="CPU threads; the embedded model is too small for two.")
]
Force = Annotated[bool, typer.Option("--force", help="Load even if memory seems too small.")]


def quiet_transformers() -> None:
    """Silence progress bars and warnings of transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def load(
    model: str | None,
    device: str,
    dtype: str,
    revision: str | None,
    offline: bool,
    trust_remote_code: bool,
    force: bool = False,
) -> tuple["LoadedModel", bool]:
    """Load a model, the embedded one by default; return whether it is that one, too."""
    from tokenred import embedded, load_model

    quiet_transformers()
    loaded = load_model(
        model or embedded.MODEL_DIR,
        device=device,
        dtype=dtype,
        revision=revision,
        trust_remote_code=trust_remote_code,
        local_files_only=offline,
        force=force,
        on_plan=None if model is None else (lambda plan: say(str(plan))),
    )
    return loaded, set(loaded.tokenizer.get_vocab()) == set(embedded.VOCABULARY)


def check_sampling(frames: int | None, by: str, fps: float | None) -> None:
    """Refuse options that do not go together, before a model is loaded."""
    if frames is not None and fps is not None:
        raise ConfigError("give --frames or --fps, not both", ["--fps"])
    from tokenred.video import BY

    if by not in BY:
        raise ConfigError(f"unknown value '{by}'{nearest(by, BY)}", ["--by"])


def check_media(path: Path) -> None:
    """Refuse what is no file, before a model is loaded."""
    from tokenred.texts import check_file

    check_file(path, "a video or an image file")


def default_frames(embedded_model: bool) -> int:
    """Return the number of frames to sample unless the user says otherwise."""
    from tokenred import embedded

    return embedded.NUM_FRAMES if embedded_model else NUM_FRAMES


def generated_media(index: int, n_frames: int, video: bool = True) -> "MediaInput":
    """Return a generated video, or its first frame as an image."""
    import torch

    from tokenred.embedded import generate_sample
    from tokenred.models.inputs.media import MediaInput
    from tokenred.video import sample_indices

    frames = torch.from_numpy(generate_sample(index).frames.copy())
    if not video:
        return MediaInput("image", (frames[:1],))
    indices = sample_indices(len(frames), n_frames)
    chosen = torch.tensor(indices)
    return MediaInput("video", (frames[chosen],), (indices,), (chosen.float(),))


def read_media(
    path: Path, n_frames: int, by: str = "index", fps: float | None = None
) -> "MediaInput":
    """Read an image, or frames of a video; print remarks about it to stderr.

    Parameters
    ----------
    n_frames : of a video, unless ``fps`` is given
    by, fps : see ``tokenred.read_video``
    """
    from tokenred.models.inputs.media import MediaInput
    from tokenred.video import is_image, read_image, read_video

    if is_image(path):
        pixels, remarks = read_image(path)
        media = MediaInput("image", (pixels[None],), remarks=remarks)
    else:
        clip = read_video(path, None if fps else n_frames, by=by, fps=fps)
        media = MediaInput(
            "video", (clip.frames,), (clip.frame_indices,), (clip.frame_times,), clip.remarks
        )
    for remark in media.remarks:
        say(remark)
    return media


def embedded_words(question: str) -> str:
    """Return a question in words of the embedded model; what it lacks is a fault of ``--ask``."""
    from tokenred.embedded import in_its_words

    try:
        return in_its_words(question)
    except InputError as error:
        raise ConfigError(str(error), ["ask"]) from None

"""Parse ``--model_args`` of lmms-eval."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenred.errors import ConfigError, nearest, quoted
from tokenred.models.attach import POSITIONS
from tokenred.pipeline import Pipeline, PipelineConfig, load_pipeline
from tokenred.plugins import registry
from tokenred.texts import parse_yaml
from tokenred.video import SAMPLINGS

EMBEDDED = "embedded"
IMAGE_LISTS = ("images", "video")
_ONLY_OURS = (
    "lmms-eval picks prompts by the name behind --model before a model has a say; "
    "`tokenred ablate --suite` can pick others"
)


@dataclass(frozen=True)
class ModelArgs:
    """Which model under which pipeline, and how it reads videos.

    Attributes
    ----------
    pretrained : local folder or id on the hub; ``embedded`` is the model that ships
    pipeline : with all overrides in it
    frames : sampled of a video; None: 32, and 8 for the embedded model
    frame_sampling : see ``tokenred.video.sample_indices``
    image_list : what several images of one question are, ``images`` or the frames of a ``video``
    positions : see ``tokenred.attach``
    max_new_tokens : of a task that does not say
    stats : file that gets a line of JSON about every request
    """

    pretrained: str
    pipeline: PipelineConfig
    frames: int | None = None
    frame_sampling: str = "round"
    image_list: str = "images"
    positions: str | None = None
    max_new_tokens: int = 64
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    offline: bool = False
    trust_remote_code: bool = False
    stats: Path | None = None


def read_model_args(given: Mapping[str, Any]) -> ModelArgs:
    """Parse arguments as lmms-eval passes them: strings, numbers and booleans.

    Parameters
    ----------
    given : ``pretrained`` and ``pipeline`` at least; ``max_frames_num`` is another name of
        ``frames``, ``set`` a text such as ``{budget.seed: 3}``

    Raises
    ------
    ConfigError
        If an argument is unknown, missing or not valid, or ``config_hash`` is not that of the
        pipeline or missing where it is needed.
    """
    args = {name: _unquoted(value) for name, value in given.items() if value is not None}
    known = (*ModelArgs.__dataclass_fields__, "retention_ratio", "set", "config_hash", *_OTHER)
    for name in args:
        if name == "prompts_of":
            raise ConfigError(_ONLY_OURS, [name])
        if name not in known:
            raise ConfigError(f"no such argument{nearest(name, known)}", [name])
    for name in ("pretrained", "pipeline"):
        if not isinstance(args.get(name), str):
            raise ConfigError("lmms-eval must be told it in --model_args", [name])
    for name in ("batch_size", "max_batch_size"):
        if args.get(name, 1) not in (1, "1"):
            raise ConfigError("tokenred asks one question at a time, give 1", [name])
    pipeline = _pipeline(args)
    _check_hash(args, pipeline)
    chosen = {name: args[name] for name in ModelArgs.__dataclass_fields__ if name in args}
    frames = [args[name] for name in ("frames", "max_frames_num") if name in args]
    if len(set(frames)) > 1:
        raise ConfigError("frames and max_frames_num mean the same, give one of them", ["frames"])
    return ModelArgs(
        **chosen
        | {
            "pipeline": pipeline.config,
            "frames": _count(frames[0], "frames") if frames else None,
            "max_new_tokens": _count(args.get("max_new_tokens", 64), "max_new_tokens"),
            "frame_sampling": _among(args, "frame_sampling", SAMPLINGS),
            "image_list": _among(args, "image_list", IMAGE_LISTS),
            "positions": _among(args, "positions", POSITIONS) if "positions" in args else None,
            "stats": Path(args["stats"]) if "stats" in args else None,
        }
    )


_WHOLE = re.compile("[0-9]{1,9}")
_WRITE_SET = "write set={path: value, path: value}"
_OTHER = ("max_frames_num", "batch_size", "max_batch_size")


def _unquoted(value: Any) -> Any:
    """Drop the quotes that lmms-eval leaves around a value."""
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


def _pipeline(args: Mapping[str, Any]) -> Pipeline:
    overrides = args.get("set", {})
    if isinstance(overrides, str):
        try:
            overrides, _ = parse_yaml(overrides)
        except ConfigError as error:
            raise ConfigError(f"{_WRITE_SET}: {error.message}", ["set", *error.path]) from None
    if not isinstance(overrides, Mapping):
        raise ConfigError(_WRITE_SET, ["set"])
    if "retention_ratio" in args:
        overrides = {**overrides, "budget.retention_ratio": args["retention_ratio"]}
    return load_pipeline(args["pipeline"], overrides)


def _check_hash(args: Mapping[str, Any], pipeline: Pipeline) -> None:
    """Make sure that ``model_args`` names one pipeline: they are in the key of the response cache.

    A name says what a pipeline is only where nobody can edit it, in a preset of tokenred itself.
    """
    name, config_id = args["pipeline"], pipeline.config.config_id
    given = args.get("config_hash")
    if given is None:
        _, owner = registry().presets().get(name, (None, None))
        if owner != "tokenred":
            raise ConfigError(
                f"add config_hash={config_id}: '{name}' may be edited under the same name, and "
                "lmms-eval's response cache would return old answers",
                ["config_hash"],
            )
    elif isinstance(given, float):  # 12e4, and other hashes that lmms-eval takes for numbers
        raise ConfigError(f'lmms-eval reads it as a number, write "{config_id}"', ["config_hash"])
    elif str(given).zfill(len(config_id)) != config_id:
        raise ConfigError(
            f"{given} is not the pipeline's: '{name}' with these settings has {config_id}",
            ["config_hash"],
        )


def _count(value: Any, name: str) -> int:
    is_number = isinstance(value, int | str) and not isinstance(value, bool)
    if not is_number or not _WHOLE.fullmatch(str(value)):
        raise ConfigError(f"expected a whole number, got {quoted(value)}", [name])
    if int(value) < 1:
        raise ConfigError("must be 1 or more", [name])
    return int(value)


def _among(args: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = str(args.get(name, known[0]))
    if value not in known:
        raise ConfigError(f"unknown value '{value}'{nearest(value, known)}", [name])
    return value

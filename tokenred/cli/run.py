"""``tokenred run``: ask about a video or an image, with and without reduction."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.cli._common import (
    Json,
    Overrides,
    PluginFiles,
    align_columns,
    emit,
    parse_overrides,
)
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
    load,
    read_media,
)

if TYPE_CHECKING:
    from tokenred.models.loading import LoadedModel
    from tokenred.models.session import ModelAnswer

EXAMPLES = (
    'tokenred run clip.mp4 --ask "how many digits?"',
    'tokenred run clip.mp4 --ask "What happens?" --pipeline visionzip --model FOLDER_OR_ID',
    'tokenred run clip.mp4 --ask "What happens?" --set budget.retention_ratio=0.2',
)
"""What its help shows."""

MAX_NEW_TOKENS = 64


def run(
    path: Annotated[
        Path, typer.Argument(metavar="VIDEO_OR_IMAGE", help="A video file, or an image file.")
    ],
    ask: Annotated[list[str], typer.Option(help="A question; repeat for more.")],
    pipeline: Annotated[
        str, typer.Option(help="Name of a preset, or path of a YAML file.")
    ] = "aot-paper",
    model: Model = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    frames: Frames = None,
    by: By = "index",
    fps: Fps = None,
    positions: Annotated[
        str | None,
        typer.Option(help="contiguous or original; the model family's own by default."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**20, help="Longest answer; 64, and one word for the embedded model."
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="Also ask the unreduced model."),
    ] = True,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
    set_: Overrides = None,
    plugin: PluginFiles = None,
    json: Json = False,
) -> None:
    """Answer questions about a video or an image with a reduced number of visual tokens.

    Answers are greedy, so they are the same every time.
    """
    from tokenred import load_pipeline
    from tokenred.models.loading.memory import memory_errors

    reducer = load_pipeline(pipeline, parse_overrides(set_))
    check_sampling(frames, by, fps)
    check_media(path)
    loaded, small = load(model, device, dtype, revision, offline, trust_remote_code, force)
    questions = [embedded_words(each) for each in ask] if small else ask
    media = read_media(path, frames or default_frames(small), by, fps)
    longest = max_new_tokens or (1 if small else MAX_NEW_TOKENS)
    with memory_errors("try fewer --frames"):
        prepared = loaded.prepare(media)
        answers, realised = [], []
        for question in questions:
            inputs = loaded.inputs_of(question, prepared)
            asked = partial(
                loaded.session.ask,
                inputs,
                generation={"max_new_tokens": longest, "do_sample": False},
                logits=True,
            )
            kept = asked(
                reducer,
                positions=positions,
                frame_times=media.frame_times,
                questions=[loaded.question_ids(question)],
            )
            whole = asked() if compare else None
            answers.append(_answer(question, *(_facts(loaded, each) for each in (kept, whole))))
            assert kept.attachment is not None
            realised.append(kept.attachment.realised)
    report = {
        "model": {
            "name": "embedded" if model is None else model,
            "revision": loaded.revision,
            "class": loaded.plan.model_class,
            "parameters": loaded.plan.n_parameters,
            "dtype": str(loaded.plan.dtype).removeprefix("torch."),
            "device": str(loaded.plan.device),
        },
        "pipeline": reducer.config.name,
        "config_id": reducer.config.config_id,
        "positions": positions or loaded.adapter.default_positions,
        "answers": answers,
        "medium": media.kind,
        "frame_indices": media.all_indices,
        **_realised(realised[0]),
    }
    if json:
        emit(report)
    else:
        print(_text(report))


def _facts(loaded: "LoadedModel", answer: "ModelAnswer | None") -> dict[str, Any]:
    """Return the report of one answer.

    ``probability`` is the product of those of its tokens; ``ms`` is the time of the whole call, the
    vision tower included.
    """
    import torch

    if answer is None:
        return {}
    assert answer.logits is not None
    logits = answer.logits.float().log_softmax(-1).cpu()
    made = answer.tokens
    return {
        "answer": loaded.tokenizer.decode(made, skip_special_tokens=True).strip(),
        "probability": float(logits[torch.arange(len(made)), made].sum().exp()),
        "new_tokens": len(made),
        "prompt_tokens": answer.prompt_tokens,
        "ms": answer.ms,
        "layer_tokens": answer.layer_tokens,
    }


def _answer(question: str, kept: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return one answer beside that of the unreduced model."""
    beside = {f"unreduced_{name}": whole.get(name) for name in kept if name != "layer_tokens"}
    return {"question": question, **kept, **beside}


def _realised(realised: Sequence[Any]) -> dict[str, Any]:
    """Sum up the reduction over clips; an image may be two of them."""
    vanilla, kept = (
        sum(getattr(each, name) for each in realised) for name in ("vanilla_tokens", "n_tokens")
    )
    return {
        "vanilla_tokens": vanilla,
        "n_tokens": kept,
        "newline_tokens": sum(each.newline_tokens for each in realised),
        "retention_ratio": kept / vanilla,
        "tokens_per_frame": [n for each in realised for n in each.tokens_per_frame],
        "reducer_ms": sum(each.reducer_ms for each in realised),
        "stages": [asdict(stage) for each in realised for stage in each.stages],
    }


def _text(report: dict[str, Any]) -> str:
    blocks = [_block(answer, report["pipeline"]) for answer in report["answers"]]
    model, answers = report["model"], report["answers"]
    facts = [
        ("model", f"{model['name']} ({model['class']}, {model['dtype']} on {model['device']})"),
        ("pipeline", f"{report['pipeline']} ({report['config_id']}), {report['positions']}"),
        (
            "tokens",
            f"{report['n_tokens']} of {report['vanilla_tokens']} "
            f"({report['retention_ratio']:.1%}), and {report['newline_tokens']} newline",
        ),
        ("per frame", " ".join(map(str, report["tokens_per_frame"]))),
        ("frames", " ".join(map(str, report["frame_indices"]))),
        ("per layer", "; ".join(" ".join(map(str, each["layer_tokens"])) for each in answers)),
        ("prompt", _beside(answers, "prompt_tokens")),
        ("reducer", f"{report['reducer_ms']:.1f} ms"),
    ]
    return "\n\n".join([*blocks, align_columns([fact for fact in facts if fact[1].strip("; ")])])


def _block(answer: dict[str, Any], pipeline: str) -> str:
    rows = [
        (f"  {name}", _with_probability(answer, prefix))
        for name, prefix in ((pipeline, ""), ("unreduced", "unreduced_"))
        if answer[f"{prefix}answer"] is not None
    ]
    return f"{answer['question']}\n{align_columns(rows)}"


def _with_probability(answer: dict[str, Any], prefix: str) -> str:
    """Return the answer, with its probability if it is one token."""
    text = " ".join(answer[f"{prefix}answer"].split())
    if answer[f"{prefix}new_tokens"] > 1:
        return text
    return f"{text} ({answer[f'{prefix}probability']:.0%})"


def _beside(answers: Sequence[dict[str, Any]], name: str) -> str:
    """Return a token count for every answer, and its unreduced value."""
    kept, whole = (
        [str(each[key]) for each in answers if each[key] is not None]
        for key in (name, f"unreduced_{name}")
    )
    text = f"{' '.join(kept)} tokens"
    return f"{text}, unreduced {' '.join(whole)}" if whole else text

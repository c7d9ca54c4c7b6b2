"""``tokenred run``: ask about a video or an image, with and without reduction."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.cli._common import Json, Overrides, columns, emit, parse_overrides, say
from tokenred.cli._media import (
    NUM_FRAMES,
    Device,
    Dtype,
    Force,
    Model,
    Offline,
    Picture,
    Revision,
    TrustRemoteCode,
    embedded_words,
    quiet_transformers,
    read_picture,
    timed_adapter,
)
from tokenred.errors import InputError, TokenredError

if TYPE_CHECKING:
    from tokenred.models.loading import LoadedModel

MAX_NEW_TOKENS = 64


@dataclass(frozen=True)
class Reply:
    """What the model says in one call.

    ``probability`` is the product of those of its tokens; ``ms`` is the time of the whole call, the
    vision tower included.
    """

    text: str
    probability: float
    new_tokens: int
    prompt_tokens: int
    ms: float
    layer_tokens: tuple[int, ...] = ()


def run(
    picture: Annotated[
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
    frames: Annotated[
        int | None,
        typer.Option(min=1, help="Frames to sample; 32, and 8 for the embedded model."),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(help="contiguous or original; by default what suits the model's family."),
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer; 64, and one word for the embedded model."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="Also ask the unreduced model."),
    ] = True,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
    set_: Overrides = None,
    json: Json = False,
) -> None:
    """Answer questions about a video or an image with a reduced number of visual tokens.

    Answers are greedy, so they are the same every time.
    """
    import torch

    from tokenred import embedded, load_model, load_pipeline

    reducer = load_pipeline(pipeline, parse_overrides(set_))
    if not picture.exists():
        raise InputError(f"{picture} does not exist")
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
    small = set(loaded.tokenizer.get_vocab()) == set(embedded.VOCABULARY)
    questions = [embedded_words(each) for each in ask] if small else ask
    default = embedded.NUM_FRAMES if small else NUM_FRAMES
    shown = read_picture(picture, frames or default)
    for remark in shown.remarks:
        say(remark)
    longest = max_new_tokens or (1 if small else MAX_NEW_TOKENS)
    try:
        answers, sessions = [], []
        for question in questions:
            kept, session = _ask(loaded, shown, question, longest, (reducer, positions))
            whole, _ = _ask(loaded, shown, question, longest) if compare else (None, None)
            answers.append(_answer(question, kept, whole))
            sessions.append(session)
    except torch.OutOfMemoryError as error:
        raise TokenredError("out of memory; fewer --frames may do") from error
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
        "medium": shown.kind,
        "frame_indices": list(shown.frame_indices),
        **_realised(sessions[0].realised),
    }
    if json:
        emit(report)
    else:
        print(_text(report))


def _ask(
    loaded: "LoadedModel",
    picture: Picture,
    question: str,
    max_new_tokens: int,
    reduction: tuple[Any, str | None] | None = None,
) -> tuple[Reply, Any]:
    """Let the model answer, reduced by a pipeline or whole; return the session besides."""
    import torch

    from tokenred import attach

    given: dict[str, Any] = {picture.kind: picture.pixels, "frame_times": picture.frame_times}
    inputs = loaded.inputs(question, **given)
    attached: Any = nullcontext()
    if reduction is not None:
        pipeline, positions = reduction
        adapter = timed_adapter(loaded, picture)
        attached = attach(loaded.model, pipeline, positions=positions, adapter=adapter)
    start = perf_counter()
    with attached as session:
        output = loaded.model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        made = output.sequences[0, inputs["input_ids"].shape[1] :].tolist()
    ms = (perf_counter() - start) * 1e3
    logits = torch.cat(output.logits).float().log_softmax(-1).cpu()
    reply = Reply(
        text=loaded.tokenizer.decode(made, skip_special_tokens=True).strip(),
        probability=float(logits[torch.arange(len(made)), made].sum().exp()),
        new_tokens=len(made),
        prompt_tokens=inputs["input_ids"].shape[1] - _saved(session),
        ms=ms,
        layer_tokens=() if session is None else next(iter(session.layer_tokens), ()),
    )
    return reply, session


def _saved(session: Any) -> int:
    """Return how many tokens shorter the prompt became."""
    if session is None:
        return 0
    real = sum(each.n_tokens + each.newline_tokens for each in session.realised)
    return sum(clip.layout.n_placeholders for clip in session.clips) - real


def _answer(question: str, kept: Reply, whole: Reply | None) -> dict[str, Any]:
    """Return one answer as it is reported, with what the unreduced model says beside it."""
    facts = asdict(kept)
    beside = dict.fromkeys(facts) if whole is None else asdict(whole)
    del beside["layer_tokens"]
    return {
        "question": question,
        "answer": facts.pop("text"),
        **facts,
        "unreduced_answer": beside.pop("text"),
        **{f"unreduced_{name}": value for name, value in beside.items()},
    }


def _realised(realised: Sequence[Any]) -> dict[str, Any]:
    """Sum up what the pipeline did; a model may see an image as two clips."""
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
    return "\n\n".join([*blocks, columns([fact for fact in facts if fact[1].strip("; ")])])


def _block(answer: dict[str, Any], pipeline: str) -> str:
    rows = [
        (f"  {name}", _with_probability(answer, prefix))
        for name, prefix in ((pipeline, ""), ("unreduced", "unreduced_"))
        if answer[f"{prefix}answer"] is not None
    ]
    return f"{answer['question']}\n{columns(rows)}"


def _with_probability(answer: dict[str, Any], prefix: str) -> str:
    """Return the answer; one word comes with its probability, of many it says little."""
    text = " ".join(answer[f"{prefix}answer"].split())
    if answer[f"{prefix}new_tokens"] > 1:
        return text
    return f"{text} ({answer[f'{prefix}probability']:.0%})"


def _beside(answers: Sequence[dict[str, Any]], name: str) -> str:
    """Return a number of tokens for every answer, and what it is unreduced."""
    kept, whole = (
        [str(each[key]) for each in answers if each[key] is not None]
        for key in (name, f"unreduced_{name}")
    )
    text = f"{' '.join(kept)} tokens"
    return f"{text}, unreduced {' '.join(whole)}" if whole else text

"""``tokenred run``: ask a question about a video file, with and without reduction."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tokenred.cli._common import Json, Overrides, columns, emit, parse_overrides, say
from tokenred.errors import ConfigError, TokenredError


@dataclass(frozen=True)
class Answer:
    """What the model says to one question, with its probability, and what it says unreduced."""

    question: str
    answer: str
    probability: float
    unreduced_answer: str


def run(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", help="A video file.")],
    ask: Annotated[list[str], typer.Option(help="A question; repeat for more.")],
    pipeline: Annotated[
        str, typer.Option(help="Name of a preset, or path of a YAML file.")
    ] = "aot-paper",
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames to sample; as trained by default.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder with weights and tokenizer in the embedded model's format."),
    ] = None,
    set_: Overrides = None,
    json: Json = False,
) -> None:
    """Answer questions about a video file with a reduced number of visual tokens."""
    from tokenred import load_pipeline, read_video
    from tokenred.embedded import MODEL_DIR, NUM_FRAMES, to_pixel_values

    reducer = load_pipeline(pipeline, parse_overrides(set_))
    clip = read_video(video, frames or NUM_FRAMES)
    for remark in clip.remarks:
        say(remark)
    llm = _Model(model or MODEL_DIR)
    questions = [llm.words(question) for question in ask]
    tokens = llm.encode(to_pixel_values(clip.frames.numpy()), clip.frame_times, reducer.needs)
    reduced, vanilla = llm.reduce(tokens, reducer), llm.reduce(tokens, load_pipeline("vanilla"))
    answers = [
        Answer(question, *kept, plain[0])
        for question, kept, plain in zip(
            questions, llm.answer(reduced, questions), llm.answer(vanilla, questions), strict=True
        )
    ]
    report = _report(reducer.config, clip, reduced.realised, answers)
    if json:
        emit(report)
    else:
        print(_text(report))


class _Model:
    """The model at hand, as far as this verb needs it."""

    def __init__(self, folder: Path) -> None:
        from transformers.utils import logging

        from tokenred.embedded import load_model, load_tokenizer
        from tokenred.models import adapter_for

        logging.disable_progress_bar()
        try:
            self.adapter: Any = adapter_for(load_model(folder))
            self.tokenizer = load_tokenizer(folder)
        except OSError as error:
            raise TokenredError(
                f"no model can be loaded from {folder}: {str(error).splitlines()[0]}"
            ) from None

    def words(self, question: str) -> str:
        """Return a question in words of the model, without its mark; unknown ones are an error."""
        words = question.lower().replace("?", " ").split()
        known = self.tokenizer.get_vocab()
        unknown = sorted({word for word in words if word not in known})
        if unknown or not words:
            raise ConfigError(
                f"the model does not know {', '.join(map(repr, unknown)) or 'an empty question'}; "
                f"it can be asked, for example: {'; '.join(_examples())}",
                ["ask"],
            )
        return " ".join(words)

    def encode(self, pixels: Any, frame_times: Any, needs: frozenset[str]) -> Any:
        inputs = {"pixel_values_videos": pixels[None]}
        (clip,) = self.adapter.encode(inputs, needs, frame_times=[frame_times])
        return clip

    def reduce(self, clip: Any, pipeline: Any) -> Any:
        from tokenred.models import reduce_clip

        return reduce_clip(self.adapter, clip, pipeline)

    def answer(self, reduced: Any, questions: Sequence[str]) -> list[tuple[str, float]]:
        """Return the most probable next word after each question, with its probability."""
        import torch

        layout = self.adapter.video_layout(len(reduced.realised.tokens_per_frame))
        video = [self.adapter.token_ids["video"]] * layout.n_placeholders
        prompts = [torch.tensor([*video, *self.tokenizer(text).input_ids]) for text in questions]
        best = self.adapter.answer_logits(reduced, prompts, layout=layout).softmax(-1).max(-1)
        return [
            (self.tokenizer.decode([word]), share)
            for word, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


def _examples() -> list[str]:
    from tokenred.embedded import KINDS, generate_sample

    found: dict[str, str] = {}
    for index in range(20):
        for question in generate_sample(index).questions:
            found.setdefault(question.kind, question.prompt)
        if len(found) == len(KINDS):
            break
    return list(found.values())


def _report(config: Any, clip: Any, realised: Any, answers: Sequence[Answer]) -> dict[str, Any]:
    return {
        "pipeline": config.name,
        "config_id": config.config_id,
        "answers": [asdict(answer) for answer in answers],
        "frame_indices": list(clip.frame_indices),
        "vanilla_tokens": realised.vanilla_tokens,
        "n_tokens": realised.n_tokens,
        "newline_tokens": realised.newline_tokens,
        "retention_ratio": realised.retention_ratio,
        "tokens_per_frame": list(realised.tokens_per_frame),
        "reducer_ms": realised.reducer_ms,
        "stages": [asdict(stage) for stage in realised.stages],
    }


def _text(report: dict[str, Any]) -> str:
    rows = [
        (
            answer["question"],
            f"{answer['answer']} ({answer['probability']:.0%})",
            f"unreduced: {answer['unreduced_answer']}",
        )
        for answer in report["answers"]
    ]
    facts = [
        ("pipeline", f"{report['pipeline']} ({report['config_id']})"),
        (
            "tokens",
            f"{report['n_tokens']} of {report['vanilla_tokens']} "
            f"({report['retention_ratio']:.1%}), and {report['newline_tokens']} newline",
        ),
        ("per frame", " ".join(map(str, report["tokens_per_frame"]))),
        ("frames", " ".join(map(str, report["frame_indices"]))),
        ("reducer", f"{report['reducer_ms']:.1f} ms"),
    ]
    return f"{columns(rows)}\n\n{columns(facts)}"

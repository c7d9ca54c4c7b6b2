"""``tokenred bench``: measure time, memory and speed of pipelines on a model."""

from __future__ import annotations

import json as json_
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tokenred.accounting import FORMULAS, LlmShape
from tokenred.cli._common import (
    Json,
    Overrides,
    PluginFiles,
    parse_overrides,
    parse_retention,
    say,
    table_console,
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
    Threads,
    TrustRemoteCode,
    check_media,
    check_sampling,
    default_frames,
    generated_media,
    load,
    read_media,
)
from tokenred.errors import ConfigError, InputError, nearest
from tokenred.plugins import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tokenred.evaluation.bench.measure import Bench, Candidate, Rounds
    from tokenred.models.inputs.media import MediaInput
    from tokenred.models.loading import LoadedModel

EXAMPLES = (
    "tokenred bench",
    "tokenred bench aot visionzip --retention 0.10",
)
"""What its help shows."""

DEFAULT = ("aot-paper", "top-attention", "downsample", "fastv", "pyramiddrop")
"""Pipelines to measure, as far as they are installed."""
QUESTION = "What happens here?"
GENERATED = 3
"""Number of the generated video that is shown by default."""
INTERRUPTED = 130
PIPE_WIDTH = 110
"""Columns in a pipe or a file, where there is no terminal to ask; the tables need 100."""


def bench(
    pipelines: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PIPELINE]...",
            help=f"Presets or YAML files; vanilla always, and by default {', '.join(DEFAULT)}.",
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(help="A video file, or an image file; a generated video by default."),
    ] = None,
    model: Model = None,
    revision: Revision = None,
    frames: Frames = None,
    by: By = "index",
    fps: Fps = None,
    retention: Annotated[
        str,
        typer.Option(help="Token budgets, such as 0.25,0.10; each pipeline's own by default."),
    ] = "",
    repeats: Annotated[int, typer.Option(min=1, max=10**6, help="Measured rounds.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, max=10**6, help="Warm-up rounds, dropped.")] = 3,
    new_tokens: Annotated[
        int, typer.Option(min=1, max=2**20, help="Tokens to generate, exactly.")
    ] = 16,
    threads: Threads = 1,
    device: Device = "auto",
    dtype: Dtype = "auto",
    formula: Annotated[
        str, typer.Option(help=f"Of the FLOPs, one of {', '.join(FORMULAS)}.")
    ] = "paper",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write everything to a JSON file.")
    ] = None,
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    force: Force = False,
    set_: Overrides = None,
    plugin: PluginFiles = None,
    json: Json = False,
) -> None:
    """Measure time, memory and speed of pipelines on a model, with their FLOPs beside them.

    All pipelines take turns, round by round. Stop at any time; whole rounds are shown.
    """
    import torch

    from tokenred import embedded
    from tokenred.evaluation.bench.measure import candidates
    from tokenred.evaluation.files import check_place

    if formula not in FORMULAS:
        raise ConfigError(f"unknown FLOPs formula '{formula}'{nearest(formula, FORMULAS)}")
    installed = [name for name in DEFAULT if name in registry().presets()]
    found = candidates(pipelines or installed, parse_retention(retention), parse_overrides(set_))
    check_sampling(frames, by, fps)
    if video is not None:
        check_media(video)
    if out is not None:
        check_place(out)
    torch.set_num_threads(threads)
    loaded, small = load(model, device, dtype, revision, offline, trust_remote_code, force)
    n_frames = frames or default_frames(small)
    if video is None:
        media = generated_media(GENERATED, n_frames, "video" in loaded.adapter.token_ids)
    else:
        media = read_media(video, n_frames, by, fps)
    sample = embedded.generate_sample(GENERATED)
    report, rounds = _measure(
        loaded,
        found,
        media,
        sample.questions[0].prompt if small else QUESTION,
        (repeats, warmup, new_tokens, formula),
        ("embedded" if model is None else model, str(video or f"generated video {GENERATED}")),
    )
    _show(report, json, out)
    _finish(rounds, repeats)


def _measure(
    loaded: LoadedModel,
    found: list[Candidate],
    media: MediaInput,
    question: str,
    how: tuple[int, int, int, str],
    names: tuple[str, str],
) -> tuple[Bench, Rounds]:
    from tokenred.evaluation.bench.environment import Noise, describe_environment, fixed_matmul
    from tokenred.evaluation.bench.measure import Bench, costs, measure
    from tokenred.evaluation.bench.peak_memory import METHODS, peak_memory
    from tokenred.models.timing import Stopwatch

    repeats, warmup, new_tokens, formula = how
    device = loaded.plan.device
    attention = str(getattr(loaded.model.config, "_attn_implementation", "unknown"))
    environment = describe_environment(device, loaded.plan.dtype, attention)
    stopwatch = Stopwatch.of(device)
    ask = partial(
        loaded.session.time,
        loaded.inputs_of(question, loaded.prepare(media)),
        new_tokens=new_tokens,
        stopwatch=stopwatch,
        frame_times=media.frame_times,
    )
    multiply = fixed_matmul(device)
    with _bar(warmup + repeats) as on_round:
        rounds = measure(
            ask,
            found,
            repeats=repeats,
            warmup=warmup,
            matmul_ms=lambda: stopwatch.time_ms(multiply),
            on_round=on_round,
        )
    memory = {
        each.label: peak_memory(lambda each=each: ask(each.pipeline), device)  # type: ignore[misc]
        for each in found
        if each.label in rounds.answers and not rounds.stopped
    }
    shape, remarks = _shape(loaded)
    measured = any(memory.values())
    report = Bench(
        model=names[0],
        revision=loaded.revision,
        model_class=loaded.plan.model_class,
        media=names[1],
        media_kind=media.kind,
        n_frames=max([1, *map(len, media.frame_indices)]),
        question=question,
        new_tokens=new_tokens,
        rounds=rounds.n_rounds,
        warmup=warmup,
        formula=formula,
        memory_method=METHODS[device.type] if measured else None,
        environment=environment,
        noise=Noise.of(rounds.matmul_ms),
        pipelines=costs(found, rounds, memory, shape, formula),
        failures={label: str(error) for label, error in rounds.failures.items()},
        remarks=remarks,
    )
    return report, rounds


def _shape(loaded: LoadedModel) -> tuple[LlmShape | None, tuple[str, ...]]:
    try:
        return LlmShape.of(loaded.model.config), ()
    except InputError as error:
        return None, (f"No FLOPs: {error}.",)


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar on stderr; yield the function to call after every round."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    parts = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), Remaining())
    quiet = not console.is_terminal
    # It is redrawn between the rounds only: a thread that does so at any time would be measured.
    with Progress(
        *parts, console=console, transient=True, auto_refresh=False, disable=quiet
    ) as progress:
        rounds = progress.add_task("rounds", total=total)

        def advance() -> None:
            progress.advance(rounds)
            progress.refresh()

        yield advance


def _show(report: Bench, as_json: bool, out: Path | None) -> None:
    from tokenred.evaluation.files import write_whole
    from tokenred.report.cost import bench_caption, bench_tables

    text = json_.dumps(
        asdict(report) | {"caption": bench_caption(report)}, indent=2, ensure_ascii=False
    )
    if as_json:
        print(text)
    else:
        table_console(PIPE_WIDTH).print(bench_tables(report))
    if out is not None:
        write_whole(out, f"{text}\n")


def _finish(rounds: Rounds, repeats: int) -> None:
    """Exit with the code of the failures, if any."""
    if rounds.stopped:
        say(f"tokenred: stopped after {rounds.n_rounds} of {repeats} rounds")
        raise typer.Exit(INTERRUPTED)
    for label, error in rounds.failures.items():
        say(f"tokenred: {label} was not measured: {error}")
    if rounds.failures:
        raise typer.Exit(max(error.exit_code for error in rounds.failures.values()))

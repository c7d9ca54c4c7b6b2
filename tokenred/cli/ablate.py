"""``tokenred ablate``: compare pipelines, and the parts of one, on questions about videos."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokenred.cli._common import (
    Json,
    Overrides,
    PluginFiles,
    emit,
    parse_overrides,
    parse_retention,
    parse_sweep,
    say,
    table_console,
)
from tokenred.cli._media import (
    Device,
    Dtype,
    Model,
    Offline,
    Revision,
    Threads,
    TrustRemoteCode,
    quiet_transformers,
)
from tokenred.cli._talk import command, progress_line
from tokenred.errors import ConfigError, TokenredError, shown
from tokenred.plugins import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tokenred.evaluation.ablation import Ablation
    from tokenred.evaluation.preview import Preview
    from tokenred.evaluation.runner import Progress
    from tokenred.evaluation.summary import Summary
    from tokenred.evaluation.task import Task

EXAMPLES = (
    "tokenred ablate",
    "tokenred ablate --pipelines aot,visionzip,fastvid --retention 0.25,0.10",
    "tokenred ablate aot --sweep intra_frame.coupler.epsilon=0.02,0.1,0.5 --limit 100",
    "tokenred ablate --pipelines aot,mine.yaml --task questions.jsonl --model FOLDER_OR_ID",
)
"""What its help shows."""

DEFAULT = "components"
DEFAULT_LIMIT = 200


def ablate(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|NAME",
            help="An ablation file, its name, or a pipeline; 'components' by default.",
        ),
    ] = None,
    pipelines: Annotated[
        str,
        typer.Option(
            metavar="A,B,...", help="Compare these presets or files, such as aot,visionzip,me.yaml."
        ),
    ] = "",
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=V1,V2",
            help="Try values of a setting of one pipeline; repeat for all combinations.",
        ),
    ] = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=2**20, help="Frames of each video; the task's own by default."),
    ] = None,
    retention: Annotated[
        str, typer.Option(help="Token budgets, such as 0.25,0.10; the file's own by default.")
    ] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=2**31, help="Videos to answer about.")
    ] = DEFAULT_LIMIT,
    out: Annotated[
        Path | None, typer.Option(help="Folder for results and tables; runs/NAME by default.")
    ] = None,
    set_: Overrides = None,
    plugin: PluginFiles = None,
    json: Json = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute these rows again instead of resuming.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try every row on one video and show what would run.")
    ] = False,
    task: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|FOLDER",
            help="A task's name, a YAML file, a JSONL file of questions, a video or a folder.",
        ),
    ] = "embedded",
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="lmms-eval:TASKS",
            help="Tasks of lmms-eval instead, such as lmms-eval:mvbench,videomme.",
        ),
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with lmms-eval task files of your own.")
    ] = None,
    prompts_of: Annotated[
        str | None,
        typer.Option(help="Model whose lmms-eval prompts are used, such as llava_vid."),
    ] = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    offline: Offline = False,
    trust_remote_code: TrustRemoteCode = False,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Leave out videos on which a row fails, and say so."),
    ] = False,
    allow_mixed: Annotated[
        bool,
        typer.Option("--allow-mixed", help="Also use stored answers of other code versions."),
    ] = False,
    executor: Annotated[
        str,
        typer.Option(
            help="local: in this process; ray: in many, on one machine or a cluster; or a plugin's."
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Address of a running Ray cluster; default: a local one."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=4096, help="Worker processes, with --executor ray.")
    ] = 2,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that caches vision tower output for reuse.")
    ] = None,
    cache_gb: Annotated[
        float,
        typer.Option(min=0.001, max=1e6, help="Size limit of the cache; oldest files go first."),
    ] = 20.0,
    threads: Threads = 1,
) -> None:
    """Answer questions about videos under every row of an ablation, and compare the rows.

    Results go to OUT/results.sqlite as they arrive. Stop at any time; the same command resumes.
    """
    from tokenred.evaluation import runner
    from tokenred.evaluation.manifest import STORE, make_run, write_run
    from tokenred.evaluation.model import ModelSpec, VideoLlm
    from tokenred.evaluation.preview import preview
    from tokenred.evaluation.store import Store
    from tokenred.evaluation.summary import n_steps, summarise
    from tokenred.evaluation.worker import ExecutorRequest
    from tokenred.report.table import write_tables

    try:
        make_executor = registry().imported("executor", executor)
    except ConfigError as error:
        raise error.below(["--executor"]) from None
    judged_data = None if suite else _task_of(task, model, frames)
    of_rows = None if judged_data and _samples_by_itself(judged_data) else frames
    ablation = _ablation(what, pipelines, sweep, parse_overrides(set_), of_rows)
    rows = ablation.expand(parse_retention(retention))
    spec = ModelSpec(model, revision, device, dtype, offline, trust_remote_code)
    folder = out or Path("runs") / _folder_name(ablation.config.name, suite or task, model)
    path = folder / STORE
    judged: Any
    llm: Any
    if suite is None:
        assert judged_data is not None
        judged = judged_data
        remember = None if cache is None else _cache(cache, cache_gb)
        llm = VideoLlm(
            spec,
            remember,
            on_load=partial(_prepare, model, threads),
            on_plan=None if model is None else lambda plan: say(str(plan)),
        )
    else:
        _refuse_with_suite(dry_run=dry_run, executor=executor != "local", cache=cache is not None)
        from tokenred.integrations.suite_run import SuiteRun

        _prepare(model, threads)
        judged = SuiteRun(
            suite, spec, limit=limit, include_path=include_path, prompts_of=prompts_of
        )
        llm = judged.model
    limit = min(limit, judged.n_samples) if suite is None else judged.n_samples
    if suite is None:
        llm.check_questions(judged.questions(limit))
    if dry_run:
        _show_plan(preview(rows, judged, llm, path, limit), limit, json)
        return
    with Store(path) as store:
        if suite is None:
            planned = runner.plan(rows, judged, llm, store)
            work = make_executor(
                ExecutorRequest(judged, llm, keep_going, address, workers, threads, remember)
            )
            compute = partial(runner.run_ablation, planned, judged, store, limit, work)
        else:
            planned = judged.plan(rows, store)
            compute = partial(judged.run, planned, store)
        if fresh:
            for cell in planned:
                store.forget(cell.origin)
        run = make_run(ablation, planned, judged, llm, limit, allow_mixed)
        say(f"{len(planned)} rows on {limit} samples; results in {path}")
        begun = partial(write_run, run, folder)
        _watched(partial(compute, any_code=allow_mixed), len(planned) * limit, path, begun)
        store.check_file()
        with progress_line("statistics", n_steps(run)) as step:
            summary = summarise(run, store, step)
    write_tables(summary, folder)
    _print_summary(summary, json)
    page = command("report", str(folder))
    say(f"next: {page}   (plots, samples with frames, one HTML page)")


def _ablation(
    what: str | None,
    pipelines: str,
    sweep: list[str] | None,
    overrides: dict[str, Any],
    frames: int | None,
) -> Ablation:
    """Return what is compared: a file, a pipeline, several pipelines, or one under a sweep."""
    from tokenred.evaluation.ablation import is_preset, load_ablation, of_pipelines
    from tokenred.files import is_yaml, read_yaml

    named = [each.strip() for each in pipelines.split(",") if each.strip()]
    if pipelines and not named:
        raise ConfigError("names no pipeline", ["--pipelines"])
    if named and what is not None:
        raise ConfigError(f"say --pipelines or '{shown(what)}', not both", ["--pipelines"])
    if named:
        return of_pipelines(named, parse_sweep(sweep), overrides, frames)
    is_file = what is not None and is_yaml(what)
    if is_file:
        is_pipeline = "stages" in (data := read_yaml(Path(str(what)))) or "extends" in data
    else:
        is_pipeline = what is not None and is_preset(what)
    if sweep and what is not None and not is_pipeline:
        raise ConfigError(
            f"a sweep changes a pipeline; '{shown(what)}' is an ablation", ["--sweep"]
        )
    if sweep:
        return of_pipelines([what or "aot-paper"], parse_sweep(sweep), overrides, frames)
    if is_file and is_pipeline:
        return of_pipelines([str(what)], None, overrides, frames)
    found = load_ablation(what or DEFAULT, overrides)
    return found if frames is None else found.with_frames(frames)


def _task_of(task: str, model: str | None, frames: int | None) -> Task:
    """Return the task, with settings that fit the embedded model where nobody says otherwise."""
    from tokenred.embedded import NUM_FRAMES
    from tokenred.evaluation.task import load_task

    embedded = {"frames": NUM_FRAMES, "show_options": "none"} if model is None else {}
    asked = {} if frames is None else {"frames": frames}
    return load_task(task, defaults=embedded, overrides=asked)


def _samples_by_itself(task: Task) -> bool:
    """Return whether a task samples as many frames of a video as it is told to."""
    return "frames" in type(task.config).model_fields


def _folder_name(name: str, task: str, model: str | None) -> str:
    """Return a folder for what is run: another task or model has another one."""
    parts = [name, *(() if task == "embedded" else [Path(task).stem])]
    parts += [] if model is None else [Path(model).name]
    return "-".join(re.sub(r"[^\w+.]+", "-", part).strip("-.") or "_" for part in parts)[:150]


def _refuse_with_suite(**given: bool) -> None:
    for name, wanted in given.items():
        if wanted:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError("cannot be used together with --suite", [option])


def _prepare(model: str | None, threads: int) -> None:
    """Set threads and logging before a model is loaded."""
    import torch

    if model is None:
        say("loading the embedded model")
    torch.set_num_threads(threads)
    quiet_transformers()


def _watched(
    compute: Callable[..., Progress], n_cells: int, path: Path, begun: Callable[[], None]
) -> None:
    """Compute under a progress bar on stderr; say how to resume after an interrupt.

    Parameters
    ----------
    begun : called once there is a result
    """
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.TextColumn("results"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[speed]}"),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        cells = bar.add_task("", total=n_cells, speed="")

        waiting = [begun]

        def show(progress: Progress) -> None:
            if waiting and progress.cells_done > progress.cells_failed:
                waiting.pop()()
            seconds = bar.tasks[0].elapsed or 0.0
            speed = f"{progress.cells_computed / seconds:.1f}/s" if seconds else ""
            if progress.cells_failed:
                speed += f", {progress.cells_failed} failed"
            bar.update(cells, total=progress.n_cells, completed=progress.cells_done, speed=speed)

        try:
            done = compute(on_progress=show)
        except KeyboardInterrupt as stop:
            error = TokenredError(
                f"stopped; what was computed is in {path}, the same command resumes"
            )
            error.exit_code = getattr(stop, "exit_code", error.exit_code)
            raise error from None
    say(f"{done.cells_computed} results computed, {done.cells_reused} found in the store")
    if done.cells_failed:
        say(f"{done.cells_failed} failed, they are tried again next time: {done.latest_failure}")


def _cache(folder: Path, gigabytes: float) -> Any:
    from tokenred.evaluation.feature_cache import FeatureCache

    return FeatureCache(folder, int(gigabytes * 1e9))


def _show_plan(previews: Sequence[Preview], limit: int, as_json: bool) -> None:
    """Print the tokens that each row keeps of the first video, and the number of stored results."""
    from dataclasses import asdict

    from rich.table import Table

    lines = [asdict(preview) for preview in previews]
    if as_json:
        emit(lines)
        return
    table = Table(title=f"What would run on {limit} videos; tokens are those of the first")
    for name in lines[0]:
        table.add_column(name, justify="left" if name == "row" else "right")
    for line in lines:
        table.add_row(*(_plain(value) for value in line.values()))
    table_console().print(table)


def _plain(value: object) -> str:
    from rich.markup import escape

    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else escape(str(value))


def _print_summary(summary: Summary, as_json: bool) -> None:
    from tokenred.report.table import to_json, to_rich

    if as_json:
        print(to_json(summary), end="")
    else:
        console = table_console()
        console.print(to_rich(summary, console.width))

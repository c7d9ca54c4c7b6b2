"""Tables of ``tokenred bench``: time to first token, comparison with vanilla, memory, stages."""

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from tokenred.accounting import flops_text, flops_unit
from tokenred.evaluation.bench.measure import UNATTACHED, VANILLA, Bench, PipelineCost, Spread
from tokenred.report.columns import NOT_APPLICABLE
from tokenred.report.text import dim, new_table

FLAG = "fewer FLOPs, not faster"


def bench_tables(bench: Bench) -> Group:
    """Return the tables with header and caption, at most 100 columns wide."""
    tables = [table(bench) for table in (_times, _against_vanilla, _rest, _stages)]
    return Group(*dim([bench_header(bench)]), *tables, *dim(bench_caption(bench)))


def bench_header(bench: Bench) -> str:
    """Return model, environment and rounds in words."""
    where = bench.environment
    revision = f" ({bench.revision[:12]})" if bench.revision else ""
    load = "" if where.load_average is None else f", load {where.load_average:.1f} at the start"
    frames = f", {bench.n_frames} frames" if bench.media_kind == "video" else ""
    return (
        f"{bench.model}{revision}, {where.dtype} on {where.device}; {bench.media}{frames}; "
        f"{_counted(bench.rounds, 'round')} after {bench.warmup} to warm up\n"
        f"{where.cpu}, {_counted(where.threads, 'thread')} of {_counted(where.n_cores, 'core')}"
        f"{load}; torch {where.torch}, transformers {where.transformers}, "
        f"tokenred {where.tokenred}"
    )


def bench_caption(bench: Bench) -> list[str]:
    """Return the sentences that explain the tables."""
    lines = [
        "Medians of the rounds; brackets hold the middle half of them. Every round asks every row "
        "once. encoder + reducer + prefill = TTFT in each round: vision tower and projector with "
        "the cues that the pipeline reads; the stages before the LLM; all the rest up to the first "
        "token. Reading the file and preparing its pixels are not counted.",
        f"'{VANILLA}' is the unreduced model with tokenred around it, '{UNATTACHED}' the model by "
        "itself. Shares of the TTFT are to vanilla's in the same round; a row is faster, or "
        "slower, if it was so in three rounds of four.",
        f"FLOPs are those of prefill by the formula '{bench.formula}', for visual tokens layer by "
        "layer; tower, reducer, text and newline tokens are not in them.",
    ]
    if bench.memory_method is not None:
        lines.append(
            "extra MB is the memory of one call at its peak, above what was in use before it: "
            f"{bench.memory_method}."
        )
    lines.append(str(bench.noise))
    where = bench.environment
    if where.load_average is not None and where.load_average > where.n_cores:
        lines.append(
            f"The load was {where.load_average:.1f} on {_counted(where.n_cores, 'core')} at the "
            "start: other work was in the way."
        )
    flagged = [cost.label for cost in bench.pipelines if cost.fewer_flops_not_faster]
    if flagged:
        lines.append(f"Fewer FLOPs, but not faster than vanilla here: {', '.join(flagged)}.")
    lines += [f"Not measured: {label}: {reason}." for label, reason in bench.failures.items()]
    return [*lines, *bench.remarks]


def _times(bench: Bench) -> Table:
    names = ["", "encoder", "reducer", "prefill", "TTFT"]
    table = new_table("Milliseconds to the first token", names)
    for cost in bench.pipelines:
        parts = (cost.encoder_ms, cost.reducer_ms, cost.prefill_ms, cost.ttft_ms)
        table.add_row(cost.label, *map(_spread, parts))
    return table


def _against_vanilla(bench: Bench) -> Table:
    unit = flops_unit([cost.prefill_flops or 0 for cost in bench.pipelines])
    table = new_table("Against vanilla", ["", "tokens", f"{unit}FLOPs", "TTFT", ""])
    for cost in bench.pipelines:
        table.add_row(cost.label, _tokens(cost), _flops(cost, unit), _share(cost), _verdict(cost))
    return table


def _rest(bench: Bench) -> Table:
    table = new_table("Prompt, decoding and memory", ["", "prompt", "tokens/s", "extra MB"])
    for cost in bench.pipelines:
        memory = "" if cost.memory is None else f"{cost.memory.extra_bytes / 1e6:.1f}"
        speed = _spread(cost.decode_tokens_per_s)
        table.add_row(cost.label, str(cost.prompt_tokens), speed, memory or NOT_APPLICABLE)
    return table


def _stages(bench: Bench) -> Table:
    table = new_table("Stages before the LLM", ["", "stage", "ms", "tokens left"])
    for cost in bench.pipelines:
        for number, stage in enumerate(cost.stages):
            label = "" if number else cost.label
            table.add_row(label, escape(stage.name), _spread(stage.ms), str(stage.n_tokens))
    return table


def _verdict(cost: PipelineCost) -> str:
    if cost.label == VANILLA:
        return ""
    return f"[bold]{FLAG}[/bold]" if cost.fewer_flops_not_faster else cost.speed


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NOT_APPLICABLE
    digits = 0 if spread.median >= 100 else 1 if spread.median >= 10 else 2
    return escape(f"{spread.median:.{digits}f} [{spread.p25:.{digits}f}, {spread.p75:.{digits}f}]")


def _share(cost: PipelineCost) -> str:
    if cost.label == VANILLA:
        return "100 %"
    share = cost.ttft_share
    return escape(f"{share.median:.0%} [{share.p25:.0%}, {share.p75:.0%}]".replace("%", " %"))


def _tokens(cost: PipelineCost) -> str:
    """Return the tokens of the first layer, and of the last if they differ."""
    if cost.n_tokens is None or cost.vanilla_tokens is None:
        return NOT_APPLICABLE
    if cost.layer_tokens and cost.layer_tokens[-1] != cost.n_tokens:
        return f"{cost.n_tokens} to {cost.layer_tokens[-1]}"
    return f"{cost.n_tokens} ({100 * cost.n_tokens / cost.vanilla_tokens:.1f} %)"


def _flops(cost: PipelineCost, unit: str) -> str:
    if cost.prefill_flops is None or cost.flops_share is None:
        return NOT_APPLICABLE
    return f"{flops_text(cost.prefill_flops, unit)} ({100 * cost.flops_share:.1f} %)"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"

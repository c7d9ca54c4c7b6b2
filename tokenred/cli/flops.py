"""``tokenred flops``: FLOPs of prefill and decoding by a named formula, term by term."""

from typing import Annotated, Any

import typer

from tokenred.accounting import (
    FORMULAS,
    UNITS,
    Flops,
    Formula,
    decode_flops,
    find_shape,
    flops_unit,
    parse_schedule,
    prefill_flops,
    schedule_of,
    schedule_text,
)
from tokenred.cli._common import Json, align_columns, emit
from tokenred.errors import ConfigError

EXAMPLES = (
    "tokenred flops",
    "tokenred flops qwen2-7b --retention-ratio 0.1",
)
"""What its help shows."""


def flops(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A folder with a config.json, such a file, or a name such as qwen2-7b; "
            "the embedded model by default.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=2**31, help="Frames; 32, and 8 for the embedded model.")
    ] = None,
    tokens_per_frame: Annotated[
        int | None,
        typer.Option(
            min=1, max=2**31, help="Tokens of an unreduced frame; 196, and 49 for the embedded."
        ),
    ] = None,
    retention_ratio: Annotated[
        float | None,
        typer.Option(help="Kept share before the LLM, rounded up for each frame; all by default."),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            metavar="LAYERSxTOKENS,...",
            help="Instead of a ratio: tokens entering the layers, such as 18x640,10x320.",
        ),
    ] = None,
    text_tokens: Annotated[
        int,
        typer.Option(min=0, max=2**31, help="Text tokens to count, too; the papers count none."),
    ] = 0,
    generated: Annotated[int, typer.Option(min=1, max=2**31, help="Tokens to generate.")] = 100,
    formula: Annotated[str, typer.Option(help=f"One of {', '.join(FORMULAS)}.")] = "paper",
    json: Json = False,
) -> None:
    """Count the FLOPs of prefill and decoding, reduced and vanilla, with every term."""
    from tokenred.embedded import GRID_SIZE, MODEL_DIR, NUM_FRAMES

    shape = find_shape(model or str(MODEL_DIR))
    frames = frames or (32 if model else NUM_FRAMES)
    tokens_per_frame = tokens_per_frame or (196 if model else ((GRID_SIZE + 1) // 2) ** 2)
    if schedule is not None and retention_ratio is not None:
        raise ConfigError("give --schedule or --retention-ratio, not both")
    entering = (
        frames * _quota(tokens_per_frame, 1.0 if retention_ratio is None else retention_ratio)
        if schedule is None
        else parse_schedule(schedule, shape.n_layers)
    )
    kept = schedule_of(entering, shape.n_layers, text_tokens)
    full = schedule_of(frames * tokens_per_frame, shape.n_layers, text_tokens)
    prefill = [prefill_flops(each, shape, formula) for each in (kept, full)]
    decode = [decode_flops(each, shape, generated, formula) for each in (kept, full)]
    report = {
        "model": model or "embedded",
        "n_layers": shape.n_layers,
        "sizes": shape.sizes,
        "formula": formula,
        "frames": frames,
        "tokens_per_frame": tokens_per_frame,
        "schedule": schedule_text(kept),
        "vanilla_schedule": schedule_text(full),
        "text_tokens": text_tokens,
        "n_generated": generated,
        "prefill": _cost(*prefill),
        "decode": _cost(*decode),
        "total": _shares(*(before.total + after.total for before, after in zip(prefill, decode))),
    }
    if json:
        emit(report)
    else:
        print(_text(report, FORMULAS[formula]))


def _quota(tokens_per_frame: int, retention_ratio: float) -> int:
    from tokenred.pipeline.budget import frame_quota

    if not 0 < retention_ratio <= 1:
        raise ConfigError(f"a share lies in (0, 1], got {retention_ratio}", ["retention_ratio"])
    return frame_quota(tokens_per_frame, retention_ratio)


def _shares(value: int, vanilla: int) -> dict[str, Any]:
    return {"flops": value, "vanilla_flops": vanilla, "share": value / vanilla}


def _cost(reduced: Flops, vanilla: Flops) -> dict[str, Any]:
    terms = [
        {"name": term.name, "expression": term.expression, **_shares(term.value, full.value)}
        for term, full in zip(reduced.terms, vanilla.terms)
    ]
    return {**_shares(reduced.total, vanilla.total), "terms": terms}


def _text(report: dict[str, Any], formula: Formula) -> str:
    top = report["prefill"]["vanilla_flops"]
    unit = flops_unit([top])
    used = {formula.attention, *"".join(symbols for _, symbols in formula.per_token.values())}
    sizes = [f"{symbol} = {size}" for symbol, size in report["sizes"].items() if symbol in used]
    text = f", {report['text_tokens']} of them text" if report["text_tokens"] else ""
    schedules = (
        f"{report['schedule']} (layers x tokens{text}); vanilla {report['vanilla_schedule']}"
    )
    facts = [
        ("model", f"{report['model']}: {report['n_layers']} layers, {', '.join(sizes)}"),
        ("formula", f"{report['formula']}: {formula.summary} ({formula.source})"),
        ("video", f"{report['frames']} frames of {report['tokens_per_frame']} tokens"),
        ("n", schedules),
        ("R", f"{report['n_generated']} generated tokens"),
    ]
    rows: list[tuple[str, ...]] = [("", "each layer", f"{unit}FLOPs", "vanilla", "share")]
    for part in ("prefill", "decode"):
        cost = report[part]
        rows += [
            _row(f"  {term['name']}", term["expression"], term, unit) for term in cost["terms"]
        ]
        rows += [_row(part, "", cost, unit), ("", "", "", "", "")]
    rows.append(_row("total", "", report["total"], unit))
    return f"{align_columns(facts)}\n\n{align_columns(rows)}"


def _row(name: str, expression: str, cost: dict[str, Any], unit: str) -> tuple[str, ...]:
    reduced, vanilla = (f"{cost[key] / UNITS[unit]:.3f}" for key in ("flops", "vanilla_flops"))
    return name, expression, reduced, vanilla, f"{cost['share']:.1%}"

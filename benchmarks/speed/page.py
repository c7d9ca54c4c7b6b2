"""Put the figures of a run into the docs: ``python -m benchmarks.speed.page``.

What stands between ``<!-- figures: NAME -->`` and ``<!-- end -->`` in ``docs/reference/speed.md``
is made from ``results/cpu.json``; the rest is prose and stays. A test checks that both agree.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import plots, stages
from benchmarks.speed.session import ROOT

RESULTS = Path(__file__).parent / "results" / "cpu.json"
PAGE = ROOT / "docs" / "reference" / "speed.md"
ASSETS = ROOT / "docs" / "assets"
_BLOCK = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
FRAME_HEAD = ["frame stage", "ms", "least", "released / this", "this / bare GEMMs"]

Record = Mapping[str, Any]


def expand(text: str, record: Record) -> str:
    """Return the page with every block made anew."""
    return _BLOCK.sub(lambda part: f"{part[1]}\n{BLOCKS[part[2]](record)}\n\n{part[3]}", text)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(head) + " |", "| :-- |" + " --: |" * (len(head) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with so many significant digits, thousands in full; a dash for None."""
    if value is None:
        return "-"
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".")


def _ms(row: Mapping[str, Any]) -> str:
    if "median_ms" not in row:
        return "-"
    spread = 100 * row["mad_ms"] / row["median_ms"] if row["median_ms"] else 0.0
    return f"{number(row['median_ms'])} ±{spread:.0f} %"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{number(value)}x"


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{number(value / 1e6)}"


def goals_table(record: Record) -> str:
    """Return every goal beside its figure."""
    said = {True: "reached", False: "**not reached**", None: "not judged"}
    rows = []
    for goal in record["goals"]:
        unit = f" {goal['unit']}" if goal["unit"] not in ("", "x") else goal["unit"]
        figure = "-" if goal["figure"] is None else f"{number(goal['figure'])}{unit}"
        wanted = f"{goal['sense']} {number(goal['wanted'])}{unit}"
        verdict = said[goal["reached"]]
        if goal["remark"]:
            verdict += f": {goal['remark']}"
        rows.append([goal["name"], wanted, figure, verdict, goal["rests_on"]])
    return table(["goal", "wanted", "figure", "verdict", "rests on"], rows)


def _machine(record: Record) -> str:
    machine, sizes = record["machine"], record["sizes"]
    versions = ", ".join(f"{name} {found}" for name, found in record["versions"].items() if found)
    about = (
        f"{machine['cpu']}, one of {machine['n_cores']} cores, one thread, {machine['system']}, "
        f"Python {machine['python']}; {versions}. Medians of {sizes['repeats']} rounds and more, "
        "± the median absolute deviation."
    )
    return "\n\n".join([about, *(_run(run) for run in record["runs"])])


def _run(run: Record) -> str:
    """Say which parts a run measured, and how quiet the machine was."""
    before, after = (number(run["load_average"][when], 2) for when in ("start", "end"))
    malloc = "trimming was disabled" if run["trimming_disabled"] else "was the default"
    parts = ", ".join(part.replace("_", " ").replace(".", " with ") for part in run["parts"])
    return (
        f"**Commit {run['commit']}** ({parts}): load average {before} at the start, {after} at the "
        f"end. Malloc {malloc}. {run['noise']['sentence']}"
    )


def _missing(part: Record) -> str:
    lines = [f"- {name}: {why}" for name, why in part["missing"].items()]
    return "\n\nNot in the table:\n\n" + "\n".join(lines) if lines else ""


def _equal(record: Record) -> str:
    part = record["equal_iterations"]
    mine = [row["name"] for row in part["rows"] if row["group"] == "ours"]
    rows = []
    ordered = sorted(part["rows"], key=lambda row: (not row["ranked"], row["median_ms"]))
    for row in ordered:
        rows.append(
            [
                row["name"] + (f" ({row['remark']})" if row["remark"] else ""),
                _ms(row),
                number(row["min_ms"]),
                *(_times(row["against"].get(name)) if row["ranked"] else "-" for name in mine),
                number(row["plan_l1"], 2),
                number(row["row_l1"], 2),
                number(row["column_l1"], 2),
                number(row["first_ms"]),
            ]
        )
    head = ["solver", "ms", "least", *(f"this / {name}" for name in mine)]
    head += ["plan, L1", "rows, L1", "columns, L1", "first call, ms"]
    return table(head, rows) + _missing(part)


def _accuracy(record: Record) -> str:
    part = record["time_to_accuracy"]
    rows = []
    for row in part["rows"]:
        rows.append(
            [
                row["name"] + (f" ({row['remark']})" if row["remark"] else ""),
                "-" if row["target"] is None else f"{row['target']:g}",
                "-" if row["sweeps"] is None else str(row["sweeps"]),
                _ms(row),
                number(row["violation"], 2),
                _times(row.get("against_released_stop")),
            ]
        )
    head = ["solver", "target", "sweeps", "ms", "found", "this / released stop"]
    return table(head, rows) + _missing(part)


def _sweeps(rows: Sequence[Mapping[str, Any]]) -> str:
    counted = [row for row in rows if "sweeps" in row]
    stopped = {
        (row["source"], row["cost"], row["epsilon"]): row for row in rows if "sweeps_made" in row
    }
    targets = list(counted[0]["sweeps"])
    lines = []
    for row in counted:
        key = row["source"], row["cost"], row["epsilon"]
        least = " / ".join(
            "-" if row["sweeps"][t] is None else str(row["sweeps"][t]) for t in targets
        )
        left = f"{stopped[key]['sweeps_made']}, {number(stopped[key]['violation'], 2)}"
        lines.append(
            [
                f"{row['source']}, {row['cost']}",
                f"{row['epsilon']:g}",
                row["method"],
                least,
                number(row["violation_at_100"], 2),
                left if row["method"] == "plain" else "",
            ]
        )
    head = ["features, cost", "epsilon", "method", f"sweeps to {' / '.join(targets)}"]
    return table([*head, "left after 100", "release: sweeps, left"], lines)


def _real(record: Record) -> str:
    part = record["real"]
    if "skipped" in part:
        return f"Skipped in this run: {part['skipped']}."
    return _sweeps(part["rows"])


def _default_malloc(record: Record) -> str:
    return table(
        FRAME_HEAD, [[row["name"], *_frame_times(row)] for row in record["default_malloc"]]
    )


def _frame_times(row: Mapping[str, Any]) -> list[str]:
    return [
        _ms(row),
        number(row["min_ms"]),
        _times(row["against"].get(stages.RELEASED)),
        _times(row["against"].get(stages.GEMMS)),
    ]


def _frame(record: Record) -> str:
    part = record["frame_stage"]
    memory = {(row["name"], row["dtype"]): row for row in record["memory"]}
    rows = []
    for row in part["rows"]:
        base = row["name"].removesuffix(f", {row['dtype']}")
        path = base.rpartition(", ")[2]
        bare = base.removesuffix(f", {path}") if path in ("native", "torch") else base
        used = memory.get((bare, row["dtype"]))
        rows.append(
            [
                f"{base}, {row['dtype']}",
                *_frame_times(row),
                _mb(used["extra_bytes"] if used else None),
                number(row.get("relative_error"), 2),
            ]
        )
    return table([*FRAME_HEAD, "extra MB", "relative error"], rows)


def _segment(record: Record) -> str:
    rows = [
        [
            f"{row['segments']}x{row['segment_frames']} frames, {row['tokens']} tokens",
            row["name"],
            _ms(row),
            _times(row["speedup"]),
            number(row["relative_difference"], 2),
        ]
        for row in record["segment_stage"]
    ]
    head = ["segments", "what", "ms", "released stop / this", "relative difference"]
    return table(head, rows)


def _reducer(record: Record) -> str:
    names = list(record["reducer"][0]["stage_wall_ms"])
    rows = [
        [
            f"{row['dtype']}, {row['path']}",
            _ms(row),
            *(number(row["stage_wall_ms"][name]) for name in names),
        ]
        for row in record["reducer"]
    ]
    return table(["whole reducer", "ms", *(f"{name}, wall ms" for name in names)], rows)


def _limits(record: Record) -> str:
    part = record["limits"]
    lines = []
    if part["measured"]:
        labels = {
            "gflops": "float32 arithmetic, GFLOP/s",
            "l1_gbs": "first-level cache, GB/s",
            "l2_gbs": "second-level cache, GB/s",
            "l3_gbs": "third-level cache, GB/s",
            "dram_gbs": "memory, GB/s",
        }
        known = [[labels.get(k, k), number(v)] for k, v in part["measured"].items()]
        lines.append(table(["one core", "measured"], known))
    else:
        lines.append(f"Not measured in this run: {part.get('missing', 'unknown')}.")
    rows = [
        [
            row["name"],
            number(row["sweep_ms"]),
            number(row["gbs"]),
            number(row["gflops"]),
            "-" if row.get("share_of_l2") is None else f"{100 * row['share_of_l2']:.0f} %",
        ]
        for row in part["sweeps"]
    ]
    head = ["one sweep, 32 x 603 x 126", "ms", "GB/s", "GFLOP/s", "of the second-level cache"]
    return "\n\n".join([*lines, table(head, rows)])


def _scaling(record: Record) -> str:
    out = []
    for axis, curve in record["scaling"].items():
        fixed = dict(curve["fixed"])
        fixed.pop({"frames": "frames", "tokens": "side", "anchors": "n_anchors"}.get(axis, "dim"))
        words = {"side": "tokens a side", "n_anchors": "anchors", "dim": "features"}
        held = ", ".join(
            str(v) if k == "dtype" else f"{v} {words.get(k, k)}" for k, v in fixed.items()
        )
        title = plots.TITLES[axis]
        text = (
            f"**{title.capitalize()}** ({held}): time grows with exponent {curve['exponent']:.2f}."
        )
        for left in curve["left_out"]:
            text += (
                f" {left['at']} is left out: it would need about "
                f"{number(left['estimated_bytes'] / 1e9)} GB."
            )
        rows = [
            [
                str(p["at"]),
                number(p["median_ms"]),
                number(p["median_ms"] / p["at"], 3),
                _mb(p["extra_bytes"]),
                _mb(p["feature_bytes"]),
            ]
            for p in curve["points"]
        ]
        head = [title, "ms", "ms for one", "extra MB", "features, MB"]
        image = f"![Time and memory against {title}](../assets/speed-{axis}.svg)"
        out += [text, image, table(head, rows)]
    return "\n\n".join(out)


def _gradients(record: Record) -> str:
    rows = [
        [
            row["way"],
            str(row["sweeps"]),
            number(row["median_ms"]),
            _mb(row["extra_bytes"]),
            number(row["error"], 2),
        ]
        for row in record["gradients"]
    ]
    return table(["gradient", "sweeps", "ms", "extra MB", "relative error"], rows)


def _whole_path(record: Record) -> str:
    part = record["whole_path"]
    rows = [
        [f"{name}, {found['dtype']}", number(found["tower_ms"]), f"{100 * share:.2f} %"]
        for found in part["capture"]
        for name, share in found["tower_share"].items()
    ]
    cues = table(["cues of", "tower, ms", "cues, of the tower"], rows)
    rows = [
        [
            str(k),
            *(number(each[name]) for name in ("total_ms", "encode_ms", "reduce_ms", "answer_ms")),
            f"{100 * each['rest_share']:.0f} %",
        ]
        for k, each in part["runner"]["configurations"].items()
    ]
    head = ["configurations", "ms a video", "encode", "reduce", "answer", "rest"]
    return f"{cues}\n\n{table(head, rows)}"


BLOCKS: Mapping[str, Callable[[Record], str]] = {
    "machine": _machine,
    "goals": goals_table,
    "equal-iterations": _equal,
    "time-to-accuracy": _accuracy,
    "sweeps": lambda record: _sweeps(record["sweeps"]),
    "real": _real,
    "frame-stage": _frame,
    "default-malloc": _default_malloc,
    "segment-stage": _segment,
    "reducer": _reducer,
    "whole-path": _whole_path,
    "limits": _limits,
    "scaling": _scaling,
    "gradients": _gradients,
}


def main() -> None:
    """Rewrite the page and its pictures."""
    record = json.loads(RESULTS.read_text())
    PAGE.write_text(expand(PAGE.read_text(), record))
    for path in [PAGE, *plots.write(record, ASSETS)]:
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()

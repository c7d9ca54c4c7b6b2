"""The goals of the project's work on speed, beside what a run found.

No time is judged on a noisy machine, and every figure names the row that it rests on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.speed import contenders, stages

Record = Mapping[str, Any]
REGIMES = ("smooth", "contrast", "iid")
"""Those that the goal was set for; real clips are judged beside them, as they are harder."""

LINEAR = 0.1
"""An exponent of growth that is farther from 1 is not called linear."""


@dataclass(frozen=True)
class Goal:
    """One goal and its figure.

    Attributes
    ----------
    sense : whether the figure has to be at least or at most ``wanted``
    figure : None if it was not measured
    part : of the record, as in ``record.PARTS``
    rests_on : table and row
    remark : why there is no figure or no verdict
    timed : whether other work on the machine enters the figure
    noisy : whether there was such work in the run that the part is from
    """

    part: str
    name: str
    sense: Literal[">=", "<="]
    wanted: float
    unit: str
    figure: float | None
    rests_on: str
    remark: str = ""
    timed: bool = True
    noisy: bool = False

    @property
    def reached(self) -> bool | None:
        """None where nothing can be said."""
        if self.figure is None or (self.timed and self.noisy):
            return None
        return self.figure >= self.wanted if self.sense == ">=" else self.figure <= self.wanted


def judge(record: Record) -> list[dict[str, Any]]:
    """Return every goal as it stands in the JSON."""
    loud = {part for run in record["runs"] for part in run["parts"] if run["noise"]["noisy"]}
    rows = []
    for goal in _goals(record):
        noisy, remark = goal.part in loud, goal.remark
        if noisy and goal.timed and goal.figure is not None:
            remark = "the machine was too noisy to judge"
        row = asdict(Goal(**{**vars(goal), "noisy": noisy, "remark": remark}))
        rows.append(row | {"reached": Goal(**row).reached})
        del rows[-1]["noisy"], rows[-1]["timed"]
    return rows


def _goals(record: Record) -> Iterator[Goal]:
    yield from _end_to_end(record)
    yield from _sinkhorn(record)
    yield from _accuracy(record)
    yield from _growth(record)
    yield from _around(record)
    yield from _gpu(record.get("gpu"))


def _end_to_end(record: Record) -> Iterator[Goal]:
    path = "native" if record["native"] else "torch"
    for part, memory_is, table in (
        ("default_malloc", "default malloc", record["default_malloc"]),
        ("frame_stage", "malloc keeps freed memory", record["frame_stage"]["rows"]),
    ):
        rows = {row["name"]: row for row in table}
        for dtype, wanted in (("float32", 85.0), ("bfloat16", 150.0)):
            for label in (stages.PAPER, stages.SAME):
                row = rows[f"{label}, {path}, {dtype}"]
                yield Goal(
                    part,
                    f"frame stage, {dtype}, against the released formulation in float32, "
                    f"{memory_is}",
                    ">=",
                    wanted,
                    "x",
                    row["against"][stages.RELEASED],
                    f"frame stage, {memory_is}: {row['name']}",
                )
    row = rows[f"{stages.PAPER}, {path}, float32"]
    yield Goal(
        "frame_stage",
        "frame stage, float32, against its two bare GEMMs",
        "<=",
        1.15,
        "x",
        row["against"][stages.GEMMS],
        f"frame stage, malloc keeps freed memory: {row['name']}",
    )
    memory = {(row["name"], row["dtype"]): row["extra_bytes"] for row in record["memory"]}
    ours, theirs = memory[stages.PAPER, "float32"], memory[stages.RELEASED, "float32"]
    yield Goal(
        "memory",
        "peak extra memory, share of the released formulation's",
        "<=",
        1 / 25,
        "",
        None if not ours or not theirs else ours / theirs,
        f"memory: {stages.PAPER}, float32",
        timed=False,
    )
    wanted = {34: 1.8, 126: 1.4}
    for row in record["segment_stage"]:
        if row["name"] == f"tokenred, {path}, 100 sweeps":
            size = f"{row['segments']}x{row['segment_frames']} frames, {row['tokens']} tokens"
            yield Goal(
                "segment_stage",
                f"segment stage, {size}, 100 sweeps against the release's 2",
                ">=",
                wanted[row["tokens"]],
                "x",
                row["speedup"],
                f"segment stage: {row['name']}",
            )


def _sinkhorn(record: Record) -> Iterator[Goal]:
    rows = {row["name"]: row for row in record["equal_iterations"]["rows"]}
    missing = record["equal_iterations"]["missing"]

    def against(mine: str, peer: str, wanted: float, called: str) -> Goal:
        figure, remark = None, missing.get(mine) or missing.get(peer, "")
        if mine in rows and peer in rows:
            row = rows[peer]
            figure = row["against"][mine]
            if not row["ranked"]:
                figure, remark = None, f"{peer} is not ranked: {row['remark']}"
        name = f"100 sweeps, {mine.removeprefix('tokenred, ')}, against {called}"
        rests_on = f"equal iterations: {peer}"
        return Goal("equal_iterations", name, ">=", wanted, "x", figure, rests_on, remark)

    loops = [name for name in contenders.POT_LOOPS if name in rows and rows[name]["ranked"]]
    loop = min(loops, key=lambda name: rows[name]["median_ms"], default=contenders.POT_LOOPS[0])
    for mine, figures in (
        (contenders.OURS_TORCH, (2.0, 4.0, 18.0, 10.0, 6.0, 7.0)),
        (contenders.OURS_NATIVE, (10.0, 20.0, 85.0, 50.0, 30.0, 35.0)),
    ):
        pot, batch, log, release, kernel, lse = figures
        yield against(mine, loop, pot, "the fastest POT loop")
        yield against(mine, contenders.POT_BATCH, batch, contenders.POT_BATCH)
        yield against(mine, contenders.POT_BATCH_LOG, log, contenders.POT_BATCH_LOG)
        yield against(mine, contenders.RELEASED, release, contenders.RELEASED)
        yield against(mine, contenders.OTT_KERNEL, kernel, contenders.OTT_KERNEL)
        yield against(mine, contenders.OTT_LSE, lse, contenders.OTT_LSE)
    for row in record["limits"]["sweeps"]:
        if row["name"] == contenders.OURS_NATIVE:
            yield Goal(
                "limits",
                "native sweep, share of the bandwidth of the second-level cache",
                ">=",
                0.75,
                "",
                row.get("share_of_l2"),
                f"limits: {row['name']}",
                record["limits"].get("missing", ""),
            )


def _accuracy(record: Record) -> Iterator[Goal]:
    timed = {(row["name"], row["target"]): row for row in record["time_to_accuracy"]["rows"]}
    for name, wanted in ((contenders.FAST_NATIVE, 0.3), (contenders.FAST_TORCH, 0.85)):
        row = timed.get((name, 1e-4))
        yield Goal(
            "time_to_accuracy",
            f"time to 1e-4, {name.removeprefix('tokenred, ')}, of the release's two sweeps",
            "<=",
            wanted,
            "x",
            None if row is None else row.get("against_released_stop"),
            f"time to accuracy: {name}",
            record["time_to_accuracy"]["missing"].get(name, ""),
        )
    for where, table in (
        (f"worst of {', '.join(REGIMES)}", [r for r in record["sweeps"] if r["source"] in REGIMES]),
        ("worst of real clips", record["real"].get("rows", [])),
    ):
        yield from (
            _fewest(table, target, wanted, where, record["real"].get("skipped", ""))
            for target, wanted in (("0.001", 12), ("1e-06", 24))
        )


def _fewest(
    table: Sequence[Mapping[str, Any]], target: str, wanted: float, where: str, skipped: str
) -> Goal:
    rows = [row for row in table if row["method"] == "Chebyshev" and row["epsilon"] == 0.1]
    known = [row for row in rows if row["sweeps"][target] is not None]
    name = f"sweeps to {float(target):g} at epsilon 0.1, {where}"
    if not rows or len(known) < len(rows):
        remark = "not reached within what was tried" if rows else f"skipped: {skipped}"
        return Goal("sweeps", name, "<=", wanted, "sweeps", None, "sweeps", remark, timed=False)
    worst = max(known, key=lambda row: row["sweeps"][target])
    rests_on = f"sweeps: {worst['source']}, {worst['cost']}"
    figure = worst["sweeps"][target]
    return Goal("sweeps", name, "<=", wanted, "sweeps", figure, rests_on, timed=False)


def _growth(record: Record) -> Iterator[Goal]:
    exponent = record["scaling"]["frames"]["exponent"]
    yield Goal(
        "scaling.frames",
        "growth of time in frames, distance of the exponent from 1",
        "<=",
        LINEAR,
        "",
        abs(exponent - 1),
        f"scaling: frames, exponent {exponent:.3f}",
    )


def _around(record: Record) -> Iterator[Goal]:
    for found in record["whole_path"]["capture"]:
        yield Goal(
            "whole_path",
            f"cues of aot-paper, {found['dtype']}, share of the vision tower",
            "<=",
            0.03,
            "",
            found["tower_share"]["aot-paper"],
            "around the reducer: aot-paper",
        )


def _gpu(found: Mapping[str, Any] | None) -> Iterator[Goal]:
    """Judge what ``benchmarks.speed.gpu`` wrote, where it could run; the graph's time counts."""
    sizes = {(each["frames"], each["anchors"]): each for each in (found or {}).get("sizes", [])}
    few, many = sizes.get((32, 126)), sizes.get((128, 126))
    solve = _transport(few)
    wide = None if many is None or solve is None else many["transport"][solve[0]]["graph_ms"]
    intra = None if few is None else few["intra"]["rows"]["triton, 1e-3, graph"]
    inter = None if few is None else few["inter"]["rows"]["triton, 1e-3"]["graph_ms"]
    if intra is not None and not intra["ranked"]:
        intra = None
    for name, wanted, unit, figure, row in (
        ("100 sweeps, 32 x 603 x 126", 0.30, "ms", solve and solve[1], f"{solve and solve[0]}"),
        ("frame stage, 32 frames", 200.0, "us", intra and 1e3 * intra["ms"], "triton, 1e-3, graph"),
        ("segment stage, 8 x 4 frames", 150.0, "us", inter and 1e3 * inter, "triton, 1e-3, graph"),
        (
            "100 sweeps, 128 frames against 32",
            1.1,
            "x",
            wide and solve and wide / solve[1],
            f"{solve and solve[0]}",
        ),
    ):
        device = "H200" if found is None else found["device"]
        remark = "not run: no GPU" if figure is None else ""
        rests_on = "gpu" if figure is None else f"gpu: {row}"
        yield Goal("gpu", f"{device}: {name}", "<=", wanted, unit, figure, rests_on, remark)


def _transport(size: Mapping[str, Any] | None) -> tuple[str, float] | None:
    """Return the faster of the two kernels that is right, and its milliseconds."""
    if size is None:
        return None
    rows = {
        name: row["graph_ms"]
        for name, row in size["transport"].items()
        if name.startswith("triton") and name.endswith("100 sweeps") and row["row_violation"] < 1e-3
    }
    return min(rows.items(), key=lambda item: item[1], default=None)

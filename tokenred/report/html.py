"""The report as one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenred.evaluation.summary import RowSummary, Summary
from tokenred.report.columns import choose_columns, groups, measure_name
from tokenred.report.explorer import Explorer
from tokenred.report.heat import heat
from tokenred.report.plots import AXES, Plot, forest, pareto
from tokenred.report.table import UNEQUAL, caption

COSTS = {"tokens": "tokens", "flops": "FLOPs", "latency": "measured time"}


@dataclass(frozen=True)
class Provenance:
    """Hashes and versions by name, and the commands to reproduce the figures."""

    versions: dict[str, str] = field(default_factory=dict)
    commands: tuple[str, ...] = ()


def to_html(
    summary: Summary,
    provenance: Provenance,
    explorer: Explorer | None = None,
    keys: Sequence[str] = (),
) -> str:
    """Return the whole page. Equal input gives equal text.

    Parameters
    ----------
    summary : the figures
    provenance : printed at the end of the heading
    explorer : answers sample by sample; None omits the section
    keys : of the columns of the table; all by default
    """
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            summary=summary,
            provenance=provenance,
            head=_head(summary),
            columns=choose_columns(summary, keys),
            groups=groups(summary),
            dagger=UNEQUAL,
            paretos=_paretos(summary),
            forest=_svg(forest(summary)),
            heat=heat(summary),
            explorer=explorer,
            caption=caption(summary),
            measure=measure_name(summary),
            marks=_marks,
        )
    )


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("tokenred.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _head(summary: Summary) -> dict[str, str]:
    """Return model, task, samples, reference and code by name."""
    return {
        "model": f"{summary.model} ({summary.model_revision})",
        "task": f"{summary.task} ({summary.task_fingerprint})",
        "samples": f"{summary.n_samples} videos, {summary.n_questions} questions",
        "reference": summary.reference,
        "code": f"tokenred {summary.code_version}",
    }


def _paretos(summary: Summary) -> list[tuple[str, str, str | None]]:
    """Return key, heading and SVG of each cost; None where nothing was measured."""
    measure = measure_name(summary).capitalize()
    return [(key, f"{measure} against {COSTS[key]}", _svg(pareto(summary, key))) for key in AXES]


def _svg(plot: Plot | None) -> str | None:
    return None if plot is None else plot.svg()


def _marks(row: RowSummary) -> Sequence[str]:
    """Return the CSS classes of a row of the table."""
    flags = {"reference": row.is_reference, "control": row.control, "unequal": row.unequal_budget}
    return [name for name, wanted in flags.items() if wanted]

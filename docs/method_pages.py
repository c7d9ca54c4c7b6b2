"""What presets say about published methods, as one page a method and one table of all.

A method is what presets name in ``about.method``. Its page is ``docs/methods/SLUG.md``.
"""

import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel

from tokenred import BudgetError, load_pipeline
from tokenred.config import StrategyConfig
from tokenred.interfaces import Aggregator, AnchorSelector
from tokenred.pipeline.config import PipelineConfig, load_config, read_pipeline
from tokenred.plugins import registry
from tokenred.registry import Entry
from tokenred.slots import build, parts, slot_role
from tokenred.stages.frame import FrameStageConfig
from tokenred.stages.segment import SegmentStageConfig
from tokenred.testing import video_tokens

GOLDEN = Path(__file__).parent / "reference" / "golden.json"
INSIDE = ("llm", "cache")
RATIOS = (0.25, 0.20, 0.15, 0.10)
LAYOUTS = {"bilinear": "14x14", "average": "13x13"}
"""What LLaVA-OneVision and LLaVA-Video make of 27x27 tokens a frame."""
FRAMES = 8, 32
"""A short video first; what it refuses is asked of one as long as the papers', too."""

COLUMNS = ("segmenter", "selector", "coupler", "aggregator")
PLAIN = ("equal", "none", "keep-only", "drop")
"""Names of the strategies that leave things as they are."""
FIRST = ("n_anchors", "allocator", "segmenter", "reference", "rule", "grouper", "selector")
"""Fields of a stage that its picture shows before the others."""

CUES = {
    "attention": "attention that tokens receive in the tower",
    "class-attention": "attention of the class token",
    "patch-attention": "attention of the other patches",
    "text-similarity": "likeness to the words of the question",
    "salience": "attention of the class token, or received attention in a tower without one",
    "keys": "attention keys of the tower",
    "pooler": "the tower's vector for each frame",
    "tower": "features before the projector",
    "pixels": "the pixels of each token",
}
ATTENTION_OF_POOLER = "attention of the tower's pooling head"


def methods() -> dict[str, list[str]]:
    """Return method -> its presets, the one that stands for it first."""
    found: dict[str, list[str]] = {}
    for name in registry().presets():
        method = load_config(name).about.method
        if method:
            found.setdefault(method, []).append(name)
    return {
        method: sorted(found[method], key=lambda name: _rank(method, name))
        for method in sorted(found, key=str.lower)
    }


def slug(method: str) -> str:
    """Return the name of a method's page: ``PruMerge+`` is ``prumerge-plus``."""
    return re.sub(r"[^a-z0-9]+", "-", method.lower().replace("+", "-plus")).strip("-")


def _rank(method: str, name: str) -> tuple[bool, bool, bool, str]:
    """Sort the preset first that is called like the method, or says that it is the paper's."""
    paper = name == f"{slug(method)}-paper"
    return name != slug(method), not paper, "released" in name, name


def page(method: str) -> str:
    """Everything about one method that presets, registry and records know."""
    names = methods()[method]
    about = load_config(names[0]).about
    facts = {
        "Published": about.paper,
        "Cite": about.citation,
        "Released code": about.source,
        "Licence of that code": about.licence,
        "Here": _distributions(names),
        "Acts": "; ".join(acts(names[0])),
        "Needs": needs_in_words(names),
        "Golden cases": golden_in_words(names) or "none",
    }
    rows = [f"| **{key}** | {_cell(value)} |" for key, value in facts.items() if value]
    head = "\n".join(["| | |", "|---|---|", *rows])
    return "\n\n".join([head, "## Pipelines", *(_preset(name) for name in names)])


def matrix(_: str = "") -> str:
    """All methods, side by side."""
    head = (
        "method",
        "acts",
        "needs",
        "segmenter",
        "selector",
        "coupler",
        "aggregator",
        "other parts",
        "budgets",
        "presets",
        "golden cases passed",
        "licence of the release",
    )
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method, names in methods().items():
        used = list(strategies(load_config(names[0])))
        cells = [
            f"[{method}]({slug(method)}.md)",
            "; ".join(acts(names[0])),
            ", ".join(f"`{cue}`" for cue in sorted(needs([names[0]]))) or "-",
            *(_links(used, role) for role in COLUMNS),
            _others(used),
            budgets_in_words(names[0]),
            ", ".join(f"[{name}](../reference/presets.md#preset-{name})" for name in names),
            golden_sum(names),
            load_config(names[0]).about.licence or "-",
        ]
        rows.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(rows)


def _preset(name: str) -> str:
    config = load_config(name)
    about = config.about
    parts = [
        f"### {name} {{ #preset-{name} }}",
        about.summary,
        picture(config),
        f"**Budgets.** {budgets_in_words(name)}.",
        f"**Fidelity.** {about.fidelity}",
    ]
    if about.differs:
        parts += ["**Where it differs**", "\n".join(f"- {each}" for each in about.differs)]
    if about.assumed:
        parts += ["**Assumed**", "\n".join(f"- {each}" for each in about.assumed)]
    table = by_retention(name)
    if table:
        parts += ["**Settings that go with the retention ratio**", table]
    parts.append(f"[The whole pipeline](../reference/presets.md#preset-{name})")
    return "\n\n".join(parts)


def picture(config: PipelineConfig) -> str:
    """Return the stages as boxes with arrows between them."""
    cues = ", ".join(f"`{cue}`" for cue in sorted(load_pipeline(config).needs))
    boxes = [_box("vision tower", "tokens", [f"gives {cues}"] if cues else [])]
    inside = False
    for label, stage in config.stages.items():
        if stage.kind in INSIDE and not inside:
            inside = True
        link = f"[{stage.kind}](../reference/strategies.md#stage-{stage.kind})"
        boxes.append(_box(label, link, list(_lines(stage)), stage.kind in INSIDE))
    boxes.append(_box("answer" if inside else "LLM", "", []))
    return "\n".join(['<div class="pipeline" markdown="1">', *boxes, "</div>"])


def _box(label: str, kind: str, lines: list[str], inside: bool = False) -> str:
    css = "stage inside" if inside else "stage" if kind else "stage end"
    shown = f" *{kind}*" if kind else ""
    body = ["", *(f"- {line}" for line in lines)] if lines else []
    parts = [f'<div class="{css}" markdown="1">', f"**{label}**{shown}", *body, "</div>"]
    return "\n".join(parts)


def _lines(stage: Any) -> Iterator[str]:
    """Yield what a stage is made of: its strategies, then what else is not at its default."""
    frame = isinstance(stage, FrameStageConfig)
    couples = not frame or build(Aggregator, stage.aggregator).merges
    fields = type(stage).model_fields
    for field in sorted(
        fields, key=lambda each: FIRST.index(each) if each in FIRST else len(FIRST)
    ):
        info = fields[field]
        value, role = getattr(stage, field), slot_role(None, info.metadata)
        if field == "kind" or (not couples and field in ("cost", "combine", "coupler", "mass")):
            continue
        if role:
            if field != "allocator" or value.name != "equal":
                yield f"{field} {_strategy(role, value)}"
        elif field == "cost":
            sign = " x " if stage.combine == "product" else " + "
            yield "cost " + sign.join(_strategy("cost term", term) for term in value)
        elif isinstance(value, BaseModel):
            inside = [_strategy(*slot) for slot in parts(value)]
            yield f"{field} {' by '.join(reversed(inside))}"
        elif field != "combine" and value != info.get_default(call_default_factory=True):
            yield f"{field} `{_value(value)}`"
        elif field == "n_anchors":
            yield f"{field} `{value}`"


def _strategy(role: str, config: StrategyConfig) -> str:
    """Return a link to a strategy, with the settings that are not at their defaults."""
    changed, inner = [], []
    for field, info in type(config).model_fields.items():
        value, slot = getattr(config, field), slot_role(None, info.metadata)
        if field == "name":
            continue
        if slot:
            inner.append(f"{field} {_strategy(slot, value)}")
        elif value != info.get_default(call_default_factory=True):
            changed.append(f"{field} {_value(value)}")
    anchor = f"{role} {config.name}".replace(" ", "-")
    link = f"[{config.name}](../reference/strategies.md#{anchor})"
    told = [f"`{each}`" for each in changed] + inner
    return f"{link} ({', '.join(told)})" if told else link


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def strategies(config: PipelineConfig) -> Iterator[tuple[str, StrategyConfig]]:
    """Yield (role, strategy) of everything that a pipeline is made of, in order."""
    return parts(config)


def _links(used: list[tuple[str, StrategyConfig]], role: str) -> str:
    names = dict.fromkeys(
        each.name for kind, each in used if kind == role and each.name not in PLAIN
    )
    anchor = role.replace(" ", "-")
    return ", ".join(f"[{n}](../reference/strategies.md#{anchor}-{n})" for n in names) or "-"


def _others(used: list[tuple[str, StrategyConfig]]) -> str:
    """Return the strategies of the smaller roles."""
    roles = dict.fromkeys(role for role, _ in used if role not in (*COLUMNS, "cost term", "stage"))
    found = [f"{role} {links}" for role in roles if (links := _links(used, role)) != "-"]
    return "; ".join(found) or "-"


def acts(name: str) -> list[str]:
    """Return where a preset reduces, in words."""
    stages = list(load_config(name).stages.values())
    kinds = [stage.kind for stage in stages]
    found = []
    before_pool = "pool" in kinds and kinds.index("pool") > 0
    frames = [stage for stage in stages if isinstance(stage, FrameStageConfig)]
    early = ", before the model's pooling" if before_pool else ""
    apart = [stage for stage in frames if stage.budget_scope == "frame"]
    if len(apart) < len(frames):
        found.append("on all frames at once" + early)
    if any(stage.scope == "frame" for stage in apart):
        looks = any(
            stage.allocator.name != "equal"
            or getattr(build(AnchorSelector, stage.selector), "looks_across_frames", False)
            for stage in apart
        )
        found.append("inside each frame" + early + (", with an eye on the others" if looks else ""))
    wide = {"static", "reference", "group"} & set(kinds)
    wide |= {stage.kind for stage in stages if isinstance(stage, SegmentStageConfig)}
    if wide or any(stage.scope != "frame" for stage in frames):
        found.append("across frames")
    if "llm" in kinds:
        found.append("between the layers of the LLM")
    if "cache" in kinds:
        found.append("on the cache of the LLM")
    return found or ["nowhere"]


def needs(names: list[str]) -> set[str]:
    """Return the cues that presets ask a vision tower for."""
    return set().union(*(load_pipeline(name).needs for name in names))


def needs_in_words(names: list[str]) -> str:
    """Return the cues with what they are."""
    words = []
    for cue in sorted(needs(names)):
        text = CUES.get(cue.partition("@")[0], "brought by the caller")
        words.append(f"`{cue}`: {ATTENTION_OF_POOLER if cue == 'attention@pooler' else text}")
    return "; ".join(words) or "the tokens alone"


@cache
def budgets_in_words(name: str) -> str:
    """Run a preset at the budgets of the tables, on both layouts; say what it can meet."""
    config = load_config(name)
    budget = config.budget
    if {stage.kind for stage in config.stages.values()} <= {"pool", *INSIDE}:
        return "all tokens enter the LLM, where the schedule decides"
    if budget.mode == "calibrated":
        low, high = budget.knob_range
        return f"calibrated: `{budget.knob}` between {low:g} and {high:g}"
    if budget.mode == "as-released":
        return "as released: its own settings decide"
    refused = {
        (layout, ratio): floor
        for layout in LAYOUTS
        for ratio in RATIOS
        if _nearest(name, layout, ratio, FRAMES[0]) is not None
        and (floor := _nearest(name, layout, ratio, FRAMES[1])) is not None
    }
    met = [ratio for ratio in RATIOS if not any((layout, ratio) in refused for layout in LAYOUTS)]
    parts = [f"exact: {', '.join(f'{100 * ratio:.0f}' for ratio in met)} %"] if met else []
    if refused:
        reach = [f"{100 * floor:.1f} % ({LAYOUTS[x]})" for (x, _), floor in refused.items()]
        parts.append(f"of {FRAMES[1]} frames no less than {', '.join(dict.fromkeys(reach))}")
    return "; ".join(parts)


def _nearest(name: str, layout: str, ratio: float, frames: int) -> float | None:
    """Return the ratio that a budget error names, None if the budget is met."""
    pipeline = load_pipeline(name, {"budget.retention_ratio": ratio})
    tokens = video_tokens(
        frames, (27, 27), needs=pipeline.needs, native_pool=layout, dim=4, cues=_own(pipeline.needs)
    )
    try:
        with torch.no_grad():
            pipeline.run(tokens)
    except BudgetError as error:
        hit = re.search(r"nearest retention_ratio ([\d.]+)", str(error))
        if hit is None:
            raise
        return float(hit[1])
    return None


def _own(cues: frozenset[str]) -> dict[str, int]:
    """Let cues that nobody here knows be one number a token."""
    return {cue: 0 for cue in cues if cue.partition("@")[0] not in CUES}


def by_retention(name: str) -> str:
    """Return the settings that a preset ties to the retention ratio, as a table."""
    found = read_pipeline(name).get("by_retention") or {}
    paths = list(dict.fromkeys(path for changes in found.values() for path in changes))
    if not paths:
        return ""
    head = ["ratio", *(f"`{path}`" for path in paths)]
    rows = [
        [f"{float(ratio):.0%}", *(f"`{_value(changes.get(path, '-'))}`" for path in paths)]
        for ratio, changes in found.items()
    ]
    lines = [" | ".join(row) for row in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)


def golden() -> dict[str, dict[str, Any]]:
    """Return the record of the golden run: algorithm -> cases, passed."""
    return json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.exists() else {}


def _algorithms(names: list[str]) -> list[str]:
    return list(dict.fromkeys(a for name in names for a in load_config(name).about.golden))


def golden_in_words(names: list[str]) -> str:
    """Return passed of all cases, for each algorithm that the presets name."""
    found = golden()
    told = [(a, found.get(a, {"passed": 0, "cases": 0})) for a in _algorithms(names)]
    return "; ".join(f"`{a}` {record['passed']} of {record['cases']}" for a, record in told)


def golden_sum(names: list[str]) -> str:
    """Return passed of all cases, summed over the algorithms that the presets name."""
    found = [golden().get(a, {"passed": 0, "cases": 0}) for a in _algorithms(names)]
    if not found:
        return "-"
    return f"{sum(each['passed'] for each in found)} of {sum(each['cases'] for each in found)}"


def _distributions(names: list[str]) -> str:
    owners = dict.fromkeys(registry().presets()[name][1] for name in names)
    homes = {registry().presets()[name][0].parents[1] for name in names}
    mine = []
    for owner in owners:
        brings = [
            f"{entry.role} [{entry.name}](../reference/strategies.md#"
            f"{f'{entry.role} {entry.name}'.replace(' ', '-')})"
            for entry in registry().entries()
            if entry.owner == owner and owner != "tokenred" and _lives_in(entry, homes)
        ]
        mine.append(f"`{owner}`" + (f", which brings {', '.join(brings)}" if brings else ""))
    return "; ".join(mine)


def _lives_in(entry: Entry, homes: set[Path]) -> bool:
    """Say whether a strategy stands in the package of a method, beside its presets."""
    return any(Path(inspect.getfile(entry.factory)).is_relative_to(home) for home in homes)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

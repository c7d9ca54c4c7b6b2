"""Ablation files: YAML that names rows, each a pipeline with changes.

A file may give ``rows`` by hand, ``axes`` of dotted paths (their product), a ``sweep`` over all
strategies that go together, or several of these. ``vanilla``, ``random`` and ``downsample`` join
every table.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from tokenred.config import FrozenModel, nested, short_hash, validate
from tokenred.errors import LONGEST_NAME, BudgetWarning, ConfigError, nearest, shown
from tokenred.files import ALIASES, is_yaml, located, read_pipeline, read_yaml
from tokenred.pipeline import PipelineConfig, load_config
from tokenred.pipeline.config import RETENTION, build_stages
from tokenred.plugins import registry
from tokenred.registry import hint
from tokenred.slots import build, file_schema, json_schemas, strategy_config

MAX_ROWS = 10_000
ALWAYS = ("vanilla", "random", "downsample")
Ratio = Annotated[float, Field(gt=0, le=1)]
Score = Annotated[float, Field(ge=-1e6, le=1e6)]


class RowSpec(FrozenModel):
    """One row of an ablation file."""

    pipeline: str | None = Field(default=None, description="preset or file; the base by default")
    set: dict[str, Any] = Field(default_factory=dict, description="dotted path -> value")
    frames: int | None = Field(
        default=None, ge=1, le=2**20, description="evenly spaced frames of the clip; all"
    )
    only: tuple[Ratio, ...] = Field(
        default=(), description="retention ratios that this row can meet; all by default"
    )


class Published(FrozenModel):
    """Published scores, of another model."""

    source: str = Field(description="where they stand, and of which model")
    scores: dict[str, Score | dict[Ratio, Score]] = Field(
        description="row label -> score in %, or a table from retention to score"
    )

    def score(
        self, label: str, retention: float | None, measured_at: Sequence[float]
    ) -> float | None:
        """Return the published score of a row, if there is one at its retention.

        Parameters
        ----------
        measured_at : where a score without a retention was measured; anywhere if empty
        """
        found = self.scores.get(label)
        if isinstance(found, dict):
            return None if retention is None else found.get(retention)
        elsewhere = retention is not None and measured_at and retention not in measured_at
        return None if elsewhere else found


class Sweep(FrozenModel):
    """All compatible combinations of selector, coupler and aggregator."""

    stage: str = Field(description="label of the frame stage whose parts are exchanged")
    selectors: tuple[Any, ...] | Literal["all"] = Field(default="all", description="which; all")
    couplers: tuple[Any, ...] | Literal["all"] = Field(default="all", description="which; all")
    aggregators: tuple[Any, ...] | Literal["all"] = Field(default="all", description="which; all")
    leave_out: dict[str, str] = Field(
        default_factory=dict, description="name of a strategy -> why it has no rows"
    )

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the label and the changes of every combination.

        A coupler that couples nothing is only combined with aggregators that merge nothing.
        Selectors with a free number of tokens are left out, as they meet no exact budget.
        """
        couplers, aggregators = (self._parts(role) for role in ("coupler", "aggregator"))
        for selector, chooses in self._parts("selector"):
            if chooses.adaptive:
                continue
            for coupler, couples in couplers:
                for aggregator, merges in aggregators:
                    if couples.couples != merges.merges:
                        continue
                    parts = {"selector": selector, "coupler": coupler, "aggregator": aggregator}
                    label = " + ".join(_show(part) for part in parts.values())
                    changes = {f"stages.{self.stage}.{k}": part for k, part in parts.items()}
                    yield label if merges.merges else _show(selector), changes

    def _parts(self, role: str) -> list[tuple[Any, Any]]:
        chosen = getattr(self, f"{role}s")
        names = registry().names(role) if chosen == "all" else chosen
        configs = [(part, strategy_config(role, part)) for part in names]
        return [
            (part, build(role, config))
            for part, config in configs
            if config.name not in self.leave_out
        ]


class AblationConfig(FrozenModel):
    """A complete ablation file."""

    name: str = Field(
        default="unnamed", max_length=LONGEST_NAME, description="also the name of the run's folder"
    )
    title: str = Field(default="", description="heading of the table")
    question: str = Field(default="", description="what the table answers")
    base: str = Field(default="aot-paper", description="preset or file that rows and axes change")
    retention: tuple[Ratio, ...] = Field(
        default=(0.10,), min_length=1, description="kept / vanilla tokens"
    )
    reference: str | None = Field(
        default=None, description="row to compare with; the first by default"
    )
    frames: int | None = Field(
        default=None, ge=1, le=2**20, description="frames of rows that name none; all"
    )
    rows: dict[str, Annotated[RowSpec, nested(RowSpec)]] = Field(
        default_factory=dict, description="label -> row"
    )
    axes: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict, description="dotted path -> values; rows are the product"
    )
    sweep: Annotated[Sweep, nested(Sweep)] | None = Field(
        default=None, description="selectors x couplers x aggregators of one frame stage"
    )
    always: tuple[str, ...] = Field(default=ALWAYS, description="presets that join the table")
    published: Published | None = Field(default=None, description="figures to print beside")

    @field_validator("rows", mode="before")
    @classmethod
    def _empty_rows(cls, rows: object) -> object:
        """Read an empty ``label:`` as the unchanged base."""
        if not isinstance(rows, Mapping):
            return rows
        return {str(label): {} if row is None else row for label, row in rows.items()}

    @field_validator("retention", mode="before")
    @classmethod
    def _one_retention(cls, value: object) -> object:
        return [value] if isinstance(value, int | float) else value

    @field_validator("always")
    @classmethod
    def _controls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return (*value, *(name for name in ALWAYS if name not in value))


@dataclass(frozen=True)
class Row:
    """One configuration to run, with its label in the table.

    ``retention`` is the nominal budget that the row shares with its group; None for a row that has
    a budget of its own, such as ``vanilla``. ``control`` marks rows that join every table.
    """

    label: str
    retention: float | None
    config: PipelineConfig
    frames: int | None = None
    control: bool = False

    def __hash__(self) -> int:
        return hash((self.label, self.retention, self.frames))

    @property
    def canonical(self) -> dict[str, Any]:
        """The key of this row's results: the pipeline and its number of frames."""
        pipeline = self.config.canonical()
        return pipeline if self.frames is None else {"frames": self.frames, "pipeline": pipeline}

    @property
    def config_id(self) -> str:
        """Return the pipeline's ``config_id``, or one of its own if the row sees fewer frames."""
        return self.config.config_id if self.frames is None else short_hash(self.canonical)


def expand_rows(
    label: str,
    load: Callable[[Mapping[str, Any]], PipelineConfig],
    changes: Mapping[str, Any],
    retentions: Sequence[float] | None,
    *,
    is_asked: bool = True,
) -> Iterator[Row]:
    """Yield one row a token budget.

    A pipeline that keeps everything (``vanilla``), or whose retention is among the changes, has a
    budget of its own and is one row; so is every pipeline where no budget is asked for.

    Parameters
    ----------
    load : reads the pipeline with dotted paths changed
    is_asked : whether a user asks for the budgets, who is then told of one that is not followed
    """
    own = load(changes)
    if not retentions or RETENTION in changes or own.budget.retention_ratio == 1:
        if retentions and is_asked and _drops_otherwise(own):
            warnings.warn(
                f"pipeline '{own.name}' has no budget to set: it stays as it is at a retention of "
                f"{', '.join(f'{each:g}' for each in retentions)}",
                BudgetWarning,
                stacklevel=3,
            )
        yield Row(label, None, own)
        return
    for retention in retentions:
        yield Row(label, retention, load({**changes, RETENTION: retention}))


def _drops_otherwise(config: PipelineConfig) -> bool:
    """Return whether a pipeline drops tokens though its budget keeps all before the LLM."""
    inside = any(each.inside for each in build_stages(config.stages).values())
    own = config.budget.retention_ratio == 1
    return own and (inside or config.budget.mode == "as-released")


@dataclass(frozen=True)
class _Draft:
    """A row before its budget is set."""

    label: str
    spec: RowSpec
    path: tuple[str, ...]
    control: bool = False


class Ablation:
    """An ablation file, read and validated.

    Parameters
    ----------
    config : the file
    overrides : dotted paths that change the base, under every row that is built on it
    source : where it was read, for errors
    """

    def __init__(
        self,
        config: AblationConfig,
        overrides: Mapping[str, Any] | None = None,
        source: Path | None = None,
    ) -> None:
        self.config = config
        self._source = source
        self._overrides = dict(overrides or {})
        self._read: dict[str, dict[str, Any]] = {}  # pipelines by source, as their files say
        self._drafts = list(islice(self._all_drafts(), MAX_ROWS + 1))
        if len(self._drafts) > MAX_ROWS:
            raise ConfigError(f"the file means more than {MAX_ROWS} rows", ["axes"])
        labels = [draft.label for draft in self._drafts]
        self.reference = config.reference or labels[0]
        if self.reference not in labels:
            raise ConfigError(
                f"no row '{self.reference}'{nearest(self.reference, labels)}", ["reference"]
            )

    def with_frames(self, frames: int) -> "Ablation":
        """Return the same where rows that name no frames see so many."""
        config = self.config.model_copy(update={"frames": frames})
        return Ablation(config, self._overrides, self._source)

    def expand(self, retentions: Sequence[float] | None = None) -> list[Row]:
        """Return the rows: those with budgets of their own, then a group for each retention.

        A pipeline that keeps everything (``vanilla``), or a row that sets its retention itself,
        appears once; equal rows under one label appear once.

        Raises
        ------
        ConfigError
            If a row is not a valid pipeline; the path starts at the row.
        """
        ratios = retentions or self.config.retention
        found = []
        for number, draft in enumerate(self._drafts):
            only = draft.spec.only or ratios
            budgets = [each for each in ratios if each in only]
            for row in self._rows(draft, budgets, bool(retentions)) if budgets else ():
                first = budgets[0] if row.retention is None else row.retention
                found.append((row.retention is not None, ratios.index(first), number, row))
        rows: dict[tuple[str, str], Row] = {}
        for *_, row in sorted(found, key=lambda each: each[:3]):
            rows.setdefault((row.label, row.config_id), row)
        return list(rows.values())

    def _all_drafts(self) -> Iterator[_Draft]:
        given = self.config.rows
        if not given and not self.config.axes and self.config.sweep is None:
            raise ConfigError("an ablation needs rows, axes or a sweep", ["rows"])
        for label, spec in given.items():
            yield _Draft(label, spec, ("rows", label))
        for label, changes in _grid(self.config.axes):
            yield _Draft(label, RowSpec(set=changes), ("axes",))
        for label, changes in self.config.sweep.rows() if self.config.sweep else ():
            yield _Draft(label, RowSpec(set=changes), ("sweep",))
        for name in self.config.always:
            if name not in given:
                yield _Draft(name, RowSpec(pipeline=name), ("always", name), control=True)

    def _rows(self, draft: _Draft, retentions: Sequence[float], is_asked: bool) -> list[Row]:
        changes = dict(draft.spec.set)
        if draft.spec.pipeline is None:
            changes = self._overrides | changes
        load = partial(self._load, draft.spec.pipeline or self.config.base)
        try:
            rows = expand_rows(draft.label, load, changes, retentions, is_asked=is_asked)
            frames = draft.spec.frames or self.config.frames
            return [replace(row, frames=frames, control=draft.control) for row in rows]
        except ConfigError as error:
            raise located(error.below(draft.path), self._source) from None

    def _load(self, source: str, changes: Mapping[str, Any]) -> PipelineConfig:
        if source not in self._read:
            self._read[source] = read_pipeline(source)
        return load_config(self._read[source], changes)


def ablation_schema() -> dict[str, Any]:
    """Return the JSON schema of an ablation file, for editors."""
    references, definitions = json_schemas([AblationConfig])
    top = definitions.pop(references[AblationConfig]["$ref"].rpartition("/")[2])
    ratios = top["properties"]["retention"]
    top["properties"]["retention"] = {"anyOf": [ratios["items"], ratios]}
    rows = top["properties"]["rows"]
    rows["additionalProperties"] = {"anyOf": [{"type": "null"}, rows["additionalProperties"]]}
    return file_schema(top, definitions)


def ablation_files() -> dict[str, Path]:
    """Return the registered ablations, name -> file."""
    return {name: path for name, (path, _) in registry().ablations().items()}


def load_ablation(
    source: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> Ablation:
    """Load a registered ablation by name, a YAML file by path, a mapping, or a preset by name.

    A preset becomes a table of that preset and the controls.

    Raises
    ------
    ConfigError
        If there is no such ablation or preset, or the file is not valid.
    """
    if isinstance(source, Mapping):
        return Ablation(validate(AblationConfig, source), overrides)
    path = Path(str(source))
    if not is_yaml(source):
        known = ablation_files()
        if is_preset(str(source)):
            return Ablation(_of_preset(str(source)), overrides)
        if str(source) not in known:
            names, kinds = [*known, *registry().presets()], ("pipeline", "ablation")
            raise ConfigError(
                f"no ablation or pipeline '{shown(source)}'{hint(kinds, str(source), names)}"
            )
        path = known[str(source)]
    data = {"name": path.stem, **read_yaml(path)}
    try:
        return Ablation(validate(AblationConfig, data), overrides, path)
    except ConfigError as error:
        raise located(error, path) from None


def is_preset(name: str) -> bool:
    """Return whether a name, or what it is short for, is that of a preset."""
    return ALIASES.get(name, name) in registry().presets()


def of_pipelines(
    pipelines: Sequence[str],
    sweep: Mapping[str, Sequence[Any]] | None = None,
    overrides: Mapping[str, Any] | None = None,
    frames: int | None = None,
) -> Ablation:
    """Return a comparison of pipelines as a user names them, or of one under several settings.

    Parameters
    ----------
    pipelines : presets or files; the first is what the others are compared with
    sweep : dotted path -> values, of one pipeline; rows are their product, and it as it is
    overrides : dotted paths that change all of them

    Raises
    ------
    ConfigError
        If a pipeline comes twice, or a sweep is asked for of several.
    """
    labels = [Path(each).stem if is_yaml(each) else each for each in pipelines]
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise ConfigError(f"'{shown(twice[0])}' is named twice", ["--pipelines"])
    if not sweep:
        rows = {
            label: RowSpec(pipeline=each, set=dict(overrides or {}))
            for label, each in zip(labels, pipelines, strict=True)
        }
        joined = f"{' + '.join(labels[:4])}{' + ...' if len(labels) > 4 else ''}"
        config = AblationConfig(
            name="-".join(labels)[:80],
            title=joined,
            question="Which of these loses least, when all hand the same number of tokens on?",
            base=pipelines[0],
            rows=rows,
            frames=frames,
        )
        return Ablation(config)
    if len(pipelines) > 1:
        raise ConfigError(f"a sweep changes one pipeline, {len(pipelines)} are named", ["--sweep"])
    paths = ", ".join(path.rpartition(".")[2] for path in sweep)
    config = AblationConfig(
        name=f"{labels[0]}-{paths.replace(', ', '-')}"[:80],
        title=f"{labels[0]}: {paths}",
        question=f"What does {paths} of {labels[0]} decide?",
        base=pipelines[0],
        reference=labels[0],
        rows={labels[0]: RowSpec()},
        axes={path: tuple(values) for path, values in sweep.items()},
        frames=frames,
    )
    return Ablation(config, overrides)


def _of_preset(name: str) -> AblationConfig:
    config = load_config(name)
    return AblationConfig(
        name=name,
        title=f"{name} against the controls",
        question=config.about.summary,
        base=name,
        retention=(config.budget.retention_ratio if config.budget.retention_ratio < 1 else 0.10,),
        rows={name: RowSpec()},
    )


def _grid(axes: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield label and changes of every combination of the axes."""
    if not axes:
        return
    short = {path: _short_name(path, axes) for path in axes}
    for values in product(*axes.values()):
        changes = dict(zip(axes, values))
        yield ", ".join(f"{short[path]}={_show(value)}" for path, value in changes.items()), changes


def _short_name(path: str, others: Iterable[str]) -> str:
    """Return the shortest unambiguous end of a dotted path."""
    parts = path.split(".")
    endings = (".".join(parts[-n:]) for n in range(1, len(parts)))
    rivals = [f".{other}" for other in others if other != path]
    return next((end for end in endings if not any(r.endswith(f".{end}") for r in rivals)), path)


def _show(value: object) -> str:
    if isinstance(value, Mapping):
        rest = {key: inner for key, inner in value.items() if key != "name"}
        inside = " ".join(f"{key}={_show(inner)}" for key, inner in rest.items())
        return (
            f"{value['name']}({inside})"
            if "name" in value and rest
            else str(value.get("name", inside))
        )
    return str(value)

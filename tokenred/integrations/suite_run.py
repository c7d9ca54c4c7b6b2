"""Run an ablation over tasks of lmms-eval, with results in the usual store."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tokenred.accounting import LlmShape
from tokenred.config import StrategyConfig
from tokenred.errors import ConfigError
from tokenred.evaluation.ablation import Row
from tokenred.evaluation.model import ModelSpec, revision_of
from tokenred.evaluation.provenance import code_version
from tokenred.evaluation.runner import Progress
from tokenred.evaluation.store import Cost, Origin, Store, StoredAnswer
from tokenred.evaluation.worker import PlannedRow
from tokenred.integrations.lmms_suite import Suite, SuiteResult, SuiteSample
from tokenred.pipeline import load_config

PREFIX = "lmms-eval:"


class SuiteTaskConfig(StrategyConfig):
    """Suite settings in the manifest of a run."""

    tasks: tuple[str, ...]
    include_path: str | None = None
    prompts_of: str | None = None


@dataclass(frozen=True)
class SuiteModel:
    """The model of a suite, for the manifest of a run."""

    spec: ModelSpec
    name: str
    revision: str
    shape: LlmShape


class SuiteRun:
    """Tasks of lmms-eval under the rows of an ablation.

    Takes the place of the task in a manifest: name, fingerprint, kinds.

    Parameters
    ----------
    source : ``lmms-eval:TASK,TASK``
    limit : documents of each task; all by default
    """

    def __init__(
        self,
        source: str,
        spec: ModelSpec,
        *,
        limit: int | None = None,
        include_path: Path | None = None,
        prompts_of: str | None = None,
    ) -> None:
        names = [name.strip() for name in source.removeprefix(PREFIX).split(",") if name.strip()]
        if not source.startswith(PREFIX) or not names:
            raise ConfigError(f"expected {PREFIX}TASK, got '{source}'", ["--suite"])
        args = {name: value for name, value in asdict(spec).items() if value not in (None, False)}
        args["pretrained"] = args.pop("name", "embedded")
        self.suite = Suite(
            names, args, prompts_of=prompts_of, include_path=include_path, limit=limit
        )
        self.config = SuiteTaskConfig(
            name="lmms-eval",
            tasks=tuple(names),
            include_path=None if include_path is None else str(include_path),
            prompts_of=prompts_of,
        )
        self.name, self.fingerprint = self.suite.name, self.suite.fingerprint
        self.kinds = dict.fromkeys(self.suite.kinds, 0.0)
        self.n_samples = len(self.suite.samples)
        loaded = self.suite.model.loaded
        self.model = SuiteModel(
            spec,
            "embedded LLaVA-OneVision" if spec.name is None else spec.name,
            revision_of(loaded),
            LlmShape.of(loaded.model.config.text_config),
        )

    def sample_id(self, index: int) -> str:
        """Return the id of a document."""
        return self.suite.samples[index].id

    def plan(self, rows: Sequence[Row], store: Store) -> list[PlannedRow]:
        """Return every row with the origin of its results.

        Raises
        ------
        ConfigError
            If a row has a calibrated budget: the tasks have no samples to calibrate on.
        """
        planned = []
        for row in rows:
            if row.config.budget.mode == "calibrated":
                raise ConfigError(
                    "a calibrated budget needs held-out samples, which tasks of lmms-eval lack",
                    [f"row '{row.label}'"],
                )
            code = code_version(row.config)
            origin = Origin(row.config_id, self.model.revision, self.fingerprint, code)
            store.add_config(origin.config_id, row.canonical)
            planned.append(PlannedRow(row, origin))
        return planned

    def run(
        self,
        planned: Sequence[PlannedRow],
        store: Store,
        *,
        any_code: bool = False,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> Progress:
        """Compute missing results, and store each at once."""
        progress = Progress(self.n_samples * len(planned))
        cells = {f"{c.row.label} ({c.origin.config_id})": c for c in planned}
        # Unreduced answers come first, so that the others can be compared with them.
        order = sorted(cells, key=lambda label: not _is_vanilla(cells[label]))
        whole = next((cells[label] for label in order if _is_vanilla(cells[label])), None)

        def done(row: Row, sample: SuiteSample) -> bool:
            nonlocal progress
            found = bool(store.done(sample.id, [cells[row.label].origin], any_code))
            progress = replace(progress, cells_reused=progress.cells_reused + found)
            on_progress(progress)
            return found

        rows = [replace(cells[label].row, label=label) for label in order]
        for result in self.suite.run(rows, done):
            cell = cells[result.row.label]
            said = None
            if whole is not None and cell is not whole:
                (unreduced,) = store.records(whole.origin, [result.sample.id], any_code)
                said = unreduced.answer.answer
            answer = _answer(result, result.answer if cell is whole else said)
            store.write(cell.origin, result.sample.id, [answer], _cost(result))
            progress = replace(progress, cells_computed=progress.cells_computed + 1)
            on_progress(progress)
        return progress


def _is_vanilla(cell: PlannedRow) -> bool:
    return cell.row.frames is None and cell.row.config_id == load_config("vanilla").config_id


def _answer(result: SuiteResult, unreduced: str | None) -> StoredAnswer:
    return StoredAnswer(
        kind=result.sample.task,
        answer=result.answer,
        score=result.score,
        option_scores={str(n): -loss for n, loss in enumerate(result.option_losses)},
        layer_tokens=result.stats.layer_tokens,
        cluster=result.cluster,
        agrees=None if unreduced is None else result.answer == unreduced,
    )


def _cost(result: SuiteResult) -> Cost:
    stats: Any = result.stats
    return Cost(
        frame_indices=tuple(index for each in stats.frame_indices for index in each),
        n_tokens=stats.visual_tokens,
        newline_tokens=stats.newline_tokens,
        retention_ratio=stats.visual_tokens / max(1, stats.vanilla_visual_tokens),
        reducer_ms=stats.reducer_ms,
        answer_ms=stats.request_ms,
        n_iter=stats.n_iter,
        residual=stats.residual,
        seed=result.row.config.seed,
    )

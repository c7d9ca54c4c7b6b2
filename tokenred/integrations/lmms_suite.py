"""Run tasks of lmms-eval under many pipelines: one model, each video read once, resumable.

lmms-eval gives documents, prompts and scores; the loop is tokenred's. The loop of lmms-eval would
report nothing before all documents are done, and some tasks upload the answers when it aggregates
them.
"""

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import unwrap_generation_output
from lmms_eval.tasks import TaskManager, get_task_dict

from tokenred.errors import ConfigError, TokenredError, nearest
from tokenred.evaluation.ablation import Row
from tokenred.integrations.asking import RequestStats
from tokenred.integrations.lmms_eval import TokenredModel, sample_id
from tokenred.integrations.visuals import flat
from tokenred.pipeline import Pipeline

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SAID = ("pred", "parsed_pred", "pred_answer", "prediction")
_RIGHT = ("answer", "ground_truth", "gt_answer", "target")


@dataclass(frozen=True)
class SuiteSample:
    """A document of a task; ``id`` is stable, and unique in all of lmms-eval."""

    id: str
    task: str
    doc_id: int


@dataclass(frozen=True)
class SuiteResult:
    """Result of one row on one document.

    Attributes
    ----------
    score : of the document, 0-1
    metric : of lmms-eval that the score comes from
    answer : text, or the number of the likeliest option
    option_losses : mean nats per token of every option; empty if the model wrote
    stats : of the document's requests; those of the first one if there are several
    cluster : equal for documents about the same video files; empty where a task shows no files
    harness : version of lmms-eval
    """

    row: Row
    sample: SuiteSample
    score: float
    metric: str
    answer: str
    option_losses: tuple[float, ...]
    stats: RequestStats
    cluster: str
    harness: str


class Suite:
    """Some tasks of lmms-eval with one model.

    Parameters
    ----------
    names : of tasks, groups or tags, such as ``mvbench``
    model_args : as ``--model_args`` of lmms-eval; the pipeline of a row takes the place of theirs
    prompts_of : name of the model whose prompts a task shall use, such as ``llava_vid``
    include_path : folder with task files of your own
    limit : documents of each task; all by default

    Attributes
    ----------
    name : as printed in tables
    samples : in the order of the tasks
    kinds : task -> its number of documents, all of them
    metrics : task -> metric that its scores come from, once it is known

    Raises
    ------
    ConfigError
        If there is no such task, or it cannot be run.
    """

    def __init__(
        self,
        names: Sequence[str],
        model_args: Mapping[str, Any],
        *,
        prompts_of: str | None = None,
        include_path: str | Path | None = None,
        limit: int | None = None,
    ) -> None:
        folder = None if include_path is None else str(include_path)
        manager = TaskManager("WARNING", include_path=folder, model_name=prompts_of or "tokenred")
        for name in names:
            if name not in manager.all_tasks:
                raise ConfigError(
                    f"lmms-eval has no task '{name}'{nearest(name, manager.all_tasks)}"
                )
        self.model = TokenredModel(**{"pipeline": "vanilla", **model_args})
        self.name = f"lmms-eval:{','.join(names)}"
        self.harness = version("lmms-eval")
        self.metrics: dict[str, str] = {}
        self._tasks = dict(_leaves(get_task_dict(list(names), manager, "simple")))
        self.kinds = {name: len(task.eval_docs) for name, task in self._tasks.items()}
        for name, task in self._tasks.items():
            self.model.task_dict[name] = task.dataset
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=1234)
        self.samples = [
            SuiteSample(sample_id(name, doc_id), name, doc_id)
            for name, n_docs in self.kinds.items()
            for doc_id in range(n_docs if limit is None else min(limit, n_docs))
        ]

    @property
    def fingerprint(self) -> str:
        """Hash of the harness version, the tasks' settings, code and documents, but of no limit."""
        digest = hashlib.sha256(self.harness.encode())
        for name, task in self._tasks.items():
            digest.update(f"{name} {task_fingerprint(task)}".encode())
        args = self.model.args
        digest.update(repr((self.model.n_frames, args.frame_sampling, args.image_list)).encode())
        digest.update(repr((args.positions, args.max_new_tokens)).encode())
        return f"{self.name} {self.harness} {digest.hexdigest()[:12]}"

    def run(
        self,
        rows: Sequence[Row],
        done: Callable[[Row, SuiteSample], bool] = lambda row, sample: False,
    ) -> Iterator[SuiteResult]:
        """Yield the result of every row on every missing document, document by document.

        Raises
        ------
        CapabilityError
            Before any work, if the model cannot give a cue that a row needs.
        TokenredError
            If a row fails on a document, or a task gives no score of a document.
        """
        pipelines = [Pipeline(row.config) for row in rows]
        for pipeline in pipelines:
            self.model.loaded.session.check(pipeline.needs, question=True)
        self.model.asker.needs = frozenset().union(*(each.needs for each in pipelines))
        whole = self.model.n_frames
        for sample in self.samples:
            todo = [pair for pair in zip(rows, pipelines) if not done(pair[0], sample)]
            if not todo:
                continue
            instances = self._instances(sample)
            # In the order given, but rows on other frames last: each number is read on its own.
            for row, pipeline in sorted(todo, key=lambda pair: _other(pair[0], whole)):
                self.model.asker.pipeline = pipeline
                self.model.n_frames = row.frames or whole
                try:
                    yield self._result(row, sample, instances)
                except TokenredError as error:
                    raise type(error)(f"row '{row.label}': {error}") from error
                finally:
                    self.model.n_frames = whole

    def _instances(self, sample: SuiteSample) -> list[Any]:
        task = self._tasks[sample.task]
        task.build_all_requests(limit=1, offset=sample.doc_id, rank=0, world_size=1)
        return list(task.instances)

    def _result(self, row: Row, sample: SuiteSample, instances: Sequence[Any]) -> SuiteResult:
        task = self._tasks[sample.task]
        asked = [copy(instance) for instance in instances]
        for instance in asked:
            instance.resps, instance.filtered_resps, instance.token_counts = [], {}, []
        kind = asked[0].request_type
        for instance, given in zip(asked, getattr(self.model, kind)(asked), strict=True):
            text, counts = unwrap_generation_output(given)
            instance.resps.append(text)
            instance.token_counts.append(counts)
        task._instances = asked
        task.apply_filters()
        name = next(iter(asked[0].filtered_resps))
        said = [instance.filtered_resps[name] for instance in asked]
        found = task.process_results(task.eval_docs[sample.doc_id], said)
        metric, score = self._score(sample.task, found)
        losses = tuple(loss for loss, _ in said) if kind == "loglikelihood" else ()
        return SuiteResult(
            row=row,
            sample=sample,
            score=score,
            metric=metric,
            answer=str(losses.index(min(losses)) if losses else said[0]),
            option_losses=losses,
            stats=self.model.stats[sample.task, sample.doc_id, asked[0].idx],
            cluster=self._cluster(task, sample),
            harness=self.harness,
        )

    def _cluster(self, task: Any, sample: SuiteSample) -> str:
        shown = task.doc_to_visual(task.eval_docs[sample.doc_id])
        paths = [each for each in flat(shown) if isinstance(each, str | Path)]
        return " ".join(map(str, paths))

    def _score(self, name: str, found: Mapping[str, Any]) -> tuple[str, float]:
        """Return the first metric that scores a document, and its value."""
        wanted = [metric["metric"] for metric in self._tasks[name].config.metric_list or ()]
        for metric in [each for each in wanted if each in found] or list(found):
            score = score_of(found[metric])
            if score is not None:
                self.metrics[name] = metric
                return metric, score
        raise TokenredError(
            f"task {name}: none of its metrics ({', '.join(found)}) scores one document from 0 to 1"
        )


def _other(row: Row, n_frames: int) -> int:
    """Return the row's number of frames; 0 for the default."""
    return 0 if row.frames in (None, n_frames) else row.frames or 0


def score_of(value: Any) -> float | None:
    """Return the score that a metric of lmms-eval holds of one document; None if there is none.

    It is a number from 0 to 1, such a number called ``score``, or what was said beside what is
    right, which are compared.
    """
    if isinstance(value, Mapping):
        if "score" in value:
            return score_of(value["score"])
        pairs = [(value[s], value[r]) for s in _SAID for r in _RIGHT if s in value and r in value]
        return float(str(pairs[0][0]) == str(pairs[0][1])) if pairs else None
    value = value.item() if hasattr(value, "item") else value  # of NumPy or torch
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None


def task_fingerprint(task: Any) -> str:
    """Return a hash of a task's settings, the code that they name, its prompts and documents.

    lmms-eval's own ``task_hashes`` (0.7.3) are equal for all tasks of one length.
    """
    settings = task.dump_config()
    digest = hashlib.sha256()
    plain = json.dumps(settings, sort_keys=True, default=str)
    digest.update(_ADDRESS.sub("", plain).encode())
    digest.update(json.dumps(task.lmms_eval_specific_kwargs, sort_keys=True, default=str).encode())
    for source in sorted({inspect.getsourcefile(each) or "" for each in _functions(settings)}):
        digest.update(Path(source).read_bytes() if source else b"")
    for doc in task.eval_docs_no_media:
        digest.update(json.dumps(doc, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:12]


def _functions(value: Any) -> Iterator[Any]:
    if inspect.isfunction(value):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _functions(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _functions(each)


def _leaves(tasks: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, task in tasks.items():
        if isinstance(task, Mapping):
            yield from _leaves(task)
        else:
            yield name, task

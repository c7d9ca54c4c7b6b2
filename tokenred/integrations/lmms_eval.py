"""The model ``tokenred`` of lmms-eval: any model that tokenred loads, under any pipeline."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger
from tqdm import tqdm

from tokenred.embedded import MODEL_DIR, NUM_FRAMES
from tokenred.errors import CapabilityError, TokenredError
from tokenred.integrations.asking import SAMPLING, Asker, Request, RequestStats, mean_stats
from tokenred.integrations.model_args import EMBEDDED, ModelArgs, read_model_args
from tokenred.integrations.visuals import read_visuals
from tokenred.models.inputs.media import MediaInput
from tokenred.models.loading import load_model
from tokenred.pipeline import Pipeline

DEFAULT_FRAMES = 32
_READ_OPTIONS = frozenset((*SAMPLING, "do_sample", "until", "max_new_tokens", "max_gen_toks"))


class TokenredModel(lmms):
    """What ``lmms-eval --model tokenred --model_args ...`` runs.

    Exceptions are never swallowed: a request that fails ends the evaluation.

    Parameters
    ----------
    **model_args
        See ``tokenred.integrations.model_args.read_model_args``.
    """

    is_simple = True

    def __init__(self, **model_args: Any) -> None:
        super().__init__()
        self.args: ModelArgs = read_model_args(model_args)
        small = self.args.pretrained == EMBEDDED
        self.loaded = load_model(
            MODEL_DIR if small else self.args.pretrained,
            device=_device(self.args.device),
            dtype=self.args.dtype,
            revision=self.args.revision,
            local_files_only=self.args.offline,
            trust_remote_code=self.args.trust_remote_code,
            on_plan=lambda plan: logger.info(str(plan)),
        )
        self.n_frames = self.args.frames or (NUM_FRAMES if small else DEFAULT_FRAMES)
        pipeline = Pipeline(self.args.pipeline)
        self.loaded.session.check(pipeline.needs, question=True)
        self.asker = Asker(self.loaded, pipeline, self.args.positions)
        self.stats: dict[tuple[str, int, int], RequestStats] = {}
        self._warned: set[str] = set()
        logger.info(
            f"pipeline {self.args.pipeline.name}, config_hash={self.args.pipeline.config_id}"
        )

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.loaded.plan.device

    def clean(self) -> None:
        """Keep the model: lmms-eval calls this after each evaluation, and there may be another."""

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Write an answer to every request."""
        answers = []
        for instance in self._progress(requests):
            context, options, to_visual, doc_id, task, split = instance.args
            self._warn_of(task, options)
            with _named(task, doc_id):
                request = self._request(context, to_visual, doc_id, task, split)
                text, stats = self.asker.write(request, self.args.max_new_tokens, options)
            answers.append(self._result(instance, text, stats))
        self._report(requests)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Return loss and greediness of every continuation: mean nats per token, less is likelier.

        That is what lmms-eval looks for the smallest of, other than its documentation says.
        """
        answers = []
        for instance in self._progress(requests):
            if len(instance.args) != 6:
                raise CapabilityError(
                    f"task {instance.task_name} asks for the likelihood of a text without its "
                    "question (acc_mutual_info), which tokenred does not give"
                )
            context, continuation, to_visual, doc_id, task, split = instance.args
            with _named(task, doc_id):
                request = self._request(context, to_visual, doc_id, task, split)
                if callable(continuation):
                    continuation = continuation(self.task_dict[task][split][doc_id])
                loss, greedy, stats = self.asker.judge(request, continuation)
            answers.append(self._result(instance, (loss, greedy), stats))
        self._report(requests)
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Refuse."""
        raise CapabilityError("tokenred does not support multi-round tasks; choose another task")

    def _request(self, context: str, to_visual: Any, doc_id: int, task: str, split: str) -> Request:
        def look() -> MediaInput:
            shown = to_visual(self.task_dict[task][split][doc_id])
            return read_visuals(shown, self.args, self.n_frames)

        key = (task, split, doc_id, self.n_frames)
        return Request(sample_id(task, doc_id), context, look, key)

    def _result(self, instance: Instance, text: Any, stats: RequestStats) -> GenerationResult:
        self.stats[instance.task_name, instance.doc_id, instance.idx] = stats
        if self.args.stats is not None:
            line = {"task": instance.task_name, "doc_id": instance.doc_id, "idx": instance.idx}
            line |= {"config_hash": self.asker.pipeline.config.config_id, **asdict(stats)}
            with self.args.stats.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        counts = TokenCounts(input_tokens=stats.input_tokens, output_tokens=stats.output_tokens)
        return GenerationResult(text, counts)

    def _report(self, requests: Sequence[Instance]) -> None:
        """Put sums and means among the results, under ``throughput``."""
        stats = [self.stats[each.task_name, each.doc_id, each.idx] for each in requests]
        if stats:
            seconds = sum(each.request_ms for each in stats) / 1e3
            n_tokens = sum(each.output_tokens for each in stats)
            log_metrics(seconds, n_tokens, n_tokens / seconds, mean_stats(stats))

    def _warn_of(self, task: str, options: dict[str, Any]) -> None:
        """Warn once about generation settings that are ignored."""
        unknown = set(options) - _READ_OPTIONS
        if unknown and task not in self._warned:
            self._warned.add(task)
            logger.warning(f"{task}: not used by tokenred: {', '.join(sorted(unknown))}")

    def _progress(self, requests: Sequence[Instance]) -> Any:
        return tqdm(requests, desc="tokenred", disable=self.rank != 0 or len(requests) < 2)


def sample_id(task: str, doc_id: int) -> str:
    """Return the id of a document among all tasks."""
    return f"{task}/{doc_id}"


def _device(name: str) -> str:
    """Give every process of ``accelerate launch`` a GPU of its own."""
    from accelerate import PartialState

    state = PartialState()
    if name in ("auto", "cuda") and state.num_processes > 1 and torch.cuda.is_available():
        return f"cuda:{state.local_process_index}"
    return name


@contextmanager
def _named(task: str, doc_id: int) -> Iterator[None]:
    """Add the document to an error."""
    try:
        yield
    except TokenredError as error:
        raise TokenredError(f"task {task}, document {doc_id}: {error}") from error

"""Runs for tests of the report: real questions and frames, answers made up, no model."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tokenred.accounting import LlmShape
from tokenred.evaluation.manifest import STORE, Run, RunRow, read_run, write_run
from tokenred.evaluation.store import Cost, Origin, Store, StoredAnswer
from tokenred.evaluation.summary import Summary, summarise
from tokenred.evaluation.task import Question, load_task

NASTY = "<script>alert('x')</script> & \"50 %\" $x_1$ | [a] #1\\"
LABELS = ("AOT", "w/o local anchors", "cosine merging", NASTY)
TOKENS = {"vanilla": 392, "downsample": 49, "odd": 52}
CONTROLS = ("vanilla", "random", "downsample")
TASK = {"name": "embedded"}
CODE = "0.5.0+abcd1234"


def make_run(
    labels: Sequence[str] = LABELS,
    retentions: Sequence[float] = (0.1,),
    n_samples: int = 8,
    labelled: bool = True,
) -> Run:
    """Return a run of the embedded task; ``odd`` is a label whose row keeps too many tokens."""
    task = load_task(TASK)
    names = [("vanilla", None), *((n, r) for r in retentions for n in (*labels, *CONTROLS[1:]))]
    rows = tuple(
        RunRow(
            label=name,
            retention=retention,
            frames=None,
            control=name in CONTROLS,
            config={},
            origin=Origin(f"{number:012x}", "weights-1", task.fingerprint, CODE),
        )
        for number, (name, retention) in enumerate(names)
    )
    return Run(
        name="made-up",
        title="What each part is worth",
        question="Which part can go?",
        reference=labels[0],
        published_source=None,
        sweep=False,
        model_name="toy model",
        model_revision="weights-1",
        shape=LlmShape(64, 128, 2),
        model={},
        task_name=task.name,
        task_fingerprint=task.fingerprint,
        task=TASK,
        kinds=dict(task.kinds) if labelled else {},
        sample_ids=tuple(task.sample_id(index) for index in range(n_samples)),
        rows=rows,
        environment={"python": "3.11", "machine": "a machine", "started": "2026-01-02T03:04:05"},
    )


def write_case(folder: Path, run: Run, labelled: bool = True) -> Path:
    """Write the manifest of a run and an answer to each of its questions."""
    write_run(run, folder)
    task = load_task(TASK)
    questions = {id_: task.sample(n).questions for n, id_ in enumerate(run.sample_ids)}
    with Store(folder / STORE) as store:
        for row in run.rows:
            for id_, asked in questions.items():
                answers = [
                    _answer(row, id_, number, question, labelled)
                    for number, question in enumerate(asked)
                ]
                store.write(row.origin, id_, answers, _cost(row))
    return folder


def make_summary(folder: Path, run: Run | None = None, labelled: bool = True) -> Summary:
    """Return the summary of a run whose answers were just made up."""
    run = run or make_run(labelled=labelled)
    with Store(write_case(folder, run, labelled) / STORE) as store:
        return summarise(read_run(folder), store)


def relabel(summary: Summary, **changes: object) -> Summary:
    """Return the summary with fields of every row changed."""
    return replace(summary, rows=tuple(replace(row, **changes) for row in summary.rows))


def _answer(row: RunRow, id_: str, number: int, question: Question, labelled: bool) -> StoredAnswer:
    digest = hashlib.sha256(f"{row.origin.config_id} {id_} {number}".encode()).digest()
    skill = 0.9 if row.label == "vanilla" else 0.2 if row.label == "random" else 0.7
    right = digest[0] / 256 < skill
    wrong = [option for option in question.options if option not in question.answers]
    said = question.answers[0] if right else wrong[digest[1] % len(wrong)]
    return StoredAnswer(
        kind=question.kind,
        answer=said,
        score=float(right) if labelled else None,
        option_scores={said: 0.0},
        agrees=digest[2] > 64,
        kl_nats=digest[3] / 256,
        hidden_distance=digest[4] / 512,
    )


def _cost(row: RunRow) -> Cost:
    n_tokens = TOKENS.get(row.label, round(392 * (row.retention or 1)))
    return Cost(
        frame_indices=tuple(range(8)),
        n_tokens=n_tokens,
        newline_tokens=0,
        retention_ratio=n_tokens / 392,
        reducer_ms=1.5 + int(row.origin.config_id, 16) / 4,
        answer_ms=8 + n_tokens / 10,
        encoder_ms=20.0,
        n_iter=10,
        residual=1e-4,
        seed=0,
    )

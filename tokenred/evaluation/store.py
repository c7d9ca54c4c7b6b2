"""Results that survive: one SQLite file, one transaction for each sample and configuration.

A killed run loses at most the cell it was computing. Two processes may write to one file: a cell
that is there already is left alone.
"""

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from tokenred.config import canonical_json
from tokenred.errors import TokenredError

STORE_VERSION = 2
BUSY_SECONDS = 60

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE configs (config_id TEXT PRIMARY KEY, config TEXT NOT NULL);
CREATE TABLE calibrations (
    config_id TEXT, model_revision TEXT, task_fingerprint TEXT, code_version TEXT,
    config TEXT NOT NULL,
    PRIMARY KEY (config_id, model_revision, task_fingerprint, code_version)
) WITHOUT ROWID;
CREATE TABLE results (
    config_id TEXT NOT NULL REFERENCES configs (config_id),
    sample_id TEXT NOT NULL,
    question_no INTEGER NOT NULL,
    model_revision TEXT NOT NULL,
    task_fingerprint TEXT NOT NULL,
    code_version TEXT NOT NULL,
    kind TEXT NOT NULL,
    answer TEXT NOT NULL,
    correct INTEGER NOT NULL,
    option_scores TEXT NOT NULL,
    layer_tokens TEXT NOT NULL,
    frame_indices TEXT NOT NULL,
    n_tokens INTEGER NOT NULL,
    newline_tokens INTEGER NOT NULL,
    retention_ratio REAL NOT NULL,
    reducer_ms REAL NOT NULL,
    encoder_ms REAL NOT NULL,
    n_iter INTEGER NOT NULL,
    residual REAL NOT NULL,
    seed INTEGER NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (
        config_id, sample_id, question_no, model_revision, task_fingerprint, code_version
    )
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Origin:
    """What a result depends on besides the sample; results of different origins never mix."""

    config_id: str
    model_revision: str
    task_fingerprint: str
    code_version: str


@dataclass(frozen=True)
class Answer:
    """What a model answered to one question.

    ``option_scores`` are log-likelihoods by option. ``layer_tokens`` counts the visual tokens that
    entered each layer of the LLM; empty if nothing worked inside it.
    """

    kind: str
    answer: str
    correct: bool
    option_scores: dict[str, float]
    layer_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cost:
    """What one configuration did to one video, and what it took.

    ``encoder_ms`` is the one encoding that all configurations of a run share.
    """

    frame_indices: tuple[int, ...]
    n_tokens: int
    newline_tokens: int
    retention_ratio: float
    reducer_ms: float
    encoder_ms: float
    n_iter: int
    residual: float
    seed: int


@dataclass(frozen=True)
class Record:
    """One stored answer, as read back."""

    sample_id: str
    question_no: int
    answer: Answer
    cost: Cost


class Store:
    """A file of results; use it in a ``with`` block.

    Raises
    ------
    TokenredError
        From every method, as one sentence, if the file cannot be used; what is in it stays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._sentences("open"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._prepare()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def add_config(self, config_id: str, config: object) -> None:
        """Remember what a ``config_id`` stands for."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO configs VALUES (?, ?)", (config_id, canonical_json(config))
            )

    def write(self, origin: Origin, sample_id: str, answers: Sequence[Answer], cost: Cost) -> bool:
        """Write all answers of one sample at once; return False if they were there already."""
        created = datetime.now(UTC).isoformat(timespec="seconds")
        shared = asdict(cost) | {"frame_indices": canonical_json(cost.frame_indices)}
        rows = [
            (
                origin.config_id, sample_id, number, *astuple(origin)[1:],
                answer.kind, answer.answer, answer.correct, canonical_json(answer.option_scores),
                canonical_json(answer.layer_tokens), *shared.values(), created,
            )
            for number, answer in enumerate(answers)
        ]  # fmt: skip
        marks = ", ".join("?" * len(rows[0]))
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(f"INSERT OR IGNORE INTO results VALUES ({marks})", rows)
            return self._db.total_changes > before

    def done(self, sample_id: str, origins: Collection[Origin]) -> set[Origin]:
        """Return those origins whose answers about a sample are stored."""
        query = f"SELECT 1 FROM results WHERE question_no = 0 AND sample_id = ? AND {_ORIGIN}"
        with self._sentences("read"):
            return {
                origin
                for origin in origins
                if self._db.execute(query, (sample_id, *astuple(origin))).fetchone()
            }

    def records(self, origin: Origin, sample_ids: Collection[str]) -> list[Record]:
        """Return the stored answers about the given samples, by sample and question."""
        names = ["sample_id", "question_no", *_ANSWER, *_COST]
        query = f"SELECT {', '.join(names)} FROM results WHERE {_ORIGIN} ORDER BY 1, 2"
        wanted = set(sample_ids)
        with self._sentences("read"):
            rows = self._db.execute(query, astuple(origin)).fetchall()
        return [_record(dict(zip(names, row))) for row in rows if row[0] in wanted]

    def forget(self, origin: Origin) -> None:
        """Delete the results of one origin, and what was calibrated for it."""
        with self._transaction():
            self._db.execute(f"DELETE FROM results WHERE {_ORIGIN}", astuple(origin))
            self._db.execute(f"DELETE FROM calibrations WHERE {_ORIGIN}", astuple(origin))

    def calibrated(self, origin: Origin) -> dict[str, Any] | None:
        """Return the configuration that calibration made of this one, if it was done before."""
        with self._sentences("read"):
            query = f"SELECT config FROM calibrations WHERE {_ORIGIN}"
            row = self._db.execute(query, astuple(origin)).fetchone()
        return json.loads(row[0]) if row else None

    def add_calibrated(self, origin: Origin, config: object) -> None:
        """Remember the configuration that calibration made."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO calibrations VALUES (?, ?, ?, ?, ?)",
                (*astuple(origin), json.dumps(config)),  # not sorted: stages run in order
            )

    def _prepare(self) -> None:
        with self._transaction():
            found = self._db.execute("SELECT name FROM sqlite_master WHERE name = 'meta'")
            if found.fetchone() is None:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute("INSERT INTO meta VALUES ('version', ?)", (str(STORE_VERSION),))
        row = self._db.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
        if row is None or row[0] != str(STORE_VERSION):
            raise TokenredError(
                f"{self.path} has layout {row[0] if row else 'unknown'} of the result store, this "
                f"tokenred reads layout {STORE_VERSION}; choose another folder with --out"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._sentences("write to"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:  # SQLite has rolled back already when the disk is full
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _sentences(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise TokenredError(
                f"cannot {doing} the result store {self.path}: {reason}; "
                "what was stored before is kept"
            ) from error


_ORIGIN = " AND ".join(f"{field.name} = ?" for field in fields(Origin))
_ANSWER = [field.name for field in fields(Answer)]
_COST = [field.name for field in fields(Cost)]


def _record(row: dict[str, Any]) -> Record:
    answer = {name: row[name] for name in _ANSWER}
    cost = {name: row[name] for name in _COST}
    answer |= {"correct": bool(row["correct"]), "option_scores": json.loads(row["option_scores"])}
    answer["layer_tokens"] = tuple(json.loads(row["layer_tokens"]))
    cost["frame_indices"] = tuple(json.loads(row["frame_indices"]))
    return Record(row["sample_id"], row["question_no"], Answer(**answer), Cost(**cost))

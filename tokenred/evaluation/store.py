"""The result store: one SQLite file, one transaction for each sample and configuration.

A killed run loses at most the current cell. Two processes may write to one file: existing cells are
left alone.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, astuple, dataclass, field, fields
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import NoneType, TracebackType, UnionType
from typing import Any, Literal, get_args, get_origin

from tokenred.config import canonical_json
from tokenred.errors import TokenredError

STORE_VERSION = 4
BUSY_SECONDS = 60

_OTHER_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS configs (config_id TEXT PRIMARY KEY, config TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS calibrations (
    config_id TEXT, model_revision TEXT, task_fingerprint TEXT, code_version TEXT,
    config TEXT NOT NULL,
    PRIMARY KEY (config_id, model_revision, task_fingerprint, code_version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS failures (
    config_id TEXT, model_revision TEXT, task_fingerprint TEXT, code_version TEXT,
    sample_id TEXT NOT NULL, message TEXT NOT NULL, created TEXT NOT NULL,
    PRIMARY KEY (config_id, sample_id, model_revision, task_fingerprint, code_version)
) WITHOUT ROWID;
"""
"""All tables but that of the results, whose columns are the fields of the classes below."""


@dataclass(frozen=True)
class Measured:
    """How a measured field is shown as a column of every table.

    Attributes
    ----------
    heading, meaning : of the column
    pool : how the figures of the samples become that of a row
    digits : format of the printed figure
    brief : whether the short tables have it too
    """

    heading: str
    meaning: str
    pool: Literal["mean", "median", "max"]
    digits: str = ".1f"
    brief: bool = False


def _measured(*column: Any, **more: Any) -> Any:
    """Return a dataclass field that is stored, aggregated and shown in tables."""
    return field(default=None, metadata={"measured": Measured(*column, **more)}, kw_only=True)


@dataclass(frozen=True)
class Origin:
    """The key of a result besides the sample; results of different origins never mix."""

    config_id: str
    model_revision: str
    task_fingerprint: str
    code_version: str


@dataclass(frozen=True)
class StoredAnswer:
    """The stored answer to one question, with its score.

    Attributes
    ----------
    score : 0-1; None without a label
    option_scores : log-likelihood of every option
    layer_tokens : visual tokens that entered each layer of the LLM; empty without stages inside it
    cluster : what correlated questions share, such as the video; empty: the sample
    agrees : whether the unreduced model gives the same answer
    kl_nats : Kullback-Leibler divergence of the next-token distribution from that of the unreduced
        model
    hidden_distance : 1 - cosine of the state that the next token is read from, to the unreduced one
    """

    kind: str
    answer: str
    score: float | None
    option_scores: dict[str, float]
    layer_tokens: tuple[int, ...] = ()
    cluster: str = ""
    agrees: bool | None = None
    kl_nats: float | None = _measured(
        "KL",
        "how far the distribution of the next token is from vanilla's, nats, mean over questions",
        "mean",
        ".3f",
        brief=True,
    )
    hidden_distance: float | None = _measured(
        "hidden",
        "distance of the last hidden state to vanilla's, 1 - cosine, mean over questions",
        "mean",
        ".3f",
    )


@dataclass(frozen=True)
class Cost:
    """Tokens and times of one configuration on one video.

    ``encoder_ms`` is the one encoding that all configurations of a run share, ``answer_ms`` the
    mean over the questions of what the LLM took after the reduction.
    """

    frame_indices: tuple[int, ...]
    n_tokens: int
    newline_tokens: int
    retention_ratio: float
    n_iter: int
    seed: int
    reducer_ms: float | None = _measured(
        "reducer ms",
        "wall clock of the reduction alone during the run, without warm-up, median over videos; "
        "`tokenred bench` measures",
        "median",
        brief=True,
    )
    answer_ms: float | None = _measured(
        "answer ms",
        "wall clock of one answer after the reduction, median over videos",
        "median",
    )
    encoder_ms: float | None = _measured(
        "encoder ms",
        "wall clock of the vision tower, which all rows of a run share, median over videos",
        "median",
    )
    residual: float | None = _measured(
        "residual", "the worst error of a marginal that a solver left", "max", ".1g"
    )


@dataclass(frozen=True)
class Record:
    """One stored answer, as read back; ``code_version`` is that of the code that gave it."""

    sample_id: str
    question_no: int
    answer: StoredAnswer
    cost: Cost
    code_version: str = ""


@dataclass(frozen=True)
class Failure:
    """A configuration that failed on a sample, and why."""

    origin: Origin
    sample_id: str
    message: str


class Store:
    """A file of results; use it in a ``with`` block.

    Raises
    ------
    TokenredError
        From every method, as one sentence, if the file cannot be used; what is in it stays.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: os.stat_result | None = None
        self._sound = False
        with self._sentences("open"):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            self._write_ahead()
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._prepare()
            if str(self.path) != ":memory:":
                self._file = self.path.stat()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._db.close()

    def check_file(self) -> None:
        """Make sure that the file is still the one that was opened.

        Raises
        ------
        TokenredError
            If it was deleted, moved or replaced, so that what is written now would be lost.
        """
        if self._file is None:
            return
        try:
            found = self.path.stat()
        except OSError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (self._file.st_dev, self._file.st_ino):
            raise TokenredError(
                f"the result store {self.path} was deleted or replaced while it was in use; run "
                "the same command again"
            )

    def add_config(self, config_id: str, config: object) -> None:
        """Store the config of a ``config_id``."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO configs VALUES (?, ?)", (config_id, canonical_json(config))
            )

    def write(
        self, origin: Origin, sample_id: str, answers: Sequence[StoredAnswer], cost: Cost
    ) -> bool:
        """Write all answers of one sample at once; return False if they were there already."""
        shared = {**vars(origin), "sample_id": sample_id, **vars(cost), "created": _now()}
        rows = [
            {name: _written(value) for name, value in {**shared, **vars(answer)}.items()}
            | {"question_no": number}
            for number, answer in enumerate(answers)
        ]
        names = list(rows[0])
        places = ", ".join(f":{name}" for name in names)
        insert = f"INSERT OR IGNORE INTO results ({', '.join(names)}) VALUES ({places})"
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany(insert, rows)
            written = self._db.total_changes > before
            self._db.execute(
                f"DELETE FROM failures WHERE sample_id = ? AND {_ORIGIN}",
                (sample_id, *astuple(origin)),
            )
        return written

    def write_failure(self, failure: Failure) -> None:
        """Store the failure of a configuration on a sample, replacing an earlier one."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*astuple(failure.origin), failure.sample_id, failure.message, _now()),
            )

    def failures(self, origin: Origin, sample_ids: Collection[str]) -> list[Failure]:
        """Return the failures of the given samples that have no result since."""
        query = f"SELECT sample_id, message FROM failures WHERE {_ORIGIN} ORDER BY 1"
        wanted = set(sample_ids)
        with self._sentences("read"):
            rows = self._db.execute(query, astuple(origin)).fetchall()
        return [Failure(origin, *row) for row in rows if row[0] in wanted]

    def done(
        self, sample_id: str, origins: Collection[Origin], any_code: bool = False
    ) -> set[Origin]:
        """Return the origins with stored answers about a sample.

        ``any_code`` also counts answers of other code versions.
        """
        where = f"question_no = 0 AND sample_id = ? AND {_where(any_code)}"
        query = f"SELECT 1 FROM results WHERE {where}"
        with self._sentences("read"):
            return {
                origin
                for origin in origins
                if self._db.execute(query, (sample_id, *_values(origin, any_code))).fetchone()
            }

    def known(self, origin: Origin) -> bool:
        """Return whether there is any result or calibration of this origin."""
        found = [f"SELECT 1 FROM {table} WHERE {_ORIGIN}" for table in ("results", "calibrations")]
        with self._sentences("read"):
            query = f"{' UNION ALL '.join(found)} LIMIT 1"
            return self._db.execute(query, astuple(origin) * 2).fetchone() is not None

    def records(
        self,
        origin: Origin,
        sample_ids: Collection[str],
        any_code: bool = False,
        *,
        option_scores: bool = True,
    ) -> list[Record]:
        """Return the stored answers about the given samples, by sample and question.

        Parameters
        ----------
        any_code : whether a sample that this version of the code did not answer about has the
            answers of the one that did so last
        option_scores : whether they are wanted; without, they are empty, and reading is twice as
            fast
        """
        names = ["sample_id", "question_no", "code_version", *_ANSWER, *_COST]
        if not option_scores:
            names[names.index("option_scores")] = "'{}'"
        query = (
            f"SELECT {', '.join(names)} FROM results WHERE {_where(any_code)} "
            "ORDER BY sample_id, question_no, code_version = ?, created"
        )
        wanted = set(sample_ids)
        with self._sentences("read"):
            rows = self._db.execute(query, (*_values(origin, any_code), origin.code_version))
            found = {row[:2]: row for row in rows.fetchall() if row[0] in wanted}  # the last counts
        self._check_types()
        return [self._record(row) for row in found.values()]

    def _check_types(self) -> None:
        """Look once for values that are no numbers where numbers belong."""
        if self._sound:
            return
        numbers = [name for name, of in STORED.items() if of is not str]
        wrong = " OR ".join(f"typeof({name}) IN ('text', 'blob')" for name in numbers)
        query = f"SELECT sample_id, question_no, {', '.join(numbers)} FROM results WHERE {wrong}"
        with self._sentences("read"):
            row = self._db.execute(f"{query} LIMIT 1").fetchone()
        if row is not None:
            name = next(n for n, v in zip(numbers, row[2:]) if isinstance(v, str | bytes))
            raise self._unreadable(row[0], row[1], f"{name} is no number")
        self._sound = True

    def _record(self, row: tuple[Any, ...]) -> Record:
        """Build a record from the columns of sample, question, code version, answer and cost."""
        try:
            answer = StoredAnswer(**_read(_ANSWER, row[3:]))
            return Record(row[0], row[1], answer, _cost(row[3 + len(_ANSWER) :]), row[2])
        except (ValueError, TypeError, AttributeError) as error:
            raise self._unreadable(row[0], row[1], str(error)) from None

    def _unreadable(self, sample_id: str, question_no: int, why: str) -> TokenredError:
        return TokenredError(
            f"{self.path} holds an answer that cannot be read (sample '{sample_id}', question "
            f"{question_no}: {why[:100]}); choose another folder with --out, or --fresh"
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield everything that is stored, one flat row an answer, for export."""
        query = "SELECT * FROM results"
        with self._sentences("read"):
            found = self._db.execute(query)
            names = [column[0] for column in found.description]
            for row in found:
                yield dict(zip(names, row))

    def forget(self, origin: Origin) -> None:
        """Delete the results and the calibration of one origin."""
        with self._transaction():
            self._db.execute(f"DELETE FROM results WHERE {_ORIGIN}", astuple(origin))
            self._db.execute(f"DELETE FROM calibrations WHERE {_ORIGIN}", astuple(origin))
            self._db.execute(f"DELETE FROM failures WHERE {_ORIGIN}", astuple(origin))

    def calibrated(self, origin: Origin) -> dict[str, Any] | None:
        """Return the stored calibrated configuration, if there is one."""
        with self._sentences("read"):
            query = f"SELECT config FROM calibrations WHERE {_ORIGIN}"
            row = self._db.execute(query, astuple(origin)).fetchone()
        try:
            found = json.loads(row[0]) if row else None
        except (ValueError, TypeError):
            found = ""
        if not (found is None or isinstance(found, dict)):
            raise TokenredError(
                f"{self.path} holds a calibration that cannot be read; --fresh makes it again"
            )
        return found

    def add_calibrated(self, origin: Origin, config: object) -> None:
        """Store a calibrated configuration."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO calibrations VALUES (?, ?, ?, ?, ?)",
                (*astuple(origin), json.dumps(config)),  # not sorted: stages run in order
            )

    def _write_ahead(self) -> None:
        """Set the journal mode, waiting for other processes.

        SQLite's busy timeout does not cover this change.
        """
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _prepare(self) -> None:
        """Create the tables, or migrate those of an older layout."""
        with self._transaction():
            for statement in _OTHER_TABLES.split(";\n"):
                self._db.execute(statement)
            found = self._db.execute("SELECT value FROM meta WHERE name = 'version'").fetchone()
            layout = int(found[0]) if found and str(found[0]).isdigit() else None
            old = {row[1]: row[2] for row in self._db.execute("PRAGMA table_info(results)")}
            if (layout is None and old) or (layout or 0) > STORE_VERSION:
                raise TokenredError(
                    f"{self.path} has layout {layout or 'unknown'} of the result store, this "
                    f"tokenred reads layouts up to {STORE_VERSION}; choose another folder with "
                    "--out"
                )
            if layout != STORE_VERSION or not _RESULTS.keys() <= old.keys():
                self._rebuild(old)
                self._db.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('version', ?)", (str(STORE_VERSION),)
                )

    def _rebuild(self, old: Mapping[str, str]) -> None:
        """Create the table of results, with all content of an older one."""
        extra = {name: sql for name, sql in old.items() if name not in {*_RESULTS, *_RENAMED}}
        wanted = {**_RESULTS, **extra}
        key = ", ".join([*(each.name for each in fields(Origin)), "sample_id", "question_no"])
        lines = ", ".join(f"{name} {sql}" for name, sql in wanted.items())
        self._db.execute(f"CREATE TABLE new ({lines}, PRIMARY KEY ({key})) WITHOUT ROWID")
        if old:
            source = {_RENAMED.get(name, name): name for name in old}
            # Layouts before 4 had 0 where no time was measured.
            source |= {name: f"NULLIF({name}, 0)" for name in source if name.endswith("_ms")}
            known = [name for name in wanted if name in source or "NOT NULL" in wanted[name]]
            values = (source.get(name) or _unknown(name) for name in known)
            self._db.execute(
                f"INSERT INTO new ({', '.join(known)}) SELECT {', '.join(values)} FROM results"
            )
            self._db.execute("DROP TABLE results")
        self._db.execute("ALTER TABLE new RENAME TO results")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.check_file()
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


_ORIGIN = " AND ".join(f"{each.name} = ?" for each in fields(Origin))
_NOT_CODE = _ORIGIN.removesuffix(" AND code_version = ?")
_ANSWER = {each.name: each for each in fields(StoredAnswer)}
_COST = {each.name: each for each in fields(Cost)}
_RENAMED = {"correct": "score"}
"""Name in an older layout -> name now."""

_SQL = {str: "TEXT", dict: "TEXT", tuple: "TEXT", float: "REAL", int: "INTEGER", bool: "INTEGER"}


def _kind(of: Any) -> tuple[type, bool]:
    """Return the plain type of a field, and whether it may be None."""
    kinds = get_args(of) if isinstance(of, UnionType) else (of,)
    plain = next(kind for kind in kinds if kind is not NoneType)
    return get_origin(plain) or plain, NoneType in kinds


def _column(of: Any) -> str:
    kind, optional = _kind(of)
    return _SQL[kind] if optional else f"{_SQL[kind]} NOT NULL"


_RESULTS: dict[str, str] = {
    **{each.name: _column(each.type) for each in fields(Origin)},
    "sample_id": "TEXT NOT NULL",
    "question_no": "INTEGER NOT NULL",
    **{name: _column(each.type) for name, each in {**_ANSWER, **_COST}.items()},
    "created": "TEXT NOT NULL",
}
"""Column -> its SQL."""

_PYTHON = {"TEXT": str, "REAL": float, "INTEGER": int}
STORED: dict[str, type] = {name: _PYTHON[sql.split()[0]] for name, sql in _RESULTS.items()}
"""Column of the results as exported -> its type."""

MEASURED: dict[str, Measured] = {
    name: each.metadata["measured"]
    for name, each in {**_ANSWER, **_COST}.items()
    if "measured" in each.metadata
}
"""What is measured for every answer or sample, by name."""


def _unknown(name: str) -> str:
    """Return the SQL value of a column that an older layout lacks."""
    of = {**_ANSWER, **_COST}[name]
    value = _kind(of.type)[0]() if of.default is MISSING else of.default
    return "'[]'" if isinstance(value, tuple) else repr(value)


def _where(any_code: bool) -> str:
    return _NOT_CODE if any_code else _ORIGIN


def _values(origin: Origin, any_code: bool) -> tuple[str, ...]:
    return astuple(origin)[:-1] if any_code else astuple(origin)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _written(value: Any) -> Any:
    """Return the database value of a field."""
    return canonical_json(value) if isinstance(value, dict | tuple) else value


@lru_cache(maxsize=4096)
def _list(text: str) -> tuple[Any, ...]:
    return tuple(json.loads(text))


def _mapping(text: str) -> dict[str, Any]:
    return {**json.loads(text)}


_READERS: dict[type, Callable[[Any], Any]] = {tuple: _list, dict: _mapping, bool: bool}
_READER = {
    name: read
    for name, each in {**_ANSWER, **_COST}.items()
    if (read := _READERS.get(_kind(each.type)[0])) is not None
}
"""How the value of a field is read, where the file has it in another form."""


def _read(names: Iterable[str], columns: Sequence[Any]) -> dict[str, Any]:
    """Return the field values of database values, in order."""
    found = dict(zip(names, columns))
    for name in _READER.keys() & found.keys():
        if found[name] is not None:
            found[name] = _READER[name](found[name])
    return found


@lru_cache(maxsize=1024)
def _cost(columns: tuple[Any, ...]) -> Cost:
    """Build the cost of a sample, which all its questions share."""
    return Cost(**_read(_COST, columns))

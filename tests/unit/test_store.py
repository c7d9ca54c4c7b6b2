"""The result store: nothing half, double or mixed, and one sentence on every fault."""

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tokenred.errors import TokenredError
from tokenred.evaluation.store import (
    STORE_VERSION,
    Cost,
    Failure,
    Origin,
    Record,
    Store,
    StoredAnswer,
)

ORIGIN = Origin("0123456789ab", "weights-1", "task-1", "0.1.0+aaaa")
COST = Cost(
    (0, 4, 9),
    40,
    1,
    0.1,
    37,
    seed=3,
    reducer_ms=12.5,
    answer_ms=7.5,
    encoder_ms=80.0,
    residual=1e-3,
)
ANSWERS = [
    StoredAnswer(
        "colour",
        "red",
        1.0,
        {"red": -0.1, "blue": -2.4},
        layer_tokens=(40, 12),
        agrees=True,
        kl_nats=0.25,
        hidden_distance=0.5,
    ),
    StoredAnswer("count", "a few", 0.4, {}, cluster="a video", agrees=False),
    StoredAnswer("story", "a man runs", None, {}),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "results.sqlite"


@pytest.fixture
def store(path: Path):
    with Store(path) as opened:
        opened.add_config(ORIGIN.config_id, {"stages": []})
        yield opened


def test_what_is_written_is_read_back(store: Store, path: Path) -> None:
    assert store.write(ORIGIN, "v/1", ANSWERS, COST)
    with Store(path) as other:
        assert other.records(ORIGIN, ["v/1", "v/2"]) == [
            Record("v/1", number, answer, COST, ORIGIN.code_version)
            for number, answer in enumerate(ANSWERS)
        ]


def test_option_scores_may_be_left_in_the_file(store: Store) -> None:
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    assert store.records(ORIGIN, ["v/1"], option_scores=False) == [
        replace(record, answer=replace(record.answer, option_scores={}))
        for record in store.records(ORIGIN, ["v/1"])
    ]


def test_a_cell_is_written_once(store: Store, path: Path) -> None:
    assert store.write(ORIGIN, "v/1", ANSWERS, COST)
    with Store(path) as other:
        assert not other.write(ORIGIN, "v/1", ANSWERS, replace(COST, n_tokens=99))
    assert {record.cost.n_tokens for record in store.records(ORIGIN, ["v/1"])} == {40}


@pytest.mark.parametrize("field", ["model_revision", "task_fingerprint", "code_version"])
def test_origins_do_not_mix(store: Store, field: str) -> None:
    other = replace(ORIGIN, **{field: "other"})
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    assert store.done("v/1", [ORIGIN, other]) == {ORIGIN}
    assert store.done("v/2", [ORIGIN, other]) == set()
    assert store.records(other, ["v/1"]) == []


def test_records_are_those_of_the_samples_asked_for(store: Store) -> None:
    for name in ("v/2", "v/1", "v/3"):
        store.write(ORIGIN, name, ANSWERS, COST)
    found = store.records(ORIGIN, ["v/1", "v/2"])
    assert [(r.sample_id, r.question_no) for r in found] == [
        ("v/1", 0), ("v/1", 1), ("v/1", 2), ("v/2", 0), ("v/2", 1), ("v/2", 2),
    ]  # fmt: skip


OTHER_CODE = replace(ORIGIN, code_version="0.2.0")


def test_other_versions_of_the_code_count_only_when_asked_for(store: Store) -> None:
    store.write(OTHER_CODE, "v/1", ANSWERS, COST)
    store.write(OTHER_CODE, "v/2", ANSWERS, COST)
    store.write(ORIGIN, "v/2", ANSWERS, replace(COST, n_tokens=99))
    assert store.done("v/1", [ORIGIN]) == set()
    assert store.done("v/1", [ORIGIN], any_code=True) == {ORIGIN}
    assert store.done("v/1", [replace(ORIGIN, model_revision="other")], any_code=True) == set()
    assert {record.sample_id for record in store.records(ORIGIN, ["v/1", "v/2"])} == {"v/2"}
    found = store.records(ORIGIN, ["v/1", "v/2"], any_code=True)
    assert len(found) == 2 * len(ANSWERS)
    assert {(r.sample_id, r.code_version, r.cost.n_tokens) for r in found} == {
        ("v/1", OTHER_CODE.code_version, 40), ("v/2", ORIGIN.code_version, 99),
    }  # fmt: skip


def test_a_failure_is_remembered_until_it_succeeds(store: Store) -> None:
    for message in ("out of luck", "out of memory"):
        store.write_failure(Failure(ORIGIN, "v/1", message))
    store.write_failure(Failure(OTHER_CODE, "v/2", "another"))
    assert store.failures(ORIGIN, ["v/1", "v/2"]) == [Failure(ORIGIN, "v/1", "out of memory")]
    assert store.failures(ORIGIN, ["v/2"]) == []
    assert store.done("v/1", [ORIGIN]) == set()
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    assert store.failures(ORIGIN, ["v/1"]) == []
    assert len(store.failures(OTHER_CODE, ["v/2"])) == 1


def test_rows_are_flat_and_everything(store: Store) -> None:
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    rows = list(store.rows())
    assert [row["question_no"] for row in rows] == [0, 1, 2]
    assert [row["score"] for row in rows] == [1.0, 0.4, None]
    assert {(row["config_id"], row["n_tokens"]) for row in rows} == {(ORIGIN.config_id, 40)}


def test_forgetting_takes_one_origin_only(store: Store) -> None:
    for origin in (ORIGIN, OTHER_CODE):
        store.write(origin, "v/1", ANSWERS, COST)
        store.write_failure(Failure(origin, "v/2", "out of luck"))
        store.add_calibrated(origin, {"tau": 0.25})
    store.forget(ORIGIN)
    assert store.done("v/1", [ORIGIN, OTHER_CODE]) == {OTHER_CODE}
    assert [len(store.failures(origin, ["v/2"])) for origin in (ORIGIN, OTHER_CODE)] == [0, 1]
    assert store.calibrated(ORIGIN) is None
    assert store.calibrated(OTHER_CODE) == {"tau": 0.25}
    assert [store.known(origin) for origin in (ORIGIN, OTHER_CODE)] == [False, True]


def test_an_origin_is_known_once_it_has_answers_or_a_calibration(store: Store) -> None:
    store.write_failure(Failure(ORIGIN, "v/2", "out of luck"))
    assert not store.known(ORIGIN)
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    store.add_calibrated(OTHER_CODE, {"tau": 0.25})
    assert store.known(ORIGIN)
    assert store.known(OTHER_CODE)
    assert not store.known(replace(ORIGIN, model_revision="other"))


def test_calibrations_are_remembered(store: Store) -> None:
    assert store.calibrated(ORIGIN) is None
    store.add_calibrated(ORIGIN, {"tau": 0.25})
    assert store.calibrated(ORIGIN) == {"tau": 0.25}
    assert store.calibrated(replace(ORIGIN, model_revision="other")) is None


def test_a_result_needs_its_config(store: Store) -> None:
    """The config of every stored number can be looked up."""
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    known = store._db.execute("SELECT config FROM configs").fetchall()
    assert known == [('{"stages":[]}',)]


def test_it_opens_while_another_process_is_making_the_file(path: Path) -> None:
    """It holds the lock for a moment, and SQLite refuses at once to change the journal."""
    path.parent.mkdir(exist_ok=True)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    release.start()
    with Store(path) as store:
        assert not list(store.rows())
    release.join()
    other.close()


def test_a_full_disk_is_one_sentence_and_loses_nothing(store: Store, path: Path) -> None:
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
    written: list[str] = []

    def fill() -> None:
        for index in range(1000):
            store.write(ORIGIN, f"v/{index}", ANSWERS, COST)
            written.append(f"v/{index}")

    with pytest.raises(TokenredError, match=r"write to the result store .*full.*is kept"):
        fill()
    assert written
    with Store(path) as other:
        stored = {record.sample_id for record in other.records(ORIGIN, [*written, "v/999"])}
    assert stored == set(written)


def test_a_read_only_file_is_one_sentence(store: Store) -> None:
    store.write(ORIGIN, "v/1", ANSWERS, COST)
    store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(TokenredError, match=r"cannot write to the result store .*readonly"):
        store.write(ORIGIN, "v/2", ANSWERS, COST)
    assert store.done("v/1", [ORIGIN]) == {ORIGIN}


def test_a_read_only_folder_is_one_sentence() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        with without_privileges(), pytest.raises(TokenredError) as caught:
            Store(Path(folder) / "results.sqlite")
    assert str(caught.value).startswith(f"cannot open the result store {folder}/results.sqlite: ")


@contextmanager
def without_privileges() -> Iterator[None]:
    """Be nobody for a while, as root may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if user == 0:
            os.seteuid(0)


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokenredError, match="cannot open the result store"):
        Store(tmp_path / "file" / "run" / "results.sqlite")


def test_another_kind_of_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "results.sqlite"
    path.write_text("row,accuracy\n" * 1000)
    with pytest.raises(TokenredError, match="not a database"):
        Store(path)


OLD_LAYOUTS = {
    1: ["correct INTEGER NOT NULL"],
    2: ["correct INTEGER NOT NULL", "layer_tokens TEXT NOT NULL"],
    3: [
        "score REAL", "layer_tokens TEXT NOT NULL", "cluster TEXT NOT NULL", "agrees INTEGER",
        "kl_nats REAL", "hidden_distance REAL", "answer_ms REAL NOT NULL",
    ],
    STORE_VERSION: ["score REAL", "agrees INTEGER", "lens_cap_mm REAL"],
}  # fmt: skip
"""Layout -> columns of the results beside those that all have. The last is an edited newest one."""


@pytest.mark.parametrize("layout", OLD_LAYOUTS)
def test_an_older_layout_is_brought_up_to_date(path: Path, layout: int) -> None:
    key = [*vars(ORIGIN), "sample_id", "question_no"]
    same = ["frame_indices TEXT", "option_scores TEXT", "kind TEXT", "answer TEXT", "created TEXT"]
    same += ["n_tokens INTEGER", "newline_tokens INTEGER", "retention_ratio REAL", "seed INTEGER"]
    same += ["reducer_ms REAL", "encoder_ms REAL", "n_iter INTEGER", "residual REAL"]
    columns = [*(f"{name} TEXT" for name in key), *(f"{line} NOT NULL" for line in same)]
    columns += OLD_LAYOUTS[layout]
    values = {
        **vars(ORIGIN), "sample_id": "v/1", "question_no": 0, "frame_indices": "[0,4]",
        "option_scores": '{"red":-0.5}', "kind": "colour", "answer": "red", "created": "2026",
        "n_tokens": 40, "newline_tokens": 1, "retention_ratio": 0.1, "seed": 3, "n_iter": 7,
        "reducer_ms": 12.5, "encoder_ms": 0.0, "residual": 0.25, "correct": 1, "score": 1.0,
        "layer_tokens": "[40]", "cluster": "film", "agrees": 1, "kl_nats": 0.5,
        "hidden_distance": 0.5, "answer_ms": 0.0, "lens_cap_mm": 52.0,
    }  # fmt: skip
    names = [line.split()[0] for line in columns]
    path.parent.mkdir()
    database = sqlite3.connect(path)
    with database:
        database.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.execute("INSERT INTO meta VALUES ('version', ?)", (str(layout),))
        database.execute(
            f"CREATE TABLE results ({', '.join(columns)}, PRIMARY KEY ({', '.join(key)}))"
        )
        marks = ", ".join("?" for _ in names)
        database.execute(f"INSERT INTO results VALUES ({marks})", [values[name] for name in names])
    database.close()
    for _ in range(2):  # as found, and as left
        with Store(path) as store:
            (record,) = store.records(ORIGIN, ["v/1"])
            row = next(store.rows())
            store.write(ORIGIN, "v/2", ANSWERS, COST)
            assert len(store.records(ORIGIN, ["v/2"])) == len(ANSWERS)
    answer, cost = record.answer, record.cost
    assert (answer.score, answer.answer, answer.option_scores) == (1.0, "red", {"red": -0.5})
    assert (cost.frame_indices, cost.n_tokens, cost.reducer_ms) == ((0, 4), 40, 12.5)
    assert (cost.encoder_ms, cost.answer_ms) == (None, None)  # nobody measured them
    assert answer.layer_tokens == ((40,) if "layer_tokens TEXT NOT NULL" in columns else ())
    assert answer.cluster == ("film" if layout == 3 else "")
    assert row.get("lens_cap_mm") == (52.0 if layout == STORE_VERSION else None)


def test_a_newer_layout_is_refused(path: Path) -> None:
    Store(path).__exit__(None, None, None)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE meta SET value = '99'")
    database.close()
    with pytest.raises(TokenredError, match=r"has layout 99 .* reads layouts up to \d.*--out"):
        Store(path)


def test_an_interrupt_leaves_no_half_cell(store: Store) -> None:
    def interrupted() -> None:
        with store._transaction():
            store._db.execute("INSERT INTO calibrations VALUES ('half', 'm', 't', 'c', '{}')")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert store._db.execute("SELECT count(*) FROM calibrations").fetchone() == (0,)
    assert store.write(ORIGIN, "v/1", ANSWERS, COST)

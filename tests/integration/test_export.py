"""Everything that is stored goes into one flat file, or one sentence says why not."""

import csv
from pathlib import Path

import pytest

from tests.evaluation_toys import ToyModel, ToyTask, run_toy, toy_ablation
from tokenred.errors import ConfigError, InputError, TokenredError
from tokenred.evaluation import runner
from tokenred.evaluation.export import COLUMNS, export_answers
from tokenred.evaluation.manifest import STORE, make_run, write_run
from tokenred.evaluation.store import Store

N_SAMPLES = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    with Store(folder / STORE) as store:
        planned, _ = run_toy(store, N_SAMPLES)
    write_run(make_run(toy_ablation(), planned, ToyTask(), ToyModel(), N_SAMPLES), folder)
    return folder


def stored(folder: Path) -> int:
    with Store(folder / STORE) as store:
        return len(list(store.rows()))


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_holds_every_answer_with_its_row(folder: Path, tmp_path: Path) -> None:
    assert export_answers(folder, tmp_path / "all.csv") == stored(folder)
    lines = read(tmp_path / "all.csv")
    assert len(lines) == stored(folder) > 0
    assert list(lines[0]) == list(COLUMNS)
    assert {line["row"] for line in lines} >= {"AOT", "vanilla", "random", "downsample"}


def test_parquet_holds_the_same(folder: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert export_answers(folder, tmp_path / "all.parquet") == stored(folder)
    export_answers(folder, tmp_path / "all.csv")
    lines = read(tmp_path / "all.csv")
    table = parquet.read_table(tmp_path / "all.parquet").to_pylist()
    assert [str(row["sample_id"]) for row in table] == [line["sample_id"] for line in lines]
    assert [row["score"] for row in table] == [float(line["score"]) for line in lines]
    assert list(table[0]) == list(COLUMNS)


def test_faults_are_one_sentence_and_leave_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.csv or \.parquet, not all\.xls"):
        export_answers(folder, tmp_path / "all.xls")
    with pytest.raises(TokenredError, match=r"cannot be written: there is no folder"):
        export_answers(folder, tmp_path / "absent" / "all.csv")
    with pytest.raises(InputError, match="holds no run"):
        export_answers(tmp_path, tmp_path / "all.csv")
    assert not list(tmp_path.glob("*all*"))


def test_rows_of_other_code_have_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Store(folder / STORE) as store:
        for version in ("old", "new"):
            monkeypatch.setattr(runner, "code_version", lambda *configs, now=version: now)
            planned, _ = run_toy(store, 1)
    write_run(make_run(toy_ablation(), planned, ToyTask(), ToyModel(), 1), folder)
    export_answers(folder, tmp_path / "all.csv")
    labelled = {(line["code_version"], bool(line["row"])) for line in read(tmp_path / "all.csv")}
    assert labelled == {("old", False), ("new", True)}

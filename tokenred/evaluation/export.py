"""Export all stored answers to one flat file."""

import csv
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from tokenred.errors import ConfigError, TokenredError
from tokenred.evaluation.files import inert, whole_file
from tokenred.evaluation.manifest import STORE, Run, read_runs
from tokenred.evaluation.store import STORED, Origin, Store

SUFFIXES = (".csv", ".parquet")
_BATCH = 20_000


def export_answers(folder: Path, path: Path) -> int:
    """Write every answer that a run's folder holds, with the label of its row; return how many.

    Answers that belong to no row of any run that the folder knows of, such as those of older code,
    have no label.

    Parameters
    ----------
    path : ``.csv`` or ``.parquet``; written as a whole or not at all

    Raises
    ------
    ConfigError
        If the name ends in something else.
    InputError
        If the folder holds no run.
    TokenredError
        If the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"write to a file that ends in {' or '.join(SUFFIXES)}, not {path.name}")
    runs = read_runs(folder)
    write = _write_csv if path.suffix == ".csv" else _write_parquet
    with Store(folder / STORE) as store, whole_file(path) as draft:
        return write(draft, _labelled(runs.values(), store))


def _labelled(runs: Iterable[Run], store: Store) -> Iterator[dict[str, Any]]:
    known: dict[Origin, tuple[str, float | None]] = {}
    for run in runs:  # the latest first
        for each in run.rows:
            known.setdefault(each.origin, (each.label, each.retention))
    for row in store.rows():
        origin = Origin(*(row[each.name] for each in fields(Origin)))
        label, retention = known.get(origin, (None, None))
        yield {"row": label, "retention": retention, **row}


def _write_csv(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    n_rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        for row in rows:
            if not n_rows:
                writer = csv.DictWriter(file, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow({name: inert(value) for name, value in row.items()})
            n_rows += 1
    return n_rows


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise TokenredError("Parquet needs pyarrow: pip install 'tokenred[export]'") from error
    kinds = {str: pyarrow.string(), float: pyarrow.float64(), int: pyarrow.int64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    n_rows = 0
    batch: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            batch.clear()

        for row in rows:
            batch.append(row)
            n_rows += 1
            if len(batch) == _BATCH:
                flush()
        flush()
    return n_rows


COLUMNS: dict[str, type] = {"row": str, "retention": float, **STORED}
"""Column -> type."""

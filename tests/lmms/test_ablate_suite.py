"""``tokenred ablate --suite``: rows of an ablation on tasks of lmms-eval, stored and compared."""

import json

import pytest

from tokenred.cli import main
from tokenred.evaluation.manifest import STORE, read_run
from tokenred.evaluation.store import Store

LIMIT = 3


def ablate(*arguments):
    try:
        main(["ablate", *map(str, arguments)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_table_over_a_task_and_a_resumed_one(clips, tmp_path, capsys):
    common = ["--suite", "lmms-eval:clips", "--include-path", clips[0], "--out", tmp_path]
    assert ablate("top-attention", *common, "--limit", LIMIT, "--json") == 0
    shown = capsys.readouterr()
    table = json.loads(shown.out)
    assert f"4 rows on {LIMIT} samples" in shown.err
    assert f"{4 * LIMIT} results computed, 0 found" in shown.err
    rows = {row["label"]: row for row in table["rows"]}
    assert set(rows) == {"vanilla", "top-attention", "random", "downsample"}
    assert rows["vanilla"]["agreement"]["value"] == 1
    assert rows["top-attention"]["n_tokens"] == rows["random"]["n_tokens"] == 40
    assert rows["top-attention"]["difference"] is None  # the reference
    run = read_run(tmp_path)
    assert run.task_fingerprint.startswith("lmms-eval:clips 0.7.3 ")
    with Store(tmp_path / STORE) as store:
        found = [store.records(row.origin, run.sample_ids) for row in run.rows]
    assert {len(records) for records in found} == {LIMIT}
    clusters = {record.answer.cluster for records in found for record in records}
    assert all(cluster.endswith(".mkv") for cluster in clusters)
    assert ablate("top-attention", *common, "--limit", LIMIT) == 0
    assert f"0 results computed, {4 * LIMIT} found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--suite", "mvbench"], 2, "expected lmms-eval:TASK, got 'mvbench'"),
        (["--suite", "lmms-eval:clip"], 2, "no task 'clip'"),
        (["--suite", "lmms-eval:clips", "--dry-run"], 2, "--dry-run: cannot be used together"),
        (["--suite", "lmms-eval:clips", "--executor", "ray"], 2, "--executor: cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(clips, tmp_path, capsys, arguments, code, sentence):
    common = ["--include-path", clips[0], "--out", tmp_path]
    assert ablate("top-attention", *common, *arguments) == code
    assert sentence in capsys.readouterr().err

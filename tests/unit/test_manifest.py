"""A run's manifest: what it says, and that it is read as it was written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation_toys import ToyModel, ToyTask, toy_ablation
from tokenred.evaluation.ablation import load_ablation
from tokenred.evaluation.manifest import Run, make_run, read_run, write_run
from tokenred.evaluation.model import ModelSpec
from tokenred.evaluation.runner import plan
from tokenred.evaluation.store import Store
from tokenred.pipeline import load_pipeline


@pytest.fixture(scope="module")
def run() -> Run:
    task, model = ToyTask(), ToyModel()
    with Store(":memory:") as store:
        planned = plan(toy_ablation().expand([1 / 3]), task, model, store)
    return make_run(toy_ablation(), planned, task, model, 3)


def test_a_run_is_read_as_it_was_written(run: Run, tmp_path: Path) -> None:
    write_run(run, tmp_path / "a" / "run")
    found = read_run(tmp_path / "a" / "run")
    assert found == run
    assert [file.name for file in (tmp_path / "a" / "run").iterdir()] == ["run.json"]


def test_it_names_rows_samples_and_what_they_were_made_from(run: Run) -> None:
    assert (run.name, run.title, run.reference) == ("toy", "toy", "AOT")
    assert run.sample_ids == ("toy/000", "toy/001", "toy/002")
    assert run.task == {"name": "toy"}
    assert run.kinds == dict(ToyTask.kinds)
    assert (run.model_name, run.model_revision) == (ToyModel.name, ToyModel.revision)
    rows = {row.label: row for row in run.rows}
    assert list(rows) == [row.label for row in toy_ablation().expand([1 / 3])]
    assert (rows["two frames"].frames, rows["AOT"].frames) == (2, None)
    assert rows["random"].control
    assert not rows["AOT"].control
    assert {"python", "machine", "torch", "started"} <= set(run.environment)


def test_a_pipeline_is_made_again_of_its_row(run: Run, tmp_path: Path) -> None:
    write_run(run, tmp_path)
    for row in read_run(tmp_path).rows:
        if row.frames is None:
            assert load_pipeline(row.config).config.config_id == row.origin.config_id


def test_what_somebody_printed_stands_beside_its_row() -> None:
    published = {"source": "a paper", "scores": {"vanilla": 58.4, "AOT": {0.3: 57.0}}}
    ablation = load_ablation({"rows": {"AOT": None}, "published": published})
    task, model = ToyTask(), ToyModel()
    with Store(":memory:") as store:
        planned = plan(ablation.expand([0.3]), task, model, store)
    run = make_run(ablation, planned, task, model, 1)
    assert run.published_source == "a paper"
    assert {row.label: row.published for row in run.rows} == {
        "vanilla": 58.4, "AOT": 57.0, "random": None, "downsample": None,
    }  # fmt: skip


def test_the_specification_of_the_model_is_kept(run: Run, tmp_path: Path) -> None:
    model = ToyModel()
    model.spec = ModelSpec("some/model", dtype="bfloat16")  # type: ignore[attr-defined]
    task = ToyTask()
    with Store(":memory:") as store:
        planned = plan(load_ablation("vanilla").expand(), task, model, store)
    write_run(make_run(load_ablation("vanilla"), planned, task, model, 1), tmp_path)
    found = read_run(tmp_path)
    assert ModelSpec(**found.model) == model.spec
    assert run.model == {}


def test_text_of_any_script_survives(run: Run, tmp_path: Path) -> None:
    other = replace(run, title='\u6bd4\u8f03 \u2028 "x"', sample_ids=("\u00e4/\U0001f600.mp4",))
    write_run(other, tmp_path)
    assert read_run(tmp_path) == other
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["version"] == 1

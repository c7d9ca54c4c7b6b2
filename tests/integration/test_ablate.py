"""Ablations end to end: encode once, stop anywhere, resume; and the command on the real model."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.evaluation_toys import ToyModel, ToyTask, run_toy, toy_ablation
from tokenred.accounting import prefill_flops
from tokenred.cli import main
from tokenred.errors import BudgetError, CapabilityError, ConfigError, InputError
from tokenred.evaluation.ablation import ablation_files, load_ablation
from tokenred.evaluation.model import EmbeddedModel, Reply
from tokenred.evaluation.provenance import package_version
from tokenred.evaluation.runner import frame_subset, plan, run, sample_generator
from tokenred.evaluation.store import Store
from tokenred.evaluation.summary import record_flops
from tokenred.evaluation.task import EmbeddedTask

ROOT = Path(__file__).resolve().parents[2]
N_SAMPLES = 20
N_ROWS = 7
TIMES = {"reducer_ms", "encoder_ms", "created"}
"""Columns that no two runs share."""


def contents(path: Path) -> list[tuple[object, ...]]:
    """Return everything stored but the times, in a fixed order."""
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    rows = database.execute("SELECT * FROM results").fetchall()
    database.close()
    names = [name for name in (rows[0].keys() if rows else ()) if name not in TIMES]
    return sorted(tuple(row[name] for name in names) for row in rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    path = tmp_path_factory.mktemp("undisturbed") / "results.sqlite"
    with Store(path) as store:
        run_toy(store, N_SAMPLES)
    return contents(path)


class TestRunner:
    def test_every_sample_is_encoded_once_for_all_rows(self) -> None:
        model = ToyModel()
        with Store(":memory:") as store:
            _, progress = run_toy(store, 5, model=model)
        assert model.n_encoded == 5
        assert (progress.cells_computed, progress.cells_reused) == (5 * N_ROWS, 0)

    def test_what_is_stored_is_neither_computed_nor_encoded_again(self, path: Path) -> None:
        with Store(path) as store:
            run_toy(store, 5)
        model = ToyModel()
        with Store(path) as store:
            _, progress = run_toy(store, 7, model=model)
        assert model.n_encoded == 2
        assert (progress.cells_computed, progress.cells_reused) == (2 * N_ROWS, 5 * N_ROWS)

    def test_another_ablation_reuses_the_rows_it_shares(self) -> None:
        with Store(":memory:") as store:
            run_toy(store, 3)
            _, progress = run_toy(store, 3, ablation=load_ablation("aot-paper"))
        assert (progress.cells_computed, progress.cells_reused) == (0, 3 * 4)

    def test_results_do_not_depend_on_what_ran_before(
        self, path: Path, undisturbed: list[tuple[object, ...]]
    ) -> None:
        """Random rows draw from a generator of their sample, not from a common one."""
        with Store(path) as store:
            run_toy(store, 2)
            run_toy(store, N_SAMPLES, ablation=load_ablation("random"))
            run_toy(store, N_SAMPLES)
        assert contents(path) == undisturbed

    def test_generators_differ_by_sample_and_seed_only(self) -> None:
        draws = {
            key: torch.rand(4, generator=sample_generator(*key)).tolist()
            for key in [(0, "a"), (0, "b"), (1, "a")]
        }
        assert draws[0, "a"] == torch.rand(4, generator=sample_generator(0, "a")).tolist()
        assert len({tuple(draw) for draw in draws.values()}) == 3

    def test_fewer_frames_are_spread_over_the_clip(self) -> None:
        assert frame_subset(8, None) == list(range(8))
        assert frame_subset(8, 8) == list(range(8))
        assert frame_subset(8, 2) == [0, 7]
        assert frame_subset(9, 3) == [0, 4, 8]
        assert frame_subset(8, 1) == [4]
        with pytest.raises(ConfigError, match="9 frames asked for, the clip has 8"):
            frame_subset(8, 9)

    def test_a_row_with_fewer_frames_sees_those_alone(self) -> None:
        with Store(":memory:") as store:
            planned, _ = run_toy(store, 1)
            found = {cell.row.label: store.records(cell.origin, ["toy/000"]) for cell in planned}
        assert found["two frames"][0].cost.frame_indices == (0, 70)
        assert found["downsample"][0].cost.n_tokens == 4 * found["two frames"][0].cost.n_tokens

    def test_the_model_learns_the_toy(self) -> None:
        """Otherwise the tests above would compare noise."""
        with Store(":memory:") as store:
            planned, _ = run_toy(store, N_SAMPLES, ablation=load_ablation("vanilla"))
            ids = [f"toy/{index:03d}" for index in range(N_SAMPLES)]
            (vanilla,) = (c for c in planned if c.row.label == "vanilla")
            answers = [r.answer for r in store.records(vanilla.origin, ids) if r.question_no == 0]
        assert sum(answer.correct for answer in answers) / len(answers) > 0.8

    def test_an_interrupt_keeps_what_was_computed(self, path: Path) -> None:
        class Interrupted(ToyModel):
            def encode(self, sample, needs):
                if sample.id == "toy/002":
                    raise KeyboardInterrupt
                return super().encode(sample, needs)

        with Store(path) as store, pytest.raises(KeyboardInterrupt):
            run_toy(store, 4, model=Interrupted())
        with Store(path) as store:
            _, progress = run_toy(store, 4)
        assert (progress.cells_computed, progress.cells_reused) == (2 * N_ROWS, 2 * N_ROWS)

    def test_a_failing_row_and_sample_are_named(self) -> None:
        class Broken(ToyModel):
            def replies(self, reduced, questions, inside):
                return [Reply({option: float("nan") for option in q.options}) for q in questions]

        with (
            Store(":memory:") as store,
            pytest.raises(InputError, match=r"row 'vanilla', sample 'toy/000': .*not finite"),
        ):
            run_toy(store, 1, model=Broken())

    def test_a_cue_that_the_model_lacks_is_found_before_any_work(self) -> None:
        class Blind(ToyModel):
            def check(self, needs):
                if needs:
                    raise CapabilityError(f"no {min(needs)}")

        model = Blind()
        with (
            Store(":memory:") as store,
            pytest.raises(CapabilityError, match=r"row 'AOT': no attention@"),
        ):
            run_toy(store, 1, model=model)
        assert model.n_encoded == 0

    @pytest.mark.parametrize("name", ablation_files())
    def test_shipped_ablations_run(self, name: str) -> None:
        task, model = ToyTask(), ToyModel()
        ablation = load_ablation(name)
        with Store(":memory:") as store:
            planned = plan(ablation.expand(), task, model, store)
            run(planned, task, model, store, 1)
            found = [store.records(cell.origin, ["toy/000"]) for cell in planned]
        exact = {
            (cell.row.retention, cell.row.frames): records[0].cost.n_tokens
            for cell, records in zip(planned, found)
        }
        for cell, records in zip(planned, found):
            place = (cell.row.retention, cell.row.frames)
            assert records[0].cost.n_tokens == exact[place], "rows of a group are not comparable"


class TestCalibration:
    ROWS = {
        "rows": {
            "tau": {
                "pipeline": "no-merge",
                "set": {
                    "budget.mode": "calibrated",
                    "budget.knob": "stages.inter_frame.keep.decide.tau",
                    "budget.knob_range": [0.0, 2.0],
                    "stages.intra_frame.n_anchors": 0.8,
                    "stages.inter_frame.coupler": "nearest",
                    "stages.inter_frame.keep.score": "expected-cost",
                    "stages.inter_frame.keep.decide": {"name": "threshold", "tau": 0.5},
                },
            }
        }
    }

    def test_the_knob_is_solved_on_other_samples_and_remembered(self, path: Path) -> None:
        task, first, again = ToyTask(), ToyModel(), ToyModel()
        rows = load_ablation(self.ROWS).expand([1 / 3])
        with Store(path) as store:
            planned = {cell.row.label: cell for cell in plan(rows, task, first, store)}
        with Store(path) as store:
            resumed = {cell.row.label: cell for cell in plan(rows, task, again, store)}
            run(list(resumed.values()), task, again, store, N_SAMPLES)
            ids = [task.sample_id(index) for index in range(N_SAMPLES)]
            found = store.records(resumed["tau"].origin, ids)
        assert first.n_encoded == len(task.calibration)
        assert again.n_encoded == N_SAMPLES
        assert planned["tau"].origin == resumed["tau"].origin
        assert planned["tau"].row.config == resumed["tau"].row.config
        budget = planned["tau"].row.config.budget
        assert (budget.mode, budget.knob) == ("as-released", None)
        kept = [record.cost.retention_ratio for record in found]
        assert sum(kept) / len(kept) == pytest.approx(1 / 3, abs=0.05)
        assert len(set(kept)) > 1  # held on average, not video by video

    def test_a_budget_out_of_reach_names_its_row(self) -> None:
        rows = load_ablation(self.ROWS).expand([0.999])
        with (
            Store(":memory:") as store,
            pytest.raises(BudgetError, match=r"row 'tau': .*out of reach.*nearest"),
        ):
            plan(rows, ToyTask(), ToyModel(), store)


Start = Callable[[Path, float], "subprocess.Popen[str]"]


class TestProcesses:
    @pytest.fixture
    def start(self) -> Iterator[Start]:
        """Start toy runs in processes of their own, and leave none behind."""
        running: list[subprocess.Popen[str]] = []

        def start(path: Path, seconds: float) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tests.evaluation_toys"]
            process = subprocess.Popen(
                [*command, str(path), str(N_SAMPLES), str(seconds), package_version()],
                cwd=ROOT,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            running.append(process)
            return process

        yield start
        for process in running:
            process.kill()
            process.wait()
            assert process.stderr is not None
            process.stderr.close()

    @pytest.mark.slow
    def test_a_killed_run_resumes_to_the_same_results(
        self, start: Start, path: Path, undisturbed: list[tuple[object, ...]]
    ) -> None:
        chance = random.Random(5)
        counts = [0]
        for _ in range(3):
            process = start(path, seconds=0.1)
            wanted = counts[-1] + chance.randint(4, 30)
            while process.poll() is None and self.n_stored(path) < wanted:
                time.sleep(chance.uniform(0.001, 0.05))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            counts.append(self.n_stored(path))
            assert set(contents(path)) <= set(undisturbed)
        assert 0 < counts[1] < counts[2] < counts[3] < len(undisturbed)
        with Store(path) as store:
            run_toy(store, N_SAMPLES)
        assert contents(path) == undisturbed

    @pytest.mark.slow
    def test_two_processes_on_one_store_neither_corrupt_nor_double(
        self, start: Start, path: Path, undisturbed: list[tuple[object, ...]]
    ) -> None:
        both = [start(path, seconds=0.02) for _ in range(2)]
        errors = [process.communicate()[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], errors
        assert contents(path) == undisturbed

    @staticmethod
    def n_stored(path: Path) -> int:
        if not path.exists():
            return 0
        database = sqlite3.connect(path, timeout=10)
        try:
            return database.execute("SELECT count(*) FROM results").fetchone()[0]
        except sqlite3.OperationalError:  # the first process has not made the tables yet
            return 0
        finally:
            database.close()


@pytest.fixture(scope="module")
def model() -> EmbeddedModel:
    return EmbeddedModel()


class TestEmbedded:
    def test_samples_are_fixed_and_apart_from_calibration(self) -> None:
        task = EmbeddedTask()
        sample, again = task.sample(3), EmbeddedTask().sample(3)
        assert sample.id == again.id == task.sample_id(3)
        assert torch.equal(sample.pixel_values, again.pixel_values)
        assert sample.questions == again.questions
        assert {question.kind for question in sample.questions} <= set(task.kinds)
        assert min(task.calibration) >= task.n_samples
        assert task.fingerprint == EmbeddedTask().fingerprint != EmbeddedTask(seed=1).fingerprint

    def test_option_scores_are_log_likelihoods_over_the_options(self, model: EmbeddedModel) -> None:
        sample = EmbeddedTask().sample(0)
        with Store(":memory:") as store:
            rows = load_ablation("aot-paper").expand()
            planned = plan(rows, EmbeddedTask(), model, store)
            run(planned, EmbeddedTask(), model, store, 1)
            for cell in planned:
                records = store.records(cell.origin, [sample.id])
                assert len(records) == len(sample.questions)
                for record, question in zip(records, sample.questions):
                    scores = record.answer.option_scores
                    assert set(scores) == set(question.options)
                    assert torch.tensor(list(scores.values())).exp().sum() == pytest.approx(1)
                    assert record.answer.answer == max(scores, key=scores.__getitem__)
                    assert record.answer.correct == (record.answer.answer == question.answer)

    def test_a_pipeline_inside_the_llm_counts_every_layer(self, model: EmbeddedModel) -> None:
        """FLOPs follow what entered each layer, question by question."""
        task = EmbeddedTask()
        with Store(":memory:") as store:
            planned = plan(load_ablation("fastv").expand(), task, model, store)
            run(planned, task, model, store, 1)
            found = {
                cell.row.label: store.records(cell.origin, [task.sample_id(0)]) for cell in planned
            }
        depth = model.shape.n_layers
        for record in found["fastv"]:
            counts = record.answer.layer_tokens
            assert len(counts) == depth
            assert counts[0] == record.cost.n_tokens
            assert counts[-1] < counts[0]
            assert record_flops(record, model.shape) == prefill_flops(counts, model.shape).total
        assert all(record.answer.layer_tokens == () for record in found["vanilla"])
        assert any(
            a.answer.option_scores != b.answer.option_scores
            for a, b in zip(found["fastv"], found["vanilla"])
        )

    def test_vanilla_answers_are_the_models_own(self, model: EmbeddedModel) -> None:
        """The runner's path gives the logits of an ordinary forward pass over the whole video."""
        sample = EmbeddedTask().sample(1)
        question = sample.questions[0]
        llava, tokenizer = model._adapter.model, model._tokenizer
        n_visual = llava.get_video_features(sample.pixel_values[None]).pooler_output[0].shape[0]
        words = tokenizer(question.prompt).input_ids
        ids = torch.tensor([[llava.config.video_token_id] * n_visual + words])
        with torch.no_grad():
            logits = llava(input_ids=ids, pixel_values_videos=sample.pixel_values[None]).logits
        options = [tokenizer(option).input_ids[0] for option in question.options]
        expected = logits[0, -1, options].float().log_softmax(-1)
        with Store(":memory:") as store:
            rows = [row for row in load_ablation("vanilla").expand() if row.label == "vanilla"]
            planned = plan(rows, EmbeddedTask(), model, store)
            run(planned, EmbeddedTask(), model, store, 2)
            scores = store.records(planned[0].origin, [sample.id])[0].answer.option_scores
        assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-4)


class TestCommand:
    def run(self, *arguments: object) -> int:
        """Run the command line and return its exit code."""
        try:
            main(["ablate", *map(str, arguments)])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def test_a_table_on_stdout_talk_on_stderr_and_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run("table8", "--limit", 2, "--out", tmp_path) == 0
        shown = capsys.readouterr()
        for label in ("vanilla", "random anchors", "AOT", "downsample", "(chance)"):
            assert label in shown.out
        assert "5 rows on 2 videos" in shown.err
        assert "10 results computed, 0 found" in shown.err
        names = {"results.sqlite", "table.md", "table.csv", "table.json"}
        assert {file.name for file in tmp_path.iterdir()} == names
        assert self.run("table8", "--limit", 2, "--out", tmp_path, "--json") == 0
        shown = capsys.readouterr()
        assert "0 results computed, 10 found" in shown.err
        data = json.loads(shown.out)
        assert data == json.loads((tmp_path / "table.json").read_text())
        assert {row["n_videos"] for row in data["rows"]} == {2}

    def test_fresh_computes_again(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for extra in ([], ["--fresh"]):
            assert self.run("vanilla", "--limit", 1, "--out", tmp_path, *extra) == 0
            assert "3 results computed, 0 found" in capsys.readouterr().err

    def test_a_dry_run_stores_nothing_and_shows_budgets(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["aot-paper", "--retention", "0.25,0.1", "--out", tmp_path / "run"]
        assert self.run(*arguments, "--dry-run", "--json", "--set", "seed=7") == 0
        lines = json.loads(capsys.readouterr().out)
        assert not (tmp_path / "run").exists()
        kept = {(line["row"], line["retention"]): line["n_tokens"] for line in lines}
        assert kept["vanilla", None] == 392
        assert kept["aot-paper", 0.25] == kept["random", 0.25] == 13 * 8
        assert kept["aot-paper", 0.1] == kept["downsample", 0.1] == 5 * 8
        assert {line["stored"] for line in lines} == {0}
        (changed,) = (
            line for line in lines if line["row"] == "aot-paper" and line["retention"] == 0.1
        )
        plain = {row.config_id for row in load_ablation("aot-paper").expand([0.1])}
        assert changed["config_id"] not in plain

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["componets"], 2, "no ablation or pipeline 'componets'; did you mean 'components'?"),
            (["table8", "--retention", "1.5"], 2, "--retention: expected ratios in (0, 1]"),
            (["table8", "--retention", "x"], 2, "such as 0.25,0.10, got 'x'"),
            (
                ["table8", "--set", "budget.modee=exact"],
                2,
                "unknown key 'modee'; did you mean 'mode'",
            ),
            (["absent.yaml"], 2, "absent.yaml: the file cannot be read"),
        ],
    )
    def test_mistakes_are_one_sentence(
        self,
        arguments: list[str],
        code: int,
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert self.run(*arguments) == code
        shown = capsys.readouterr()
        assert message in shown.err
        assert len(shown.err.strip().splitlines()) == 1
        assert shown.out == ""


def test_the_toy_ablation_has_the_rows_that_the_tests_count() -> None:
    assert len(toy_ablation().expand([1 / 3])) == N_ROWS

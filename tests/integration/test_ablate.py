"""Ablations end to end: encode once, stop anywhere, resume; and the command on the real model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tokenred
from tests.evaluation_toys import ToyModel, ToyTask, contents, run_toy, toy_ablation
from tokenred.accounting import prefill_flops
from tokenred.cli import main
from tokenred.errors import (
    BudgetError,
    CapabilityError,
    ConfigError,
    InputError,
    TokenredError,
)
from tokenred.evaluation import runner
from tokenred.evaluation.ablation import load_ablation
from tokenred.evaluation.manifest import make_run, read_run
from tokenred.evaluation.model import Answer, VideoLlm
from tokenred.evaluation.runner import PlannedRow, plan, run_ablation
from tokenred.evaluation.store import Record, Store
from tokenred.evaluation.summary import Summary, n_steps, record_flops, summarise
from tokenred.evaluation.task import frame_subset
from tokenred.evaluation.tasks.embedded import EmbeddedTask, EmbeddedTaskConfig
from tokenred.evaluation.worker import InProcess, Worker
from tokenred.plugins import registry
from tokenred.report.table import caption, to_markdown

N_SAMPLES = 12
N_ROWS = 7


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
    def test_a_sample_is_encoded_once_for_all_rows_that_see_the_same_frames(self) -> None:
        model = ToyModel()
        with Store(":memory:") as store:
            _, progress = run_toy(store, 5, model=model)
        assert model.n_encoded == 5 * 2  # whole, and the two frames
        assert (progress.cells_computed, progress.cells_reused) == (5 * N_ROWS, 0)

    def test_what_is_stored_is_neither_computed_nor_encoded_again(self, path: Path) -> None:
        with Store(path) as store:
            run_toy(store, 5)
        model = ToyModel()
        with Store(path) as store:
            _, progress = run_toy(store, 7, model=model)
        assert model.n_encoded == 2 * 2
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

    def test_vanilla_of_fewer_frames_is_not_that_of_all(self) -> None:
        rows = {"few": {"pipeline": "vanilla", "frames": 2}}
        with Store(":memory:") as store:
            planned, _ = run_toy(store, 1, ablation=load_ablation({"rows": rows}))
            found = {cell.row.label: store.records(cell.origin, ["toy/000"]) for cell in planned}
        assert found["vanilla"][0].cost.n_tokens == 4 * found["few"][0].cost.n_tokens
        assert found["few"][0].answer.kl_nats > 0

    def test_the_model_learns_the_toy(self) -> None:
        """Otherwise the tests above would compare noise."""
        with Store(":memory:") as store:
            planned, _ = run_toy(store, N_SAMPLES, ablation=load_ablation("vanilla"))
            ids = [f"toy/{index:03d}" for index in range(N_SAMPLES)]
            (vanilla,) = (c for c in planned if c.row.label == "vanilla")
            answers = [r.answer for r in store.records(vanilla.origin, ids) if r.question_no == 0]
        assert sum(answer.score for answer in answers) / len(answers) > 0.8

    def test_vanilla_is_loyal_to_itself_and_the_others_are_measured_against_it(self) -> None:
        with Store(":memory:") as store:
            planned, _ = run_toy(store, N_SAMPLES)
            ids = [f"toy/{index:03d}" for index in range(N_SAMPLES)]
            found = {
                cell.row.label: [record.answer for record in store.records(cell.origin, ids)]
                for cell in planned
            }
        vanilla = found["vanilla"]
        assert {(a.agrees, a.kl_nats) for a in vanilla} == {(True, 0.0)}
        assert max(a.hidden_distance for a in vanilla) < 1e-9
        for label, answers in found.items():
            assert [a.agrees for a in answers] == [
                a.answer == other.answer for a, other in zip(answers, vanilla, strict=True)
            ]
            if label != "vanilla":
                assert min(a.kl_nats for a in answers) > 0
                assert min(a.hidden_distance for a in answers) > 1e-6
        one, other = found["AOT"][0], vanilla[0]
        p, q = (torch.tensor(list(a.option_scores.values())) for a in (other, one))
        assert one.kl_nats == pytest.approx(float((p.exp() * (p - q)).sum()), abs=1e-6)

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
            def answers(self, encoded, reduced, sample, pipeline, answering, max_new_tokens):
                return [Answer(dict.fromkeys(q.options, float("nan"))) for q in sample.questions]

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

    def test_a_row_with_stored_results_has_passed_the_check(self) -> None:
        """So that the table of a finished run needs no model."""

        class Absent(ToyModel):
            def check(self, needs):
                raise CapabilityError("not here")

        with Store(":memory:") as store:
            run_toy(store, 1)
            _, progress = run_toy(store, 1, model=Absent())
            assert progress.cells_reused == N_ROWS
            with pytest.raises(CapabilityError, match="row 'random anchors': not here"):
                run_toy(store, 1, model=Absent(), ablation=load_ablation("table8"))

    def test_statistics_say_after_every_step(self) -> None:
        steps: list[int] = []
        with Store(":memory:") as store:
            planned, _ = run_toy(store, 1)
            manifest = make_run(toy_ablation(), planned, ToyTask(), ToyModel(), 1)
            summarise(manifest, store, lambda: steps.append(1))
        assert len(steps) == n_steps(manifest)

    @pytest.mark.parametrize(
        "name", [n for n, (_, owner) in registry().ablations().items() if owner == "tokenred"]
    )
    def test_shipped_ablations_run(self, name: str) -> None:
        task, model = ToyTask(), ToyModel()
        ablation = load_ablation(name)
        with Store(":memory:") as store:
            planned = plan(ablation.expand(), task, model, store)
            run_ablation(planned, task, store, 1, InProcess(Worker(task, model)))
            found = [store.records(cell.origin, ["toy/000"]) for cell in planned]
        exact = {
            (cell.row.retention, cell.row.frames): records[0].cost.n_tokens
            for cell, records in zip(planned, found)
        }
        for cell, records in zip(planned, found):
            place = (cell.row.retention, cell.row.frames)
            assert records[0].cost.n_tokens == exact[place], "rows of a group are not comparable"


class Picky(ToyModel):
    """Fails on one row and on one sample, as long as it is told to."""

    def __init__(self, row: str = "", sample: str = "") -> None:
        super().__init__()
        self.row, self.sample = row, sample

    def encode(self, sample, needs):
        if sample.id == self.sample:
            raise InputError("the video is corrupt")
        return super().encode(sample, needs)

    def reduce(self, encoded, pipeline, generator):
        if pipeline.config.name == self.row:
            raise CapabilityError("no such cue")
        return super().reduce(encoded, pipeline, generator)


def summary_of(store: Store, planned: list[PlannedRow], n: int, mixed: bool = False) -> Summary:
    return summarise(make_run(toy_ablation(), planned, ToyTask(), ToyModel(), n, mixed), store)


class TestKeepGoing:
    def test_without_it_the_first_fault_ends_the_run_and_is_named(self) -> None:
        with Store(":memory:") as store:
            with pytest.raises(InputError, match=r"^sample 'toy/001': the video is corrupt$"):
                run_toy(store, 3, model=Picky(sample="toy/001"))
            assert len(list(store.rows())) == N_ROWS * 2  # what came before is kept
            assert not any(
                store.failures(cell.origin, ["toy/001"])
                for cell in plan(toy_ablation().expand([1 / 3]), ToyTask(), ToyModel(), store)
            )

    def test_a_sample_that_fails_under_any_row_is_left_out_of_all(self) -> None:
        with Store(":memory:") as store:
            model = Picky(row="top-attention", sample="toy/002")
            planned, progress = run_toy(store, 2, model=model, keep_going=True)
            assert progress.cells_failed == 2
            assert progress.latest_failure == "row 'top attention', sample 'toy/001': no such cue"
            with pytest.raises(TokenredError, match=r"no sample was answered .*no such cue"):
                summary_of(store, planned, 2)
            # the row works again, the second sample still fails
            model.row = ""
            _, progress = run_toy(store, 4, model=model, keep_going=True)
            assert (progress.cells_reused, progress.cells_failed) == (2 * (N_ROWS - 1), N_ROWS)
            assert progress.cells_done == progress.n_cells
            summary = summary_of(store, planned, 4)
        assert {row.n_samples for row in summary.rows} == {summary.n_samples} == {3}
        assert {failure[1] for failure in summary.failures} == {"toy/002"}
        assert {failure[0] for failure in summary.failures} == {row.label for row in summary.rows}
        (line,) = (line for line in caption(summary) if "left out" in line)
        assert line.startswith("1 videos are left out of all rows")
        assert "row 'vanilla' on 'toy/002': sample 'toy/002': the video is corrupt" in line
        assert line in to_markdown(summary)

    def test_what_failed_is_tried_again_and_cleared(self) -> None:
        with Store(":memory:") as store:
            planned, _ = run_toy(store, 3, model=Picky(sample="toy/001"), keep_going=True)
            model = ToyModel()
            _, progress = run_toy(store, 3, model=model)
            assert (progress.cells_computed, progress.cells_failed) == (N_ROWS, 0)
            assert model.n_encoded == 2
            assert not any(store.failures(cell.origin, ["toy/001"]) for cell in planned)
            summary = summary_of(store, planned, 3)
        assert (summary.n_samples, summary.failures) == (3, ())
        assert not any("left out" in line for line in caption(summary))

    def test_a_calibrated_row_still_fails_before_any_work(self) -> None:
        """Going on is for samples; a row that cannot run at all is a mistake in the table."""

        class Blind(ToyModel):
            def check(self, needs):
                if needs:
                    raise CapabilityError("no cue")

        with Store(":memory:") as store, pytest.raises(CapabilityError, match="row 'AOT'"):
            run_toy(store, 1, model=Blind(), keep_going=True)


class TestAllowMixed:
    @pytest.fixture
    def version(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        def pretend(name: str) -> None:
            monkeypatch.setattr(runner, "code_version", lambda *configs: name)

        return pretend

    def test_another_version_computes_again_unless_told_otherwise(
        self, version: Callable[[str], None]
    ) -> None:
        with Store(":memory:") as store:
            version("old")
            run_toy(store, 2)
            version("new")
            _, progress = run_toy(store, 3, any_code=True)
            assert (progress.cells_computed, progress.cells_reused) == (N_ROWS, 2 * N_ROWS)
            planned, progress = run_toy(store, 1)
            assert (progress.cells_computed, progress.cells_reused) == (N_ROWS, 0)
            mixed = summary_of(store, planned, 3, mixed=True)
            with pytest.raises(TokenredError, match="lacks 1 of 3 videos"):
                summary_of(store, planned, 3)
        assert mixed.mixed
        assert {row.code_versions for row in mixed.rows} == {("new", "old")}
        assert {row.n_samples for row in mixed.rows} == {3}
        sentence = "Some results are of other versions of the code: old (--allow-mixed)."
        assert sentence in caption(mixed)
        assert sentence in to_markdown(mixed)

    def test_the_newest_answer_counts(self, version: Callable[[str], None]) -> None:
        """Where this version has answered too, its answers are taken."""
        with Store(":memory:") as store:
            for name in ("new", "old"):  # in this order, so that time alone would mislead
                version(name)
                run_toy(store, 1)
            version("new")
            planned, _ = run_toy(store, 1, any_code=True)
            summary = summary_of(store, planned, 1, mixed=True)
        assert {row.code_versions for row in summary.rows} == {("new",)}
        assert not summary.mixed

    def test_rows_that_are_all_of_an_older_version_are_said_too(
        self, version: Callable[[str], None]
    ) -> None:
        with Store(":memory:") as store:
            version("old")
            run_toy(store, 1)
            version("new")
            planned, _ = run_toy(store, 1, any_code=True)
            summary = summary_of(store, planned, 1, mixed=True)
        assert summary.mixed
        assert summary.other_versions == ("old",)
        assert any("--allow-mixed" in line for line in caption(summary))


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
            work = InProcess(Worker(task, again))
            run_ablation(list(resumed.values()), task, store, N_SAMPLES, work)
            ids = [task.sample_id(index) for index in range(N_SAMPLES)]
            found = store.records(resumed["tau"].origin, ids)
        assert first.n_encoded == len(task.calibration)
        assert again.n_encoded == N_SAMPLES
        assert planned["tau"].origin == resumed["tau"].origin
        assert planned["tau"].origin.config_id == planned["tau"].row.config_id
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


@pytest.fixture(scope="module")
def model() -> VideoLlm:
    return VideoLlm()


def answer_all(
    name: str, model: VideoLlm, n_samples: int, store: Store, **settings: object
) -> dict[str, list[Record]]:
    """Return what the embedded model answers under every row of an ablation."""
    task = EmbeddedTask(EmbeddedTaskConfig(name="embedded", **settings))
    planned = plan(load_ablation(name).expand(), task, model, store)
    run_ablation(planned, task, store, n_samples, InProcess(Worker(task, model)))
    ids = [task.sample_id(index) for index in range(n_samples)]
    return {cell.row.label: store.records(cell.origin, ids) for cell in planned}


class TestEmbedded:
    def test_samples_are_fixed_and_apart_from_calibration(self) -> None:
        task, other = EmbeddedTask(), EmbeddedTask(EmbeddedTaskConfig(name="embedded", seed=1))
        sample, again = task.sample(3), EmbeddedTask().sample(3)
        assert sample.id == again.id == task.sample_id(3)
        assert torch.equal(sample.frames, again.frames)
        assert sample.questions == again.questions
        assert {question.kind for question in sample.questions} <= set(task.kinds)
        assert min(task.calibration) >= task.n_samples
        assert task.fingerprint == EmbeddedTask().fingerprint != other.fingerprint

    def test_option_scores_are_log_likelihoods_over_the_vocabulary(self, model: VideoLlm) -> None:
        task = EmbeddedTask()
        sample = task.sample(0)
        with Store(":memory:") as store:
            found = answer_all("aot-paper", model, 1, store)
        for records in found.values():
            assert len(records) == len(sample.questions)
            for record, question in zip(records, sample.questions):
                scores = record.answer.option_scores
                assert set(scores) == set(question.options)
                assert 0.5 < torch.tensor(list(scores.values())).exp().sum() <= 1 + 1e-5
                assert record.answer.answer == max(scores, key=scores.__getitem__)
                assert record.answer.score == float(record.answer.answer in question.answers)

    def test_loyalty_needs_no_labels_and_vanilla_is_its_measure(self, model: VideoLlm) -> None:
        with Store(":memory:") as store:
            found = answer_all("aot-paper", model, 2, store)
        for record in found["vanilla"]:
            answer = record.answer
            assert (answer.agrees, answer.kl_nats) == (True, 0.0)
            assert answer.hidden_distance == pytest.approx(0, abs=1e-9)
        for record, whole in zip(found["aot-paper"], found["vanilla"], strict=True):
            answer = record.answer
            assert answer.agrees == (answer.answer == whole.answer.answer)
            assert answer.kl_nats > 0
            assert 0 < answer.hidden_distance < 2
        # the KL over the whole vocabulary is no smaller than that over the options and the rest
        one, other = (found[label][0].answer.option_scores for label in ("aot-paper", "vanilla"))
        p, q = (
            torch.tensor(list(each.values()), dtype=torch.double).exp() for each in (other, one)
        )
        p, q = (torch.cat((each, (1 - each.sum()).clamp_min(1e-12)[None])) for each in (p, q))
        coarse = float((p * (p / q).log()).sum())
        assert found["aot-paper"][0].answer.kl_nats >= coarse - 1e-4

    def test_a_model_of_one_word_writes_its_likeliest_option(self, model: VideoLlm) -> None:
        with Store(":memory:") as store:
            written = answer_all("aot-paper", model, 2, store, answering="generation")
            likely = answer_all("aot-paper", model, 2, store)
        for label, records in written.items():
            for record, other in zip(records, likely[label], strict=True):
                assert record.answer.option_scores == {}
                assert record.answer.answer == other.answer.answer
                assert record.answer.kl_nats == pytest.approx(other.answer.kl_nats, abs=1e-4)
                assert record.answer.hidden_distance == pytest.approx(
                    other.answer.hidden_distance, abs=1e-4
                )

    @pytest.mark.parametrize("answering", ["likelihood", "generation"])
    def test_a_pipeline_inside_the_llm_counts_every_layer(
        self, model: VideoLlm, answering: str
    ) -> None:
        """FLOPs follow what entered each layer, question by question."""
        with Store(":memory:") as store:
            found = answer_all("fastv", model, 1, store, answering=answering)
        depth = model.shape.n_layers
        for record in found["fastv"]:
            counts = record.answer.layer_tokens
            assert len(counts) == depth
            assert counts[0] == record.cost.n_tokens
            assert counts[-1] < counts[0]
            assert record_flops(record, model.shape) == prefill_flops(counts, model.shape).total
        assert all(record.answer.layer_tokens == () for record in found["vanilla"])
        assert any(record.answer.kl_nats > 0 for record in found["fastv"])

    def test_vanilla_answers_are_the_models_own(self, model: VideoLlm) -> None:
        """The runner's path gives the logits of an ordinary forward pass over the whole video."""
        task = EmbeddedTask()
        sample = task.sample(1)
        question = sample.questions[0]
        loaded = model._loaded
        inputs = loaded.inputs(question.prompt, video=sample.frames, frame_times=sample.frame_times)
        with torch.no_grad():
            logits = loaded.model(**inputs).logits[0, -1].float().log_softmax(-1)
        options = [loaded.tokenizer(option).input_ids[0] for option in question.options]
        with Store(":memory:") as store:
            scores = answer_all("vanilla", model, 2, store)["vanilla"][
                len(task.sample(0).questions)
            ].answer.option_scores
        assert list(scores.values()) == pytest.approx(logits[options].tolist(), abs=1e-4)


class TestCommand:
    def run(self, *arguments: object) -> int:
        """Run the command line and return its exit code."""
        try:
            main(["ablate", *map(str, arguments)])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    def test_a_table_on_stdout_talk_on_stderr_and_files(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        assert self.run("table8", "--limit", 2, "--out", tmp_path) == 0
        shown = capsys.readouterr()
        for label in ("vanilla", "random anchors", "AOT", "downsample", "(chance)"):
            assert label in shown.out
        assert "5 rows on 2 samples" in shown.err
        assert "10 results computed, 0 found" in shown.err
        assert "next: tokenred report" in shown.err
        names = {"results.sqlite", "run.json", "table.md", "table.csv", "table.json"}
        assert {file.name for file in tmp_path.iterdir()} == names
        monkeypatch.setattr(tokenred, "load_model", None)  # a finished run needs none
        assert self.run("table8", "--limit", 2, "--out", tmp_path, "--json") == 0
        shown = capsys.readouterr()
        assert "statistics" in shown.err
        assert "0 results computed, 10 found" in shown.err
        data = json.loads(shown.out)
        assert data == json.loads((tmp_path / "table.json").read_text())
        assert [row.label for row in read_run(tmp_path).rows] == [
            row["label"] for row in data["rows"]
        ]
        assert {row["n_samples"] for row in data["rows"]} == {2}

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
            (["absent.yaml"], 2, "absent.yaml does not exist"),
            (["vanilla", "--task", "embeded"], 2, "--task: no task or file 'embeded'; tasks: "),
            (
                ["vanilla", "--executor", "slurm"],
                2,
                "--executor: unknown executor 'slurm'; valid: local, ray",
            ),
            (["vanilla", "--model", "no/where", "--offline"], 1, "no/where"),
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

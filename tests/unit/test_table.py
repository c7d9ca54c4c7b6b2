"""Summaries against figures worked out by hand, and the four forms of a table."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.evaluation_toys import ToyModel, ToyTask
from tokenred.accounting import prefill_flops
from tokenred.errors import TokenredError
from tokenred.evaluation.ablation import Ablation, load_ablation
from tokenred.evaluation.manifest import make_run
from tokenred.evaluation.runner import PlannedRow, plan
from tokenred.evaluation.store import MEASURED, Cost, Failure, Store, StoredAnswer
from tokenred.evaluation.summary import RowSummary, Summary, summarise
from tokenred.report.columns import columns
from tokenred.report.table import to_csv, to_json, to_markdown, to_rich, write_tables

N_VIDEOS = 8
WRONG = {
    "vanilla": set(),
    "AOT": {(0, 0)},
    "no [merging] | none": {(video, 0) for video in range(5)} | {(5, 1), (6, 1)},
    "random": {(video, 0) for video in range(N_VIDEOS)},
    "downsample": {(0, 1)},
}
TOKENS = {"vanilla": 72, "downsample": 26}
ABLATION = {
    "title": "A table",
    "question": "What is it worth?",
    "rows": {"AOT": {}, "no [merging] | none": {"pipeline": "no-merge"}},
    "published": {"source": "a paper", "scores": {"vanilla": 58.4, "AOT": {0.3: 57, 0.2: 56}}},
}


def fill(store: Store, planned: list[PlannedRow], n_videos: int = N_VIDEOS) -> None:
    """Store answers to two questions a video, wrong where ``WRONG`` says so."""
    for cell in planned:
        n_tokens = TOKENS.get(cell.row.label, 24)
        for video in range(n_videos):
            answers = [
                StoredAnswer(
                    kind,
                    "x",
                    score := float((video, number) not in WRONG[cell.row.label]),
                    {"x": 0.0},
                    agrees=bool(score),
                    kl_nats=0.1 * video,
                    hidden_distance=0.01,
                )
                for number, kind in enumerate(("colour", "red"))
            ]
            cost = Cost(
                (0, 1), n_tokens, 1, n_tokens / 72, 50, 0,
                reducer_ms=10.0 * video, answer_ms=7.0, encoder_ms=5.0, residual=1e-3 * video,
            )  # fmt: skip
            store.write(cell.origin, ToyTask().sample_id(video), answers, cost)


@pytest.fixture(scope="module")
def ablation() -> Ablation:
    return load_ablation(ABLATION)


def make_summary(ablation: Ablation, retentions: list[float]) -> Summary:
    task, model = ToyTask(), ToyModel()
    with Store(":memory:") as store:
        planned = plan(ablation.expand(retentions), task, model, store)
        fill(store, planned)
        return summarise(make_run(ablation, planned, task, model, N_VIDEOS), store)


@pytest.fixture(scope="module")
def summary(ablation: Ablation) -> Summary:
    return make_summary(ablation, [0.3])


@pytest.fixture(scope="module")
def rows(summary: Summary) -> dict[str, RowSummary]:
    return {row.label: row for row in summary.rows}


def test_accuracies_and_differences_by_hand(rows: dict[str, RowSummary]) -> None:
    assert rows["vanilla"].score.value == 1
    assert rows["AOT"].score.value == 15 / 16
    merging = rows["no [merging] | none"]
    assert merging.score.value == 9 / 16
    assert merging.difference is not None
    assert merging.difference.estimate.value == pytest.approx(-6 / 16)
    assert (merging.difference.n_better, merging.difference.n_worse) == (0, 6)
    assert merging.difference.p_value == pytest.approx(2 / 2**6)
    assert rows["random"].p_adjusted == pytest.approx(4 * 2 / 2**7)  # the smallest of four
    assert merging.p_adjusted == pytest.approx(3 * 2 / 2**6)
    downsample = rows["downsample"].difference
    assert downsample is not None
    assert (downsample.estimate.value, downsample.n_better, downsample.n_worse) == (0, 1, 1)


def test_the_reference_is_compared_with_nothing(rows: dict[str, RowSummary]) -> None:
    assert rows["AOT"].is_reference
    assert rows["AOT"].difference is None
    assert [row.label for row in rows.values() if row.is_reference] == ["AOT"]


def test_costs_are_means_and_medians_over_videos(rows: dict[str, RowSummary]) -> None:
    row, shape = rows["AOT"], ToyModel.shape
    assert (row.n_tokens, row.newline_tokens, row.retention_ratio) == (24, 1, pytest.approx(1 / 3))
    assert row.measured["reducer_ms"] == 35  # 0, 10, ..., 70
    assert row.measured["residual"] == 1e-3 * (N_VIDEOS - 1)
    assert (row.measured["answer_ms"], row.measured["encoder_ms"]) == (7, 5)
    reduced, full = (prefill_flops(n_tokens, shape).total for n_tokens in (24, 72))
    assert row.prefill_flops == reduced
    assert row.flops_share == pytest.approx(reduced / full)
    assert rows["vanilla"].flops_share == 1


def test_loyalty_is_a_mean_over_questions(rows: dict[str, RowSummary], summary: Summary) -> None:
    assert rows["AOT"].agreement is not None
    assert rows["AOT"].agreement.value == 15 / 16
    assert rows["AOT"].measured["kl_nats"] == pytest.approx(0.35)  # 0, 0.1, ..., 0.7
    assert rows["AOT"].measured["hidden_distance"] == pytest.approx(0.01)
    page = to_markdown(summary)
    assert "| agreement % | KL |" in page
    assert "| 93.8 | 0.350 |" in page
    assert "Agreement is the share of answers that are those of the unreduced model" in page


def test_kinds_are_apart(rows: dict[str, RowSummary]) -> None:
    kinds = rows["random"].kinds
    assert (kinds["colour"].value, kinds["red"].value) == (0, 1)


def test_unequal_budgets_are_marked(summary: Summary, rows: dict[str, RowSummary]) -> None:
    marked = {label for label, row in rows.items() if row.unequal_budget}
    assert marked == {"vanilla", "downsample"}
    text = to_markdown(summary)
    assert "| downsample † |" in text
    assert "| AOT †" not in text
    assert "† keeps a different number of tokens than 'AOT'" in text


def test_published_figures_are_labelled_as_somebody_elses(rows, summary) -> None:
    assert {label: row.published for label, row in rows.items()} == {
        "vanilla": 58.4,
        "AOT": 57,
        "no [merging] | none": None,
        "random": None,
        "downsample": None,
    }
    assert "'printed' is copied from a paper" in to_markdown(summary)


def test_groups_are_compared_inside(ablation: Ablation) -> None:
    rows = make_summary(ablation, [0.3, 0.2]).rows
    assert [row.retention for row in rows if row.is_reference] == [0.3, 0.2]
    assert [row.published for row in rows if row.is_reference] == [57, 56]
    (vanilla,) = (row for row in rows if row.label == "vanilla")
    assert vanilla.difference is None  # there are two references
    assert vanilla.unequal_budget


def test_missing_results_are_named(ablation: Ablation) -> None:
    task, model = ToyTask(), ToyModel()
    with Store(":memory:") as store:
        planned = plan(ablation.expand([0.3]), task, model, store)
        fill(store, planned[:1])
        fill(store, planned[1:], n_videos=N_VIDEOS - 1)
        with pytest.raises(TokenredError, match=r"row 'AOT' lacks 1 of 8 .*; run again"):
            summarise(make_run(ablation, planned, task, model, N_VIDEOS), store)


def test_a_video_on_which_a_row_failed_counts_in_no_row(ablation: Ablation) -> None:
    task, model, last = ToyTask(), ToyModel(), N_VIDEOS - 1
    with Store(":memory:") as store:
        planned = plan(ablation.expand([0.3]), task, model, store)
        fill(store, planned[1:])
        fill(store, planned[:1], n_videos=last)
        store.write_failure(Failure(planned[0].origin, task.sample_id(last), "no such cue"))
        summary = summarise(make_run(ablation, planned, task, model, N_VIDEOS), store)
    assert {(row.n_samples, row.n_questions) for row in summary.rows} == {(last, 2 * last)}
    assert summary.failures == ((planned[0].row.label, task.sample_id(last), "no such cue"),)


def shown(summary: Summary, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(to_rich(summary, width))
    return console.export_text()


def test_the_terminal_shows_what_brackets_would_hide(summary: Summary) -> None:
    text = shown(summary, 160)
    assert text.count("no [merging] | none") == 2  # among the rows, and by kind
    (merging,) = (row for row in summary.rows if row.label == "no [merging] | none")
    assert f"56.2 [{100 * merging.score.low:.1f}, {100 * merging.score.high:.1f}]" in text
    assert "(chance)" in text
    assert "33.3" in text
    assert "A table" in text
    assert "What is it worth?" in text
    assert f"toy model (toy-weights-1) on toy (toy-1): {N_VIDEOS} videos, 16 questions" in text


@pytest.mark.parametrize(("p", "text"), [(0.0004, "<0.001"), (0.0016, "0.002"), (1.0, "1.000")])
def test_no_p_value_is_shown_as_zero(summary: Summary, p: float, text: str) -> None:
    rows = tuple(replace(row, p_adjusted=p) for row in summary.rows)
    assert text in shown(replace(summary, rows=rows), 160)
    assert text in to_markdown(replace(summary, rows=rows))


def test_a_narrow_terminal_gets_every_figure_in_two_tables(summary: Summary) -> None:
    wide, narrow = shown(summary, 160), shown(summary, 80)
    assert "Cost" not in wide
    assert "Cost" in narrow
    assert "…" not in narrow
    (merging,) = (row for row in summary.rows if row.label == "no [merging] | none")
    assert merging.difference is not None
    ends = merging.difference.estimate
    difference = f"-37.5 [{100 * ends.low:+.1f}, {100 * ends.high:+.1f}]"
    for figure in (difference, "24.0 (33.3 %)", "58.4", "vanilla †"):
        assert figure in wide
        assert figure in narrow


def test_both_parts_name_the_budget_when_there_are_several(ablation: Ablation) -> None:
    scores, costs = shown(make_summary(ablation, [0.3, 0.2]), 84).split("Cost")
    for part in (scores, costs):
        head = next(line for line in part.splitlines() if line.startswith("  row"))
        assert head.split()[1] == "budget"


def test_bold_means_that_the_interval_excludes_zero(summary: Summary) -> None:
    lines = to_markdown(summary).replace("\\|", "").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("| :--"))
    shown = [line.split("|")[3].strip() for line in lines[start + 1 :][: len(summary.rows)]]
    bold = [text.startswith("**") for text in shown]
    excludes = [
        row.difference is not None and row.difference.estimate.excludes_zero for row in summary.rows
    ]
    assert bold == excludes
    assert set(bold) == {True, False}


def test_the_caption_says_what_is_adjusted(summary: Summary) -> None:
    text = to_markdown(summary)
    assert "p alone is adjusted: intervals, and bold with them, are of one row at a time" in text


def test_the_caption_says_where_nothing_could_be_found(summary: Summary) -> None:
    compared = [row for row in summary.rows if row.difference is not None]
    hopeless = replace(compared[0].difference, minimum_detectable=None)
    known = replace(compared[0].difference, minimum_detectable=0.5)
    for difference, said in ((hopeless, True), (known, False)):
        rows = tuple(
            replace(row, difference=difference) if row in compared else row for row in summary.rows
        )
        text = " ".join(shown(replace(summary, rows=rows), 160).split())
        assert ("would show no difference, however large" in text) == said


def test_markdown_tables_are_rectangular(summary: Summary) -> None:
    text = to_markdown(summary).replace("\\|", "")
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_csv_and_json_hold_the_plain_figures(summary: Summary) -> None:
    table = {line["label"]: line for line in csv.DictReader(io.StringIO(to_csv(summary)))}
    data = {row["label"]: row for row in json.loads(to_json(summary))["rows"]}
    for row in summary.rows:
        assert float(table[row.label]["score"]) == row.score.value
        assert float(table[row.label]["score_red"]) == row.kinds["red"].value
        assert float(table[row.label]["agreement"]) == row.agreement.value
        assert float(table[row.label]["kl_nats"]) == row.measured["kl_nats"]
        assert float(table[row.label]["n_tokens"]) == row.n_tokens
        assert data[row.label]["score"]["low"] == row.score.low
        assert data[row.label]["config_id"] == row.config_id
    assert table["AOT"]["difference"] == ""
    assert float(table["random"]["p_adjusted"]) == data["random"]["p_adjusted"]


def test_the_first_row_may_lack_what_others_have(summary: Summary) -> None:
    behind = replace(summary, rows=summary.rows[1:])  # the reference first
    lines = list(csv.DictReader(io.StringIO(to_csv(behind))))
    assert behind.rows[0].is_reference
    assert lines[0]["difference_low"] == ""
    assert float(lines[1]["difference_low"]) == behind.rows[1].difference.estimate.low


def test_a_measured_column_is_one_field(summary: Summary) -> None:
    """Whatever the store measures stands in the files, and under its heading in the long tables."""
    lines = list(csv.DictReader(io.StringIO(to_csv(summary))))
    long = {column.name: column for column in columns(summary, "page")}
    for name, measured in MEASURED.items():
        for line, row in zip(lines, summary.rows):
            if row.measured[name] is None:
                assert (line[name], long[measured.heading].cell(row).text) == ("", "-")
                continue
            assert float(line[name]) == row.measured[name]
            cell = long[measured.heading].cell(row)
            assert (cell.value, cell.text) == (
                row.measured[name],
                format(row.measured[name], measured.digits),
            )
        assert (measured.heading in to_markdown(summary)) == measured.brief


def test_tables_are_written_whole_and_replace_old_ones(summary: Summary, tmp_path: Path) -> None:
    (tmp_path / "table.md").write_text("old")
    write_tables(summary, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "table.csv", "table.json", "table.md",
    ]  # fmt: skip
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == to_markdown(summary)
    with pytest.raises(TokenredError, match=r"table\.md cannot be written: there is no folder"):
        write_tables(summary, tmp_path / "absent")


def test_the_best_of_a_sweep_is_chosen_and_measured_on_different_videos() -> None:
    sweep = {
        "stage": "frame",
        "selectors": ["random", "uniform-grid"],
        "couplers": ["none"],
        "aggregators": ["keep-only"],
    }
    swept = load_ablation(
        {"base": "top-attention", "sweep": sweep, "reference": "uniform-grid", "name": "swept"}
    )
    task, model = ToyTask(), ToyModel()
    # uniform-grid is right on the videos that choose (0, 2, ...), wrong on those that measure.
    wrong = {"uniform-grid": {(v, n) for v in range(1, 12, 2) for n in (0, 1)}, "random": {(0, 0)}}
    with Store(":memory:") as store:
        planned = plan(swept.expand([0.3]), task, model, store)
        for cell in planned:
            for video in range(12):
                bad = wrong.get(cell.row.label, {(0, 0), (2, 0)})
                answers = [
                    StoredAnswer(kind, "x", float((video, number) not in bad), {"x": 0.0})
                    for number, kind in enumerate(("colour", "red"))
                ]
                cost = Cost((0, 1), 24, 1, 24 / 72, 50, 0, reducer_ms=1.0)
                store.write(cell.origin, task.sample_id(video), answers, cost)
        summary = summarise(make_run(swept, planned, task, model, 12), store)
    (best,) = summary.best
    assert (best.label, best.n_choosing, best.n_measuring) == ("uniform-grid", 6, 6)
    assert best.score.value == 0.0
    assert best.difference is None  # it is the reference
    assert best.n_close == 0  # the others are right on every video that measures
    assert "Best at 30 %: 'uniform-grid', chosen among" in to_markdown(summary)


def scored(ablation: Ablation, scores: list[list[float | None]]) -> Summary:
    """Return a summary in which every row scores the same: (videos, questions)."""
    task, model = ToyTask(), ToyModel()
    with Store(":memory:") as store:
        planned = plan(ablation.expand([0.3]), task, model, store)
        for cell in planned:
            agrees = cell.row.label != "random"
            for video, row in enumerate(scores):
                answers = [
                    StoredAnswer(kind, "x", score, {}, agrees=agrees)
                    for kind, score in zip(("colour", "red"), row, strict=True)
                ]
                cost = Cost((0, 1), 24, 1, 24 / 72, 50, 0, reducer_ms=1.0)
                store.write(cell.origin, task.sample_id(video), answers, cost)
        return summarise(make_run(ablation, planned, task, model, len(scores)), store)


def test_scores_between_right_and_wrong_are_no_accuracy(ablation: Ablation) -> None:
    summary = scored(ablation, [[0.25, 1.0], [0.5, 0.0]])
    assert summary.measure == "score"
    assert summary.rows[0].score.value == pytest.approx(1.75 / 4)
    page = to_markdown(summary)
    assert "| score % |" in page
    assert "Score is the mean over questions, from 0 to 100" in page
    assert "Score by kind of question, %" in page


def test_without_labels_agreement_takes_the_place_of_the_score(ablation: Ablation) -> None:
    summary = scored(ablation, [[None, None], [None, None]])
    rows = {row.label: row for row in summary.rows}
    assert summary.measure == "agreement"
    assert (rows["AOT"].score.value, rows["random"].score.value) == (1, 0)
    assert rows["random"].difference.estimate.value == -1
    page = to_markdown(summary)
    assert page.count("agreement %") == 1
    assert "No question has a label" in page


def test_where_some_questions_have_labels_those_count(ablation: Ablation) -> None:
    summary = scored(ablation, [[1.0, None], [0.0, None], [None, 1.0]])
    assert (summary.measure, summary.n_samples, summary.n_questions) == ("accuracy", 3, 3)
    assert summary.rows[0].score.value == pytest.approx(2 / 3)
    assert set(summary.rows[0].kinds) == {"colour", "red"}


def test_one_video_has_no_standard_error_and_a_table_all_the_same(ablation: Ablation) -> None:
    summary = scored(ablation, [[1.0, 0.0]])
    assert summary.rows[0].score.standard_error is None
    (line,) = (
        line for line in csv.DictReader(io.StringIO(to_csv(summary))) if line["label"] == "AOT"
    )
    assert line["score_standard_error"] == ""
    assert "| AOT" in to_markdown(summary).replace("**", "")

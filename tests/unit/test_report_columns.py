"""Which rows stand beside each other, and what the cells of the report say."""

from dataclasses import replace

import pytest

from tests.report_cases import make_run, make_summary
from tokenred.evaluation.summary import Summary
from tokenred.report.columns import OTHER_BUDGETS, columns, full_label, groups
from tokenred.report.heat import heat


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    run = make_run(labels=("AOT", "cosine merging", "odd"))
    return make_summary(tmp_path_factory.mktemp("run"), run)


@pytest.fixture(scope="module")
def two_budgets(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    run = make_run(labels=("AOT", "odd"), retentions=(0.25, 0.1), n_samples=2)
    return make_summary(tmp_path_factory.mktemp("two"), run)


def names(summary: Summary) -> list[str]:
    return [column.name for column in columns(summary)]


def test_rows_of_unequal_budget_are_in_a_group_that_is_not_ranked(summary: Summary):
    ranked, other = groups(summary)
    assert (ranked.name, ranked.ranked) == ("10 % of the tokens", True)
    assert [row.label for row in ranked.rows] == ["AOT", "cosine merging", "random"]
    assert (other.name, other.ranked) == (OTHER_BUDGETS, False)
    assert {row.label for row in other.rows} == {"vanilla", "odd", "downsample"}


def test_every_row_is_in_one_group(two_budgets: Summary):
    found = groups(two_budgets)
    assert [group.name for group in found[:2]] == ["25 % of the tokens", "10 % of the tokens"]
    rows = [row for group in found for row in group.rows]
    assert len(rows) == len(two_budgets.rows)
    assert set(map(id, rows)) == set(map(id, two_budgets.rows))


def test_a_row_with_a_budget_of_its_own_that_is_equal_stands_with_the_nearest(two_budgets: Summary):
    own = [
        replace(row, retention=None, retention_ratio=0.11, unequal_budget=False)
        if row.label == "vanilla"
        else row
        for row in two_budgets.rows
    ]
    _, small, *_ = groups(replace(two_budgets, rows=tuple(own)))
    assert "vanilla" in [row.label for row in small.rows]


def test_labels_name_the_budget_where_there_are_several(summary: Summary, two_budgets: Summary):
    assert full_label(summary.rows[1], summary) == "AOT"
    assert full_label(two_budgets.rows[0], two_budgets) == "vanilla"
    assert full_label(two_budgets.rows[1], two_budgets) == "AOT, 25 %"


def test_columns_that_no_row_can_fill_are_left_out(summary: Summary):
    loyal = {"agreement %", "KL", "hidden"}
    assert loyal <= set(names(summary))
    assert "printed" not in names(summary)
    without = tuple(
        replace(row, agreement=None, measured=dict.fromkeys(row.measured)) for row in summary.rows
    )
    assert not (loyal | {"answer ms"}) & set(names(replace(summary, rows=without)))
    printed = tuple(replace(row, published=57.0) for row in summary.rows)
    assert "printed" in names(replace(summary, rows=printed))


def test_cells_hold_the_figures_and_what_they_sort_by(summary: Summary):
    by_name = {column.name: column for column in columns(summary)}
    row = next(row for row in summary.rows if row.label == "random")
    assert row.difference is not None
    score, difference = by_name["accuracy %"].cell(row), by_name["vs AOT"].cell(row)
    assert score.text == f"{100 * row.score.value:.1f}"
    assert score.value == row.score.value
    assert difference.text == f"{100 * row.difference.estimate.value:+.1f}"
    assert difference.bold == row.difference.estimate.excludes_zero
    assert by_name["tokens"].cell(row).value == row.n_tokens
    assert by_name["detectable"].cell(row).value == row.difference.minimum_detectable
    reference = summary.rows[1]
    assert by_name["vs AOT"].cell(reference).text == "reference"
    assert by_name["p"].cell(reference).value is None


def test_agreement_stands_once_where_it_is_the_score(tmp_path):
    unlabelled = make_summary(tmp_path, make_run(n_samples=2, labelled=False), labelled=False)
    assert names(unlabelled).count("agreement %") == 1
    assert set(heat(unlabelled).chance) == {None}


def test_heat_runs_from_chance_to_the_best_of_a_kind(summary: Summary):
    found = heat(summary)
    assert dict(zip(found.kinds, found.chance)) == summary.chance
    rows = [row for _, rows in found.groups for row in rows]
    assert len(rows) == len(summary.rows)
    for position, kind in enumerate(found.kinds):
        shades = [row.cells[position].shade for row in rows]
        assert max(shades) == 1
        assert all(0 <= shade <= 1 for shade in shades)
        best = max(row.kinds[kind].value for row in summary.rows)
        assert {row.cells[position].text for row in rows} >= {f"{100 * best:.1f}"}

"""Plots: what is on the front, where labels go, and what the SVG holds."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import combinations

import pytest

from tests.report_cases import NASTY, make_run, make_summary
from tokenred.evaluation.summary import Summary
from tokenred.report.plots import AXES, Plot, forest, front, pareto, plots
from tokenred.report.plots.canvas import elide
from tokenred.report.plots.labels import Box, Label, place

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return make_summary(tmp_path_factory.mktemp("run"))


def svg_of(plot: Plot | None) -> str:
    assert plot is not None
    return plot.svg()


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ET.fromstring(svg).iter(f"{SVG}text")]


def titles(svg: str) -> list[str]:
    return [title.text or "" for title in ET.fromstring(svg).iter(f"{SVG}title")]


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ([(1, 1), (2, 2), (3, 1.5)], [0, 1]),
        ([(2, 1), (1, 1)], [1]),
        ([(1, 1), (1, 2)], [1]),
        ([(3, 3), (2, 2), (1, 1)], [2, 1, 0]),
        ([(5, 5)], [0]),
    ],
)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]], best: list[int]):
    assert front([(float(x), float(y)) for x, y in points]) == best


def overlap(one: Box, other: Box) -> bool:
    across = min(one.right, other.right) > max(one.left, other.left)
    return across and min(one.top, other.top) > max(one.bottom, other.bottom)


def test_labels_never_overlap_and_stay_inside():
    frame = Box(0.0, 0.0, 400.0, 300.0)
    points = [(60.0 + 3 * (i % 4), 100.0 + 5 * i) for i in range(16)]
    marks = [Box(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    placed = place([Label(point, 80.0, 11.0) for point in points], frame, marks)
    boxes = [box for box in placed if box is not None]
    assert len(boxes) == 16
    assert all(box.left >= 0 and box.right <= 400 for box in boxes)
    assert all(box.bottom >= 0 and box.top <= 300 for box in boxes)
    assert not any(overlap(*pair) for pair in combinations(boxes, 2))
    assert not any(overlap(box, mark) for box in boxes for mark in marks)


def test_a_label_without_room_is_left_out_and_a_soft_box_is_avoided():
    tight = Box(0.0, 0.0, 50.0, 20.0)
    assert place([Label((25.0, 10.0), 80.0, 11.0)], tight, []) == [None]
    frame = Box(0.0, 0.0, 400.0, 300.0)
    (free,) = place([Label((200.0, 150.0), 60.0, 10.0)], frame, [])
    (shy,) = place(
        [Label((200.0, 150.0), 60.0, 10.0)], frame, [], [Box(200.0, 149.0, 300.0, 151.0)]
    )
    assert free is not None
    assert shy is not None
    assert overlap(free, Box(200.0, 149.0, 300.0, 151.0))
    assert not overlap(shy, Box(200.0, 149.0, 300.0, 151.0))


@pytest.mark.parametrize("key", AXES)
def test_every_row_has_a_point_that_says_its_figures(summary: Summary, key: str):
    svg = svg_of(pareto(summary, key))
    found = titles(svg)
    assert len(found) == len(summary.rows)
    for row, title in zip(summary.rows, found):
        assert title.startswith(f"{row.label}: {100 * row.score.value:.1f} % [")


def test_the_plot_names_its_measure_and_all_rows_of_a_small_table(summary: Summary):
    svg = svg_of(pareto(summary, "tokens"))
    assert "accuracy %" in texts(svg)
    assert {"vanilla", "AOT", "random", "downsample", "cosine merging"} <= set(texts(svg))


def test_a_large_table_labels_the_front_and_the_controls_only(tmp_path):
    run = make_run(labels=["AOT", *(f"row {n}" for n in range(12))], n_samples=2)
    large = make_summary(tmp_path, run)
    svg = svg_of(pareto(large, "tokens"))
    rows = large.rows
    best = {rows[i].label for i in front([(row.n_tokens, row.score.value) for row in rows])}
    named = {row.label for row in rows} & set(texts(svg))
    assert {"AOT", "vanilla", "random", "downsample"} <= named
    assert named <= best | {"AOT", "vanilla", "random", "downsample"}
    assert len(titles(svg)) == len(rows)  # the others say who they are


def test_time_that_was_not_measured_has_no_plot(summary: Summary):
    rows = tuple(replace(row, measured={**row.measured, "answer_ms": None}) for row in summary.rows)
    assert pareto(replace(summary, rows=rows), "latency") is None


def test_the_forest_shows_every_comparison_with_its_figures(summary: Summary):
    svg = svg_of(forest(summary))
    compared = [row for row in summary.rows if row.difference is not None]
    shown = texts(svg)
    for row in compared:
        assert row.difference is not None
        found = row.difference.estimate
        figures = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
        assert any(text.endswith(figures) for text in shown)
    assert len(titles(svg)) == len(compared)
    assert "Other budgets: not ranked" in shown
    assert "vanilla †" in shown
    assert "AOT" not in shown  # the reference is not compared with itself


def test_a_table_without_comparisons_has_no_forest(summary: Summary):
    rows = tuple(replace(row, difference=None) for row in summary.rows)
    assert forest(replace(summary, rows=rows)) is None


def test_plots_are_the_same_every_time_and_their_ids_are_their_own(summary: Summary):
    first, second = (svg_of(pareto(summary, "tokens")) for _ in range(2))
    assert first == second
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, svg_of(forest(summary)))]
    assert ids[0]
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', first))
    assert used
    assert used <= ids[0]


def test_colours_and_fonts_are_those_of_the_page(summary: Summary):
    svg = svg_of(pareto(summary, "tokens"))
    assert not re.findall(r"#[0-9a-f]{6}\b", svg)
    assert "var(--accent)" in svg
    assert "DejaVu" not in svg


def test_texts_of_users_stay_texts(summary: Summary):
    strange = replace(
        summary,
        rows=tuple(
            replace(row, label="'DejaVu Sans' #010101 \u89c6\u9891 $\\bad$")
            if row.label == NASTY
            else row
            for row in summary.rows
        ),
    )
    for shown in (summary, strange):
        for plot in (pareto(shown, "tokens"), forest(shown)):
            root = ET.fromstring(svg_of(plot))
            assert not list(root.iter(f"{SVG}script"))
    assert any("'DejaVu Sans' #010101" in text for text in texts(svg_of(forest(strange))))
    assert any(title.startswith(NASTY) for title in titles(svg_of(forest(summary))))


def test_long_labels_are_cut_and_lines_joined():
    assert elide("short", 10) == "short"
    assert elide("a label\nof two lines", 12) == "a label of…"


def test_files_of_plots_stand_alone_in_colours_of_print(summary: Summary):
    assert [plot.name for plot in plots(summary)] == [*(f"pareto-{key}" for key in AXES), "forest"]
    for plot in plots(summary):
        page, svg = plot.svg(), plot.file("svg").decode()
        assert not re.findall(r"#0(\d)0\1|var\(", svg)  # nothing that only the page knows
        assert "#0b6e75" in svg or plot.name == "forest"
        assert "font-family" not in svg  # letters are drawn, whatever fonts a reader has
        assert ET.fromstring(svg).get("width", "").endswith("pt")
        pdf = plot.file("pdf")
        assert pdf.startswith(b"%PDF")
        assert (svg.encode(), pdf, page) == (plot.file("svg"), plot.file("pdf"), plot.svg())

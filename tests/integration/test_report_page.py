"""The report in a real browser: no error, nothing from the network, all there and working."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Page, find_browser
from tests.report_cases import LABELS, make_run, write_case
from tokenred.cli import main

BROWSER = find_browser()

# CI installs a browser (`make browser`), so that there a missing one is a failure.
pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("CI"),
    reason="no Chromium on this machine; `make browser` installs one",
)

SHOWN = "[...document.querySelectorAll('.asked')].filter(each => each.offsetParent !== null"
RANKED = "document.querySelector('table.rows tbody[data-ranked]')"
OTHER = "document.querySelector('table.rows tbody:not([data-ranked])')"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None, "CI has no Chromium; `make browser` installs one"
    folder = write_case(
        tmp_path_factory.mktemp("run"), make_run(labels=(*LABELS, "odd"), n_samples=5)
    )
    with pytest.raises(SystemExit) as stop:
        main(["report", str(folder), "--samples", "3"])
    assert not stop.value.code
    with Page(BROWSER, tmp_path_factory.mktemp("profile")) as opened:
        opened.open(folder / "report.html")
        yield opened


def labels(page: Page, body: str) -> list[str]:
    code = f"[...{body}.querySelectorAll('tr:not(.group)')].map(row => row.cells[0].textContent)"
    return [text.replace("\xa0†", "") for text in page.evaluate(code)]


def values(page: Page, body: str, column: int) -> list[float]:
    code = f"[...{body}.querySelectorAll('tr:not(.group)')].map(row => row.cells[{column}]"
    return [float(value) for value in page.evaluate(f"{code}.dataset.value)")]


def click(page: Page, column: int) -> None:
    page.evaluate(f"document.querySelectorAll('table.rows thead button')[{column}].click()")


def choose(page: Page, name: str, value: str) -> int:
    """Choose in the filter and return how many questions it says are left."""
    code = f"form = document.getElementById('filter'); form.{name}.value = '{value}';"
    page.evaluate(f"{code} form.dispatchEvent(new Event('change'))")
    return int(page.evaluate("document.querySelector('#filter output').textContent").split()[0])


def test_the_page_is_there_without_errors_and_without_the_network(page: Page):
    assert page.errors == []
    assert all(url.startswith(("file://", "data:")) for url in page.requests)
    assert len([url for url in page.requests if url.startswith("file://")]) == 1
    assert page.evaluate("document.title") == "What each part is worth"


def test_table_and_plots_are_seen(page: Page):
    assert labels(page, RANKED) == [*LABELS, "random"]
    assert set(labels(page, OTHER)) == {"vanilla", "odd", "downsample"}
    sizes = page.evaluate(
        "[...document.querySelectorAll('figure svg')].map(svg => svg.getBoundingClientRect())"
        ".map(box => Math.min(box.width, box.height))"
    )
    assert len(sizes) == 4
    assert min(sizes) > 100
    points = "document.querySelectorAll('#pareto-tokens svg [id^=pareto-tokens-point]').length"
    assert page.evaluate(points) == len(LABELS) + 4
    assert page.evaluate("document.querySelectorAll('.heat td[style]').length") > 0


def test_labels_of_a_plot_do_not_overlap(page: Page):
    boxes = page.evaluate(
        "[...document.querySelectorAll('#pareto-tokens svg text')].map(text => "
        "{const b = text.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]})"
    )
    assert len(boxes) > len(LABELS)
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other_left, other_top, other_right, other_bottom in boxes[:number]:
            across = min(right, other_right) - max(left, other_left)
            along = min(bottom, other_bottom) - max(top, other_top)
            assert across < 1 or along < 4  # boxes of text are higher than letters


def test_a_click_sorts_the_rows_of_a_budget_and_no_others(page: Page):
    others = labels(page, OTHER)
    for column in (1, 8):
        click(page, column)
        found = values(page, RANKED, column)
        assert found == sorted(found, reverse=True)
        click(page, column)
        assert values(page, RANKED, column) == sorted(found)
    click(page, 0)
    assert labels(page, RANKED) == sorted([*LABELS, "random"], key=str.casefold)
    assert labels(page, OTHER) == others
    # the reference has no p value and stays last, up or down
    for _ in range(2):
        click(page, 3)
        assert labels(page, RANKED)[-1] == LABELS[0]
    assert page.errors == []


def test_the_filter_shows_what_was_asked_for(page: Page):
    everything = choose(page, "kind", "")
    assert everything > 3
    kinds = page.evaluate("[...document.querySelector('[name=kind]').options].map(o => o.value)")
    left = {kind: choose(page, "kind", kind) for kind in kinds if kind}
    assert sum(left.values()) == everything
    kind = max(left, key=lambda name: left[name])
    assert choose(page, "kind", kind) == left[kind]
    seen = page.evaluate(f"{SHOWN}).map(each => each.dataset.kind)")
    assert set(seen) <= {kind}
    choose(page, "kind", "")
    choose(page, "row", "0")
    right, wrong = choose(page, "verdict", "right"), choose(page, "verdict", "wrong")
    assert right > 0
    assert wrong > 0
    assert right + wrong == everything
    verdicts = page.evaluate(
        f"{SHOWN}).map(each => each.querySelector('[data-row=\"0\"]').closest('li').className)"
    )
    assert set(verdicts) == {"wrong"}
    assert page.evaluate("document.querySelectorAll('.chosen').length") > 0
    choose(page, "row", "")
    choose(page, "verdict", "")
    assert page.errors == []


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(page: Page, width: int):
    page.resize(width, 900)
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_and_light_have_colours_of_their_own(page: Page):
    seen = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        paper, ink = page.evaluate(
            "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
        )
        text = page.evaluate("getComputedStyle(document.querySelector('#forest svg text')).fill")
        seen.append((paper, ink, text))
    (light_paper, light_ink, light_text), (dark_paper, dark_ink, dark_text) = seen
    assert light_paper != dark_paper
    assert light_ink != dark_ink
    assert light_text != dark_text
    page.prefer("light")


def test_it_prints(page: Page, tmp_path: Path):
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")

"""A pipeline that keeps another share than it was asked for says so, once and in one sentence."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from tokenred import Pipeline, TokenredError, calibrate, load_pipeline
from tokenred.cli import main
from tokenred.errors import BudgetWarning
from tokenred.evaluation.ablation import expand_rows, load_ablation
from tokenred.pipeline import load_config
from tokenred.testing.videos import video_tokens

RATIO = "budget.retention_ratio"
FIXED = {
    "name": "mine",
    "budget": {"retention_ratio": 0.1, "mode": "as-released"},
    "stages": {"frame": {"kind": "frame", "selector": "random", "n_anchors": 9}},
}
CALIBRATED = {
    "name": "mine",
    "budget": {
        "mode": "calibrated",
        "retention_ratio": 0.7,
        "knob": "stages.segment.keep.decide.keep_ratio",
        "knob_range": [0.0, 1.0],
    },
    "stages": {
        "segment": {
            "kind": "segment",
            "segmenter": "single",
            "coupler": "cosine",
            "keep": {"score": "max-probability", "decide": "quantile"},
        }
    },
}


def said(pipeline: Pipeline, times: int = 1, **video: Any) -> list[str]:
    tokens = video_tokens(needs=pipeline.needs, **video)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            pipeline.run(tokens)
    return [str(each.message) for each in caught if each.category is BudgetWarning]


def test_released_settings_that_do_not_follow_an_asked_ratio_say_so_once(tmp_path: Path) -> None:
    sentence = (
        "pipeline 'mine' keeps 25 % of the tokens, not the 50 % of budget.retention_ratio: its own "
        "settings decide in budget.mode as-released"
    )
    assert said(load_pipeline(FIXED, {RATIO: 0.5}), times=3) == [sentence]
    assert said(load_pipeline(FIXED, {RATIO: 0.25})) == []
    assert said(load_pipeline(FIXED)) == []
    (tmp_path / "mine.yaml").write_text("extends: aot-released\nset: {budget.retention_ratio: 0.7}")
    (found,) = said(load_pipeline(tmp_path / "mine.yaml"), frames=8)
    assert found.startswith("pipeline 'mine' keeps ")
    assert said(load_pipeline("aot-released"), frames=8) == []


def test_a_knob_that_is_not_calibrated_says_so_until_it_is() -> None:
    (sentence,) = said(load_pipeline(CALIBRATED))
    assert "not the 70 % of budget.retention_ratio: its knob is not calibrated" in sentence
    solved = calibrate(load_config(CALIBRATED), [video_tokens(seed=n) for n in range(2)])
    assert said(Pipeline(solved)) == []


@pytest.mark.parametrize(("ratio", "n_said"), [(0.001, 1), (0.012, 1), (0.02, 0), (0.25, 0)])
def test_rounding_that_more_than_doubles_a_share_is_said(ratio: float, n_said: int) -> None:
    found = said(load_pipeline("random", {RATIO: ratio}))
    assert len(found) == n_said
    assert all("keeps 2.78 % of the tokens" in each for each in found)
    assert all(each.endswith("a frame keeps at least one token") for each in found)


def test_budgets_that_are_asked_of_what_has_none_are_said() -> None:
    def load(name: str) -> Any:
        return lambda changes: load_config(name, changes)

    with pytest.warns(BudgetWarning, match="'fastv' has no budget to set: .* of 0.25, 0.1$"):
        (row,) = expand_rows("fastv", load("fastv"), {}, [0.25, 0.1])
    assert row.retention is None
    for name, retentions in [("vanilla", [0.25]), ("random", [0.25]), ("fastv", None)]:
        list(expand_rows(name, load(name), {}, retentions))
    table = {"base": "fastv", "rows": {"mine": {}}, "retention": [0.25]}
    load_ablation(table).expand()
    with pytest.warns(BudgetWarning, match="has no budget to set"):
        load_ablation(table).expand([0.1])


def test_asking_changes_no_identity() -> None:
    asked = load_config(FIXED, {RATIO: 0.1})
    assert asked.is_budget_asked
    assert not load_config(FIXED).is_budget_asked
    assert asked.config_id == load_config(FIXED).config_id
    assert asked.to_dict() == load_config(FIXED).to_dict()


def test_the_command_line_says_it_in_one_line_on_stderr(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["bench", "random", "--frames", "4", "--repeats", "1", "--warmup", "0"]
    with warnings.catch_warnings():
        warnings.simplefilter("always", BudgetWarning)
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--new-tokens", "1", "--retention", "0.001"])
    assert not stop.value.code
    err = capsys.readouterr().err
    assert err.count("tokenred: pipeline 'random' keeps") == 1
    assert "UserWarning" not in err


def test_settings_under_which_nothing_finite_is_left_are_an_error() -> None:
    wild = {"stages.intra_frame.cost.1.weight": 1000}
    with pytest.raises(
        TokenredError, match="coupler 'sinkhorn' gave masses in a plan with NaN or infinity"
    ):
        load_pipeline("aot-released", wild).run(
            video_tokens(8, (6, 6), needs=load_pipeline("aot-released").needs)
        )

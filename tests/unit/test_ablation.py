"""Ablation files: what they expand to, and what they say when they are wrong."""

from pathlib import Path

import pytest

from tokenred.errors import ConfigError
from tokenred.evaluation import ablation
from tokenred.evaluation.ablation import ALWAYS, ablation_files, load_ablation
from tokenred.pipeline import load_config
from tokenred.plugins import registry


def labels(rows) -> list[str]:
    return [row.label for row in rows]


def test_a_file_that_means_endless_rows_is_refused() -> None:
    values = list(range(1, 1001))
    axes = {f"stages.frame.{name}": values for name in ("n_anchors", "spare_up_to", "max_drop")}
    with pytest.raises(ConfigError, match=r"^axes: the file means more than 10000 rows"):
        load_ablation({"base": "random", "axes": axes})


def test_a_preset_is_an_ablation_of_itself_among_the_controls() -> None:
    ablation = load_ablation("aot-paper")
    assert ablation.reference == "aot-paper"
    assert labels(ablation.expand()) == ["vanilla", "aot-paper", "random", "downsample"]


@pytest.mark.parametrize("name", ["vanilla", "random", "downsample"])
def test_a_control_alone_is_not_doubled(name: str) -> None:
    assert sorted(labels(load_ablation(name).expand())) == sorted(ALWAYS)


def test_rows_change_the_base() -> None:
    ablation = load_ablation(
        {
            "rows": {
                "AOT": None,
                "unit mass": {"set": {"stages.intra_frame.aggregator.mass": "unit"}},
                "one stage": {"set": {"stages.inter_frame": None, "stages.pool.keep": "count"}},
                "other preset": {"pipeline": "no-merge"},
            }
        }
    )
    rows = {row.label: row.config for row in ablation.expand([0.2])}
    base = load_config("aot-paper", {"budget.retention_ratio": 0.2})
    assert rows["AOT"].config_id == base.config_id
    assert rows["unit mass"].stages["intra_frame"].aggregator.mass == "unit"
    assert list(rows["one stage"].stages) == ["intra_frame", "pool"]
    expected = load_config("no-merge", {"budget.retention_ratio": 0.2})
    assert rows["other preset"].config_id == expected.config_id


def test_every_retention_gets_its_group_and_vanilla_stands_once() -> None:
    rows = load_ablation({"rows": {"AOT": {}}}).expand([0.25, 0.1])
    assert [(row.label, row.retention) for row in rows] == [
        ("vanilla", None),
        ("AOT", 0.25), ("random", 0.25), ("downsample", 0.25),
        ("AOT", 0.1), ("random", 0.1), ("downsample", 0.1),
    ]  # fmt: skip
    assert all(row.config.budget.retention_ratio == (row.retention or 1) for row in rows)


def test_the_file_gives_the_retentions_unless_told_otherwise() -> None:
    ablation = load_ablation({"rows": {"AOT": {}}, "retention": [0.3, 0.2]})
    assert {row.retention for row in ablation.expand()} == {None, 0.3, 0.2}
    assert {row.retention for row in ablation.expand([0.5])} == {None, 0.5}


def test_axes_are_a_product_with_short_labels() -> None:
    ablation = load_ablation(
        {
            "axes": {
                "stages.intra_frame.aggregator.strength": [0.5, 1.0],
                "stages.inter_frame.aggregator.strength": [2.0],
                "stages.intra_frame.coupler": ["exact", {"name": "sinkhorn", "epsilon": 0.2}],
            }
        }
    )
    rows = ablation.expand()
    grid = [row for row in rows if not row.control]
    assert len({row.config_id for row in grid}) == len(grid) == 4
    assert grid[1].label == (
        "intra_frame.aggregator.strength=0.5, inter_frame.aggregator.strength=2.0, "
        "coupler=sinkhorn(epsilon=0.2)"
    )
    assert grid[1].config.stages["intra_frame"].coupler.epsilon == 0.2
    assert ablation.reference == grid[0].label


def test_an_axis_of_one_name_is_called_by_its_last_part() -> None:
    rows = load_ablation(
        {"axes": {"stages.intra_frame.aggregator.mass": ["plan", "unit"]}}
    ).expand()
    assert labels(rows)[1:3] == ["mass=plan", "mass=unit"]


def test_a_budget_axis_keeps_its_own_retention() -> None:
    rows = load_ablation({"axes": {"budget.retention_ratio": [0.5, 0.25]}}).expand([0.1])
    own = {row.label: row.config.budget.retention_ratio for row in rows if row.retention is None}
    assert own == {"retention_ratio=0.5": 0.5, "retention_ratio=0.25": 0.25, "vanilla": 1.0}


def test_overrides_change_the_base_below_the_rows() -> None:
    path = "stages.intra_frame.aggregator.strength"
    ablation = load_ablation(
        {
            "rows": {
                "base": {},
                "mine": {"set": {path: 0.5}},
                "other": {"pipeline": "aot-paper"},
            }
        },
        {path: 3.0},
    )
    rows = {row.label: row.config for row in ablation.expand() if not row.control}
    strengths = {name: c.stages["intra_frame"].aggregator.strength for name, c in rows.items()}
    assert strengths == {"base": 3.0, "mine": 0.5, "other": 1.0}


def test_frames_are_part_of_what_is_computed() -> None:
    rows = load_ablation(
        {"rows": {"all": {}, "four": {"frames": 4}, "two": {"frames": 2}}}
    ).expand()
    ids = {row.label: row.config_id for row in rows}
    assert len({ids["all"], ids["four"], ids["two"]}) == 3
    assert ids["all"] == next(row.config.config_id for row in rows if row.label == "all")


def test_equal_rows_share_what_is_computed() -> None:
    rows = load_ablation({"rows": {"one": {}, "same": {"pipeline": "aot-paper"}}}).expand()
    ids = {row.label: row.config_id for row in rows}
    assert ids["one"] == ids["same"]


def test_the_controls_join_whatever_the_file_says() -> None:
    rows = load_ablation({"rows": {"AOT": {}}, "always": ["top-attention"]}).expand()
    assert set(labels(rows)) == {"AOT", "top-attention", *ALWAYS}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"rows": {"a": {}}, "retntion": 0.1},
            "retntion: unknown key 'retntion'; did you mean 'ret",
        ),
        ({"rows": {"a": {"sett": {}}}}, "rows.a.sett: unknown key 'sett'; did you mean 'set'"),
        ({"rows": {"a": {}}, "reference": "b"}, "reference: no row 'b'"),
        ({}, "rows: an ablation needs rows, axes or a sweep"),
        ({"rows": {"a": {"frames": 0}}}, "rows.a.frames: .*greater than or equal to 1"),
    ],
)
def test_faults_are_named(data: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_ablation(data)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"pipeline": "no-merg"}, "rows.a: unknown pipeline 'no-merg'; did you mean 'no-merge'"),
        (
            {"set": {"stages.intra_frame.coupler.epsilom": 1}},
            "rows.a.stages.intra_frame.coupler.epsilom: .*did you mean 'epsilon'",
        ),
        ({"set": {"stages.inter_frame": None}}, "rows.a.stages.intra_frame: an exact budget needs"),
    ],
)
def test_a_row_that_is_no_pipeline_is_named(row: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_ablation({"rows": {"a": row}}).expand()


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(
        ConfigError, match="no ablation or pipeline 'componets'; did you mean 'comp"
    ):
        load_ablation("componets")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"rows: [", "x.yaml, line 1: not valid YAML"),
        (b"- a", "x.yaml does not hold a mapping"),
        (b"\xff\xfe\x00", "x.yaml cannot be read: it is not UTF-8"),
        (None, "x.yaml does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, text: bytes | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "x.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        load_ablation(tmp_path / "x.yaml")


def test_a_file_is_named_after_itself(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("rows: {AOT: , no merging: {pipeline: no-merge}}")
    assert load_ablation(path).config.name == "mine"


@pytest.mark.parametrize("name", ablation_files())
def test_shipped_files_are_valid_and_complete(name: str) -> None:
    ablation = load_ablation(name)
    rows = ablation.expand()
    assert set(ALWAYS) <= {row.label for row in rows}
    assert ablation.reference in {row.label for row in rows}
    assert ablation.config.title
    assert ablation.config.question.endswith((".", "?"))
    groups = {row.retention for row in rows} - {None}
    for retention in groups:
        ids = [row.config_id for row in rows if row.retention == retention]
        assert len(ids) == len(set(ids)), "two rows of a group are the same pipeline"
    published = ablation.config.published
    if published is not None:
        assert set(published.scores) <= {row.label for row in rows}


def test_no_ablation_shares_a_name_with_a_preset() -> None:
    assert not set(ablation_files()) & set(registry().presets())


def test_a_row_may_stand_at_some_budgets_only() -> None:
    rows = {"all": None, "some": {"pipeline": "random", "only": [0.2]}}
    expanded = load_ablation({"rows": rows}).expand([0.2, 0.1])
    assert [row.retention for row in expanded if row.label == "some"] == [0.2]
    assert [row.retention for row in expanded if row.label == "all"] == [0.2, 0.1]


def test_a_sweep_has_every_combination_that_goes_together() -> None:
    sweep = {
        "stage": "frame",
        "selectors": ["random", "uniform-grid", "outliers"],
        "couplers": ["none", "nearest", "cosine"],
        "aggregators": ["keep-only", "mean", {"name": "mass-normalised", "mass": "unit"}],
        "leave_out": {"cosine": "for a reason"},
    }
    ablation = load_ablation({"base": "top-attention", "sweep": sweep, "reference": "random"})
    rows = {row.label: row.config for row in ablation.expand([0.1]) if not row.control}
    # outliers chooses as many as it likes, none goes with keep-only alone, cosine is left out
    assert sorted(rows) == [
        "random",
        "random + nearest + mass-normalised(mass=unit)",
        "random + nearest + mean",
        "uniform-grid",
        "uniform-grid + nearest + mass-normalised(mass=unit)",
        "uniform-grid + nearest + mean",
    ]
    stage = rows["uniform-grid + nearest + mean"].stages["frame"]
    assert (stage.selector.name, stage.coupler.name) == ("uniform-grid", "nearest")
    assert rows["random"].stages["frame"].aggregator.name == "keep-only"


def test_a_sweep_over_a_stage_that_is_not_there_says_so() -> None:
    ablation = load_ablation(
        {"base": "top-attention", "sweep": {"stage": "frmae", "selectors": ["random"]}}
    )
    with pytest.raises(ConfigError, match=r"^sweep\.stages\.frmae"):
        ablation.expand([0.1])


def test_a_pipeline_is_read_once_for_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[object] = []
    original = ablation.read_pipeline
    monkeypatch.setattr(ablation, "read_pipeline", lambda s: read.append(s) or original(s))
    rows = load_ablation("components").expand([0.25, 0.10])
    assert len(rows) > 20
    assert sorted(map(str, read)) == ["aot-paper", "downsample", "random", "vanilla"]

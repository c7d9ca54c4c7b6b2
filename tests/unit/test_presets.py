"""Presets: they load, name their source, and say of themselves what is true."""

import pytest
import yaml

from tokenred import load_pipeline, registry
from tokenred.pipeline import load_config

NAMES = sorted(registry().presets())
EXPECTED = {
    "aot-dynamic",
    "aot-paper",
    "aot-released",
    "cosine-merge",
    "downsample",
    "dycoke-cache",
    "fastv",
    "framefusion",
    "holitom-inner",
    "no-merge",
    "prunevid-llm",
    "pyramiddrop",
    "random",
    "sparsevlm",
    "top-attention",
    "vanilla",
}


def test_the_presets_are_these() -> None:
    assert set(NAMES) >= EXPECTED


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_called_like_its_file_and_tells_its_source(name: str) -> None:
    config = load_config(name)
    assert config.name == name == registry().preset(name).stem
    assert config.about.summary.endswith(".")
    assert config.about.source
    assert config.about.fidelity.endswith(".")


def test_presets_are_different_pipelines() -> None:
    ids = {name: load_config(name).config_id for name in NAMES}
    assert len(set(ids.values())) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_states_ten_per_cent_unless_nothing_is_dropped_before_the_llm(name: str) -> None:
    config = load_config(name)
    drops = {stage.kind for stage in config.stages.values()} - {"pool", "llm", "cache"}
    floor = name.startswith("dycoke") and drops  # a quarter of the frames stays whole
    stated = {0.475 if floor else 0.1 if drops else 1.0}
    if config.budget.mode == "as-released":
        stated.add(1.0)  # where no setting follows from the budget
    assert config.budget.retention_ratio in stated


INSIDE = [name for name in NAMES if load_pipeline(name).inside_llm]


@pytest.mark.parametrize("name", INSIDE)
@pytest.mark.parametrize("n_layers", [2, 3, 4, 28, 32])
def test_what_acts_inside_the_llm_fits_any_depth(name: str, n_layers: int) -> None:
    inside = load_pipeline(name).inside_llm
    for _, reducer in inside.reducers:
        places = [(step.layer, step.point) for step in reducer.steps(n_layers)]
        assert places == sorted(set(places))
        assert all(0 <= layer < n_layers for layer, _ in places)
    assert all(1 <= pruner.layer(n_layers) < n_layers for _, pruner in inside.pruners)


@pytest.mark.parametrize(
    ("name", "n_layers", "wanted"),
    [
        ("fastv", 28, [2]),
        ("fastv", 32, [2]),
        ("pyramiddrop", 32, [8, 16, 24]),
        ("sparsevlm", 32, [3, 7, 16]),
        ("aim", 28, [15, 16, 17, 18, 19, 20, 21, 22]),
        ("mustdrop", 32, [3, 7, 11, 15]),
        ("holitom-inner", 28, [18]),
        ("prunevid-llm", 32, [11]),
    ],
)
def test_shares_of_the_depth_are_the_layers_of_the_papers(
    name: str, n_layers: int, wanted: list[int]
) -> None:
    ((_, reducer),) = load_pipeline(name).inside_llm.reducers
    assert [step.layer for step in reducer.steps(n_layers)] == wanted


def test_dycoke_looks_at_chosen_tokens_from_layer_3_on() -> None:
    ((_, pruner),) = load_pipeline("dycoke-cache").inside_llm.pruners
    assert [pruner.layer(n) for n in (28, 32)] == [3, 3]


@pytest.mark.parametrize(
    "name", ["aot-paper", "aot-dynamic", "no-merge", "cosine-merge", "aot-released"]
)
def test_what_the_paper_leaves_open_is_listed(name: str) -> None:
    assert load_config(name).about.assumed


def test_aot_paper_is_algorithm_1_and_2() -> None:
    stages = load_config("aot-paper").to_dict()["stages"]
    for stage in ("intra_frame", "inter_frame"):
        coupler = stages[stage]["coupler"]
        assert coupler["name"] == "sinkhorn"
        assert (coupler["epsilon"], coupler["max_iter"]) == (0.1, 100)
        assert (coupler["stop"], coupler["tolerance"]) == ("scaling", 0.01)
        assert [term["name"] for term in stages[stage]["cost"]] == ["cosine"]
    assert stages["intra_frame"]["aggregator"] == {
        "name": "mass-normalised",
        "strength": 1.0,
        "mass": "plan",
        "own": "one",
    }
    assert stages["inter_frame"]["aggregator"] == {"name": "row-normalised", "strength": 1.0}
    assert stages["inter_frame"]["keep"]["score"] == {"name": "max-probability"}
    assert stages["inter_frame"]["kind"] == "segment"


def test_aot_variants_differ_where_they_say() -> None:
    base = load_config("aot-paper").to_dict()["stages"]

    def changed(name: str) -> set[str]:
        other = load_config(name).to_dict()["stages"]
        return {
            f"{stage}.{key}"
            for stage in base
            for key in base[stage]
            if base[stage][key] != other[stage][key]
        }

    assert changed("aot-dynamic") == {"inter_frame.segmenter"}
    assert changed("no-merge") == {"intra_frame.aggregator", "inter_frame.aggregator"}
    assert changed("cosine-merge") == {
        "intra_frame.coupler",
        "intra_frame.aggregator",
        "inter_frame.coupler",
    }


@pytest.mark.parametrize("name", ["random", "no-merge", "top-attention", "vanilla"])
def test_pruners_merge_nothing(name: str) -> None:
    stages = load_pipeline(name).stages.values()
    assert not any(stage.aggregator.merges for stage in stages if hasattr(stage, "aggregator"))


@pytest.mark.parametrize("name", NAMES)
def test_preset_files_hold_nothing_that_is_ignored(name: str) -> None:
    data = yaml.safe_load(registry().preset(name).read_text())
    assert set(data) <= {
        "about",
        "budget",
        "by_retention",
        "extends",
        "seed",
        "set",
        "stages",
    }

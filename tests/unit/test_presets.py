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
    "no-merge",
    "random",
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
def test_every_preset_but_vanilla_states_ten_per_cent(name: str) -> None:
    assert load_config(name).budget.retention_ratio == (1.0 if name == "vanilla" else 0.1)


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
    }
    assert stages["inter_frame"]["aggregator"] == {"name": "row-normalised", "strength": 1.0}
    assert stages["inter_frame"]["keep"]["score"] == {"name": "max-probability"}
    assert stages["inter_frame"]["emit"] == "merged"


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
    stages = [stage for _, _, stage in load_pipeline(name)._stages]
    assert not any(stage.aggregator.merges for stage in stages if hasattr(stage, "aggregator"))


@pytest.mark.parametrize("name", NAMES)
def test_preset_files_hold_nothing_that_is_ignored(name: str) -> None:
    data = yaml.safe_load(registry().preset(name).read_text())
    assert set(data) <= {"about", "budget", "stages", "seed", "extends", "set"}

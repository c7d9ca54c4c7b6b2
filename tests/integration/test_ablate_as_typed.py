"""``tokenred ablate`` as people type it: pipelines, sweeps, frames, questions of one's own."""

import json

import pytest

from tokenred.cli._common import parse_sweep
from tokenred.errors import ConfigError, InputError
from tokenred.evaluation.ablation import load_ablation, of_pipelines
from tokenred.evaluation.model import VideoLlm
from tokenred.evaluation.task import load_task


def rows(ablation, retention=(0.1,)):
    return {row.label: row for row in ablation.expand(retention)}


def test_pipelines_stand_side_by_side_at_one_budget():
    ablation = of_pipelines(["aot", "visionzip", "random"], overrides={"seed": 7})
    found = rows(ablation)
    assert list(found) == ["vanilla", "aot", "visionzip", "random", "downsample"]
    assert ablation.reference == "aot"
    assert found["aot"].config.name == "aot-paper"
    assert {found[name].config.seed for name in ("aot", "visionzip", "random")} == {7}
    assert {found[name].retention for name in ("aot", "visionzip")} == {0.1}


def test_a_file_of_ones_own_is_a_pipeline_among_others(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: aot-paper\nset: {stages.intra_frame.coupler.epsilon: 0.3}\n")
    found = rows(of_pipelines(["aot", str(mine)]))
    assert found["mine"].config.stages["intra_frame"].coupler.epsilon == 0.3
    assert list(rows(of_pipelines([str(mine)])))[:2] == ["vanilla", "mine"]


def test_a_sweep_is_compared_with_the_pipeline_as_it_is():
    sweep = {"intra_frame.coupler.epsilon": [0.02, 0.5], "seed": [0, 1]}
    ablation = of_pipelines(["aot"], sweep)
    found = rows(ablation)
    assert ablation.reference == "aot"
    labels = [label for label in found if "=" in label]
    assert len(labels) == 4
    assert found[labels[0]].config.stages["intra_frame"].coupler.epsilon == 0.02
    assert found["aot"].config.stages["intra_frame"].coupler.epsilon not in (0.02, 0.5)


def test_frames_are_those_of_all_rows():
    assert {row.frames for row in rows(of_pipelines(["aot"], frames=4)).values()} == {4}
    table = load_ablation("fig3-frames")
    own = {row.label: row.frames for row in table.expand()}
    given = {row.label: row.frames for row in table.with_frames(4).expand()}
    assert {label: frames or 4 for label, frames in own.items()} == given


def test_values_of_a_sweep_are_yaml():
    assert parse_sweep(["a.b=0.02,0.1", "c=[3, 3],[4, 4]", "d=null,mean"]) == {
        "a.b": [0.02, 0.1],
        "c": [[3, 3], [4, 4]],
        "d": [None, "mean"],
    }


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["a"], "write --sweep PATH=V1,V2"),
        (["a=1"], "two values or more"),
        (["a=1,2", "a=3,4"], "given twice"),
        (["a=[1,2"], "a:"),
    ],
)
def test_sweeps_that_say_nothing(pairs, sentence):
    with pytest.raises(ConfigError, match=sentence):
        parse_sweep(pairs)


def test_what_does_not_go_together():
    with pytest.raises(ConfigError, match="'aot' is named twice"):
        of_pipelines(["aot", "random", "aot"])
    with pytest.raises(ConfigError, match="a sweep changes one pipeline, 2 are named"):
        of_pipelines(["aot", "random"], {"seed": [0, 1]})


@pytest.fixture
def own_task(tmp_path):
    def written(*questions, **settings):
        path = tmp_path / "own.jsonl"
        lines = [{"video": "clip.mp4", "options": ["1", "2"], **each} for each in questions]
        path.write_text("\n".join(json.dumps(line) for line in lines))
        return load_task(str(path), defaults={"frames": 8, "show_options": "none"}, **settings)

    return written


def test_a_task_without_settings_fits_the_embedded_model(own_task):
    task = own_task({"question": "How many digits?", "answer": "1"})
    assert (task.config.frames, task.config.show_options) == (8, "none")
    fewer = own_task({"question": "How many digits?"}, overrides={"frames": 4})
    assert fewer.config.frames == 4
    VideoLlm().check_questions(task.questions(1))  # small letters, and no mark


def test_a_word_that_the_embedded_model_lacks_is_named_before_anything_runs(own_task):
    task = own_task({"question": "how many digits?"}, {"question": "where is the dog?"})
    with pytest.raises(InputError, match=r"sample 'clip.mp4': .* 'dog', 'where'; it can be asked"):
        VideoLlm().check_questions(task.questions(1))


def test_an_option_that_the_embedded_model_lacks_is_named_too(own_task):
    task = own_task({"question": "how many digits?", "options": ["1", "a dozen"]})
    with pytest.raises(InputError, match="no token for parts of 'a dozen'"):
        VideoLlm().check_questions(task.questions(1))

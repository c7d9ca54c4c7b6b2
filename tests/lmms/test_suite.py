"""Tasks of lmms-eval over the rows of an ablation, with the real lmms-eval."""

import json
from pathlib import Path

import pytest

from tokenred import load_pipeline
from tokenred.errors import ConfigError, TokenredError
from tokenred.evaluation.ablation import Row
from tokenred.integrations.lmms_suite import Suite, score_of

ROWS = [
    Row("vanilla", None, load_pipeline("vanilla").config),
    Row("aot", None, load_pipeline("aot-paper", {"budget.retention_ratio": 0.1}).config),
    Row("random", None, load_pipeline("random", {"budget.retention_ratio": 0.1}).config),
    Row("downsample", None, load_pipeline("downsample", {"budget.retention_ratio": 0.1}).config),
    Row("half the frames", None, load_pipeline("vanilla").config, frames=4),
]
ARGS = {"pretrained": "embedded"}


@pytest.fixture(scope="module")
def suite(clips):
    return Suite(["clips_both"], ARGS, include_path=clips[0], limit=2)


@pytest.fixture(scope="module")
def results(suite):
    return list(suite.run(ROWS))


def test_every_row_answers_every_document(clips, suite, results):
    docs = clips[1]
    assert [sample.id for sample in suite.samples] == [
        f"{task}/{n}" for task in suite.kinds for n in range(2)
    ]
    assert suite.kinds == {"clips": len(docs), "clips_options": len(docs)}
    assert {(r.row.label, r.sample.id) for r in results} == {
        (row.label, sample.id) for row in ROWS for sample in suite.samples
    }
    assert len(results) == len(ROWS) * len(suite.samples)
    for result in results:
        doc = docs[result.sample.doc_id]
        chosen = result.sample.task == "clips_options"
        right = str(doc["place"]) if chosen else doc["answer"]
        assert result.score == float(result.answer == right)
        assert result.metric == "acc"
        assert len(result.option_losses) == (len(doc["options"]) if chosen else 0)


def test_rows_cost_what_their_pipelines_leave(results):
    tokens = {r.row.label: r.stats for r in results}
    assert tokens["vanilla"].visual_tokens == tokens["vanilla"].vanilla_visual_tokens == 392
    assert tokens["half the frames"].visual_tokens == 196
    assert tokens["half the frames"].frame_indices == ((0, 2, 5, 7),)
    for label in ("aot", "random", "downsample"):
        assert 30 <= tokens[label].visual_tokens <= 45
        assert tokens[label].vanilla_input_tokens - tokens[label].input_tokens == (
            392 - tokens[label].visual_tokens
        )


def test_a_row_says_the_same_alone_and_in_any_order(suite, results):
    again = list(suite.run([ROWS[2]]))
    before = [r for r in results if r.row.label == "random"]
    assert [(r.answer, r.option_losses) for r in again] == [
        (r.answer, pytest.approx(r.option_losses)) for r in before
    ]


def test_videos_are_read_and_encoded_once_for_all_rows(suite, monkeypatch):
    from tokenred.integrations import lmms_eval

    read = []
    kept = lmms_eval.read_visuals
    monkeypatch.setattr(
        lmms_eval, "read_visuals", lambda *given: read.append(given) or kept(*given)
    )
    list(suite.run(ROWS[:4], lambda row, sample: sample.id != "clips/1"))
    assert len(read) == 1


def test_what_is_done_is_not_asked_again(suite):
    done = {("aot", "clips/0"), ("vanilla", "clips_options/1")}
    rows = ROWS[:2]
    asked = {
        (r.row.label, r.sample.id)
        for r in suite.run(rows, lambda row, sample: (row.label, sample.id) in done)
    }
    assert asked == {(r.label, s.id) for r in rows for s in suite.samples} - done


def test_prompts_of_another_model(clips):
    ours, theirs = (
        Suite(["clips"], ARGS, include_path=clips[0], limit=1, prompts_of=name)
        for name in (None, "llava_vid")
    )
    prompts = [s._instances(s.samples[0])[0].args[0] for s in (ours, theirs)]
    assert prompts[1] == "is " + prompts[0]
    assert ours.fingerprint != theirs.fingerprint


def test_the_fingerprint_knows_the_documents_and_no_limit(clips, tmp_path):
    folder, docs = clips
    few, many = (
        Suite(["clips"], ARGS, include_path=folder, limit=limit).fingerprint for limit in (1, 5)
    )
    assert few == many
    assert few.startswith("lmms-eval:clips 0.7.3 ")
    questions = tmp_path / "questions.jsonl"
    lines = [{**docs[0], "answer": "another"}, *docs[1:]]
    questions.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("utils.py", "clips.yaml"):
        text = (folder / name).read_text().replace(str(folder / "questions.jsonl"), str(questions))
        (tmp_path / name).write_text(text)
    assert Suite(["clips"], ARGS, include_path=tmp_path).fingerprint != few


def test_an_unknown_task_is_named(clips):
    with pytest.raises(ConfigError, match="no task 'clipz'; did you mean 'clips'"):
        Suite(["clipz"], ARGS, include_path=clips[0])


@pytest.mark.parametrize(
    ("value", "score"),
    [
        (1.0, 1.0),
        (True, 1.0),
        ({"pred_answer": "(a)", "gt_answer": "A", "score": 1}, 1.0),  # mvbench
        ({"pred": 2, "ground_truth": "2"}, 1.0),  # egoschema_subset
        ({"parsed_pred": "B", "answer": "C", "id": 7}, 0.0),  # longvideobench_val_v
        ({"pred_answer": "B", "answer": "B", "score": 1.0, "videoID": "x"}, 1.0),  # videomme
        ({"video": 3}, None),
        (57.0, None),
        ("A", None),
    ],
)
def test_scores_of_metrics(value, score):
    assert score_of(value) == score


def test_errors_name_row_task_and_document(suite):
    path = Path(suite.model.task_dict["clips"]["test"][0]["video"])
    kept = path.read_bytes()
    suite.model.asker._latest = None
    path.write_bytes(b"")
    try:
        with pytest.raises(TokenredError, match=r"row 'aot': task clips, document 0: .* is empty"):
            list(suite.run(ROWS[1:2]))
    finally:
        path.write_bytes(kept)

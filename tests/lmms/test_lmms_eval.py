"""The real lmms-eval with the model ``tokenred``: its command line, its registry, its cache."""

import json
import os
import subprocess
import sys

import pytest
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model
from lmms_eval.tasks import TaskManager

import tokenred
from tokenred.embedded import MODEL_DIR
from tokenred.errors import TokenredError
from tokenred.integrations.lmms_eval import TokenredModel
from tokenred.models import attach

PIPELINE = "aot-paper"
RATIO = 0.1


@pytest.fixture(scope="module")
def said(clips):
    """What the embedded model answers without lmms-eval: question -> answer, tokens."""
    loaded = tokenred.load_model(MODEL_DIR, device="cpu")
    pipeline = tokenred.load_pipeline(PIPELINE, {"budget.retention_ratio": RATIO})
    answers = []
    for doc in clips[1]:
        clip = tokenred.read_video(doc["video"], 8)
        inputs = loaded.inputs(doc["question"], video=clip.frames, frame_times=clip.frame_times)
        with attach(loaded.model, pipeline) as session:
            output = loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
        (realised,) = session.realised
        n_prompt = inputs["input_ids"].shape[1]
        saved = realised.vanilla_tokens - realised.n_tokens
        answers.append((loaded.tokenizer.decode(output[0, n_prompt:]), n_prompt - saved))
    return answers


def evaluate(folder, args, tasks=("clips",), **options):
    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False)
    return simple_evaluate(
        model="tokenred",
        model_args=args,
        tasks=list(tasks),
        task_manager=manager,
        batch_size=1,
        bootstrap_iters=0,
        **options,
    )


def test_the_command_line_as_it_comes(clips, said, tmp_path):
    folder, docs = clips
    stats = tmp_path / "stats.jsonl"
    args = f"pretrained=embedded,pipeline={PIPELINE},retention_ratio={RATIO},max_frames_num=8"
    done = subprocess.run(
        [
            sys.executable, "-m", "lmms_eval",
            "--model", "tokenred", "--model_args", f"{args},stats={stats}",
            "--tasks", "clips", "--include_path", str(folder),
            "--batch_size", "1", "--output_path", str(tmp_path / "out"), "--log_samples",
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = tmp_path.glob("out/*/*_results.json")
    found = json.loads(results.read_text())
    right = [answer == doc["answer"] for (answer, _), doc in zip(said, docs, strict=True)]
    assert found["results"]["clips"]["acc,none"] == pytest.approx(sum(right) / len(right))
    assert 0.5 < sum(right) / len(right) < 1  # neither guessing nor trivially right
    (samples,) = tmp_path.glob("out/*/*_samples_clips.jsonl")
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [line["filtered_resps"] for line in lines] == [answer for answer, _ in said]
    counted = [line["token_counts"][0]["input_tokens"] for line in lines]
    assert counted == [n_tokens for _, n_tokens in said]
    throughput = found["throughput"]
    assert throughput["avg_visual_tokens"] == 40
    assert throughput["avg_vanilla_visual_tokens"] == 392
    each = [json.loads(line) for line in stats.read_text().splitlines()]
    assert [line["input_tokens"] for line in each] == counted
    assert {line["vanilla_input_tokens"] - line["input_tokens"] for line in each} == {392 - 40}
    assert each[0]["frame_indices"] == [list(range(8))]


def test_options_by_their_likelihood(clips, said):
    folder, docs = clips
    args = f"pretrained=embedded,pipeline={PIPELINE},retention_ratio={RATIO}"
    found = evaluate(folder, args, ["clips_options"], limit=5)
    for sample, (answer, n_tokens), doc in zip(found["samples"]["clips_options"], said, docs):
        losses = [loss for loss, _ in sample["filtered_resps"]]
        assert doc["options"][losses.index(min(losses))] == answer
        assert {counts["input_tokens"] for counts in sample["token_counts"]} == {n_tokens}
        assert sample["acc"] == float(answer == doc["answer"])


def test_the_registry_knows_the_class():
    assert get_model("tokenred") is TokenredModel
    assert TokenredModel.is_simple


# The response cache


def pipeline_file(folder, ratio):
    path = folder / "mine.yaml"
    path.write_text(f"extends: {PIPELINE}\nset: {{budget.retention_ratio: {ratio}}}\n")
    return path, tokenred.load_pipeline(path).config.config_id


def asked(monkeypatch):
    """Count the requests that reach the model."""
    count = []
    kept = TokenredModel.generate_until

    def counted(self, requests):
        count.append(len(requests))
        return kept(self, requests)

    monkeypatch.setattr(TokenredModel, "generate_until", counted)
    return count


def test_an_edited_pipeline_gets_no_answers_of_before(clips, tmp_path, monkeypatch):
    folder, count = clips[0], asked(monkeypatch)
    cache = {"use_cache": str(tmp_path / "cache"), "limit": 3}
    path, first = pipeline_file(tmp_path, 0.5)
    args = f"pretrained=embedded,pipeline={path},config_hash="
    evaluate(folder, args + first, **cache)
    evaluate(folder, args + first, **cache)
    assert count == [3]  # the second time lmms-eval asked its cache alone
    _, second = pipeline_file(tmp_path, 0.1)
    with pytest.raises(TokenredError, match=f"{first} is not the pipeline's.*{second}"):
        evaluate(folder, args + first, **cache)
    with pytest.raises(TokenredError, match=f"add config_hash={second}"):
        evaluate(folder, f"pretrained=embedded,pipeline={path}", **cache)
    assert count == [3]
    evaluate(folder, args + second, **cache)
    assert count == [3, 3]


# What goes wrong is said


def test_a_missing_video_ends_the_evaluation(clips, tmp_path):
    for path in clips[0].iterdir():
        if path.suffix in (".py", ".yaml"):
            (tmp_path / path.name).write_text(path.read_text())
    doc = {**clips[1][0], "video": str(tmp_path / "gone.mkv")}
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps(doc) + "\n")
    text = (tmp_path / "clips.yaml").read_text()
    (tmp_path / "clips.yaml").write_text(
        text.replace(str(clips[0] / "questions.jsonl"), str(questions))
    )
    with pytest.raises(TokenredError, match=r"task clips, document 0: .*gone.mkv does not exist"):
        evaluate(tmp_path, "pretrained=embedded,pipeline=vanilla")


def test_rounds_are_refused():
    model = TokenredModel(pretrained="embedded", pipeline="vanilla")
    with pytest.raises(TokenredError, match="multi-round"):
        model.generate_until_multi_round([])


def test_doctor_resolves_the_model(capsys):
    from tokenred.cli.doctor import lmms_findings

    found = {finding.name: finding for finding in lmms_findings()}
    assert {finding.state for finding in found.values()} == {"ok"}, found
    assert "0.7.3" in found["lmms-eval"].detail

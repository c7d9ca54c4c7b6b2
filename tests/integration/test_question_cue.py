"""The cue that comes from the question: whose words, and of which prompt."""

from dataclasses import replace

import pytest
import saved_models
import torch

import tokenred
from tests.attach_cases import CASES, make_inputs
from tokenred.errors import CapabilityError, InputError
from tokenred.evaluation.feature_cache import FeatureCache
from tokenred.evaluation.model import ModelSpec, VideoLlm
from tokenred.evaluation.task import Question, Sample
from tokenred.evaluation.worker import Worker
from tokenred.integrations.asking import Asker, Request
from tokenred.models import ModelSession, attach
from tokenred.models.inputs.media import MediaInput
from tokenred.pipeline import load_pipeline
from tokenred.testing.models import FAMILIES, synthetic_video, tiny_llava_onevision

TEXT = "text-similarity"
FIRST, SECOND = "what moves?", "how many digits are there now"
PIPELINE = {
    "name": "by-text",
    "budget": {"retention_ratio": 0.25},
    "stages": {
        "pool": {"kind": "pool", "mode": "model"},
        "frame": {
            "kind": "frame",
            "selector": {"name": "text-coverage", "of": "features", "alpha": 0.0},
        },
    },
}
"""Reads the question and nothing else."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    found = {}

    def load(name):
        if name not in found:
            folder = tmp_path_factory.mktemp("model")
            saved_models.save(name, folder)
            found[name] = folder, tokenred.load_model(folder, device="cpu")
        return found[name]

    return load


def video(name, seed=2, frames=4):
    return synthetic_video(frames, FAMILIES[name].frame_size[0], seed=seed).permute(0, 2, 3, 1)


def expected(model, clip, ids):
    words = model.get_input_embeddings()(ids).float()
    return clip.tokens.features.float() @ torch.nn.functional.normalize(words, dim=-1).T


@pytest.mark.parametrize("name", ["LLaVA-OneVision", "LLaVA-NeXT-Video", "Qwen2.5-VL", "Qwen3-VL"])
@torch.no_grad()
def test_every_family_compares_its_tokens_with_its_words(loaded, name):
    _, model = loaded(name)
    inputs = model.inputs(FIRST, video=video(name), frame_times=torch.arange(4).float())
    ids = model.question_ids(FIRST)
    (clip,) = model.session.encode(inputs, {TEXT}, (torch.arange(4).float(),), [ids])
    torch.testing.assert_close(clip.tokens.cues[TEXT], expected(model.model, clip, ids))
    (told,) = model.session.encode(inputs, {TEXT}, (torch.arange(4).float(),))
    assert told.tokens.cues[TEXT].shape[-1] >= len(ids)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_by_default_the_words_of_the_prompt_count_and_nothing_else(case):
    model, *_ = given = tiny_llava_onevision()
    inputs = make_inputs(given, *CASES[case])
    named = {model.config.video_token_id, model.config.image_token_id}
    ids, mask = inputs["input_ids"][0], inputs["attention_mask"][0].bool()
    end = int(ids[-1])
    left = [i for i in ids[mask].tolist() if i not in {*named, end}]
    model.generation_config.eos_token_id = [end]
    clip, *_ = ModelSession(model).encode(inputs, {TEXT})
    wanted = expected(model, clip, torch.tensor(left))
    torch.testing.assert_close(clip.tokens.cues[TEXT], wanted)


@torch.no_grad()
def test_each_prompt_of_a_batch_has_its_own_question():
    model, *_ = given = tiny_llava_onevision()
    for case in CASES.values():
        inputs = make_inputs(given, *case)
        n_rows = len(inputs["input_ids"])
        asked = [torch.arange(5, 8 + row) for row in range(n_rows)]
        rows = (inputs["input_ids"] == model.config.video_token_id).nonzero()[:, 0]
        with attach(model, PIPELINE, questions=asked) as attachment:
            model(**inputs)
        ends = torch.tensor([c.layout.n_placeholders for c in attachment.clips]).cumsum(0) - 1
        for clip, row in zip(attachment.clips, rows[ends].tolist(), strict=True):
            torch.testing.assert_close(clip.tokens.cues[TEXT], expected(model, clip, asked[row]))


def test_no_question_and_too_few_are_one_sentence():
    model, *_ = given = tiny_llava_onevision()
    inputs = make_inputs(given, *next(iter(CASES.values())))
    n_rows = len(inputs["input_ids"])
    none = [torch.zeros(0, dtype=torch.long)] * n_rows
    with attach(model, PIPELINE, questions=none), pytest.raises(InputError, match="has none"):
        model(**inputs)
    with (
        attach(model, PIPELINE, questions=none * 2),
        pytest.raises(InputError, match=f"questions are given for {n_rows} prompts"),
    ):
        model(**inputs)
    with pytest.raises(CapabilityError, match="there is no question"):
        ModelSession(model).check({TEXT})
    ModelSession(model).check({TEXT}, question=True)


def kept(pipeline, model, question):
    inputs = model.inputs(question, video=video("LLaVA-OneVision"))
    with attach(model.model, pipeline, questions=[model.question_ids(question)]) as attachment:
        model.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    return attachment.reduced[0].token_index.tolist()


def test_what_is_kept_follows_the_question_where_clips_are_kept_too(loaded):
    _, model = loaded("LLaVA-OneVision")
    pipeline = load_pipeline(PIPELINE)
    alone = [kept(pipeline, model, each) for each in (FIRST, SECOND)]
    assert alone[0] != alone[1]
    asker = Asker(model, pipeline)
    media = MediaInput("video", (video("LLaVA-OneVision"),), ((0, 1, 2, 3),), None)
    for question, wanted in zip((FIRST, SECOND), alone):
        request = Request("task/0", question, lambda: media, 0)
        ready = asker._prepare(request)
        inputs = model.inputs_of(question, ready.prepared)
        how = asker._how(request, ready, inputs)
        with model.session.attached(pipeline, **how) as attachment:
            model.model(**inputs)
        assert attachment.reduced[0].token_index.tolist() == wanted


@torch.no_grad()
def test_samples_with_several_questions_are_reduced_for_each(loaded, tmp_path):
    folder, model = loaded("LLaVA-OneVision")
    cache = FeatureCache(tmp_path / "cache", 1 << 30)
    llm = VideoLlm(ModelSpec(str(folder), device="cpu"), remember=cache)
    sample = Sample(
        "a film",
        video("LLaVA-OneVision"),
        (0, 1, 2, 3),
        torch.arange(4).float(),
        (Question("k", FIRST, ("yes", "no")), Question("k", SECOND, ("yes", "no"))),
    )
    pipeline = load_pipeline(PIPELINE)
    llm.check(pipeline.needs)
    encoded = llm.encode(sample, pipeline.needs)
    assert TEXT not in encoded.clip.tokens.cues
    both = [
        llm.reduce(encoded.about(n), pipeline, torch.Generator()).token_index.tolist()
        for n in range(2)
    ]
    assert both == [kept(pipeline, model, each) for each in (FIRST, SECOND)]

    class Task:
        answering, max_new_tokens = "likelihood", 1

    worker = Worker(Task(), llm)
    reduced, answers, _ = worker._answers(sample, encoded, pipeline, 0)
    each = llm.reduce(encoded.about(0), pipeline, torch.Generator()).realised
    assert reduced.realised.n_tokens == each.n_tokens
    assert len(reduced.realised.stages) == 2 * len(each.stages)
    for n, question in enumerate(sample.questions):
        one = replace(sample, questions=(question,))
        again = llm.encode(one, pipeline.needs)
        _, (answer,), _ = worker._answers(one, again, pipeline, 0)
        assert answer.scores == pytest.approx(answers[n].scores)
    assert cache.n_misses == 1
    assert cache.n_hits == 2

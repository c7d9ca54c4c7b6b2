"""Any model that ``load_model`` serves, under evaluation: tiny checkpoints of several families."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import saved_models
import torch
from attach_cases import forced

from tokenred.accounting import LlmShape
from tokenred.errors import InputError, TokenredError
from tokenred.evaluation.model import Answer, EvaluatedModel, ModelSpec, VideoLlm, revision_of
from tokenred.evaluation.task import Question, Sample
from tokenred.models import attach
from tokenred.pipeline import Pipeline, load_pipeline
from tokenred.testing.models import FAMILIES, synthetic_video

NAMES = ["LLaVA-OneVision", "Qwen2.5-VL", "Qwen3-VL"]
PIPELINES = {
    "vanilla": {},
    "aot-paper": {"budget.retention_ratio": 0.5},
    "fastv": {},
}
N_FRAMES, LONGEST = 4, 5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in found:
            found[name] = tmp_path_factory.mktemp("model")
            saved_models.save(name, found[name])
        return found[name]

    return folder


@pytest.fixture(scope="module")
def models(folders: Callable[[str], Path]) -> Callable[[str], VideoLlm]:
    found: dict[str, VideoLlm] = {}

    def model(name: str) -> VideoLlm:
        if name not in found:
            found[name] = VideoLlm(ModelSpec(str(folders(name)), device="cpu", dtype="float32"))
            found[name]._loaded.model.double()  # so that two ways of computing agree closely
        return found[name]

    return model


def sample(name: str) -> Sample:
    frames = synthetic_video(N_FRAMES, FAMILIES[name].frame_size[0], seed=2)
    return Sample(
        id="a film",
        frames=frames.permute(0, 2, 3, 1).contiguous(),
        frame_indices=tuple(range(N_FRAMES)),
        frame_times=torch.arange(N_FRAMES) * 0.5,
        questions=(
            Question("story", "what happens, and why does it?"),
            Question("colour", "which colour is the square?", ("red", "white", "blue"), ("white",)),
            Question("letter", "which?\nA. red\nB. white", ("A", "B"), ("B",)),
        ),
    )


def answers(
    model: VideoLlm, one: Sample, pipeline: Pipeline, answering: str = "likelihood"
) -> list[Answer]:
    with torch.inference_mode():
        encoded = model.encode(one, pipeline.needs)
        reduced = model.reduce(encoded, pipeline, torch.Generator().manual_seed(0))
        return model.answers(encoded, reduced, one, pipeline, answering, LONGEST)


def asked(model: VideoLlm, one: Sample, question: Question, pipeline: Pipeline) -> Any:
    """Return a context in which the ordinary way answers, and its inputs."""
    inputs = model._loaded.inputs(question.prompt, video=one.frames, frame_times=one.frame_times)
    return attach(model._loaded.model, pipeline, frame_times=[one.frame_times]), inputs


CASES = [(name, preset) for name in NAMES for preset in PIPELINES]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_likelihoods_are_those_of_the_ordinary_way(
    models: Callable[[str], VideoLlm], name: str, preset: str
) -> None:
    model, one = models(name), sample(name)
    assert isinstance(model, EvaluatedModel)
    pipeline = load_pipeline(preset, PIPELINES[preset])
    found = answers(model, one, pipeline)
    tokenizer = model._loaded.tokenizer
    for answer, question in zip(found, one.questions, strict=True):
        assert list(answer.scores) == list(question.options)
        context, inputs = asked(model, one, question, pipeline)
        with context as session, torch.no_grad():
            output = model._loaded.model(**inputs, output_hidden_states=True)
            likely = output.logits[0, -1].float().log_softmax(-1)
            assert (answer.log_probs - likely).abs().max() < 1e-4
            assert (output.hidden_states[-1][0, -1] - answer.state).abs().max() < 1e-4
            assert answer.layer_tokens == next(iter(session.layer_tokens), ())
            for option, score in answer.scores.items():
                ids = torch.tensor(tokenizer(option, add_special_tokens=False).input_ids)
                assert score == pytest.approx(forced(model._loaded.model, inputs, ids), abs=1e-4)
    assert bool(found[0].layer_tokens) == (preset == "fastv")
    assert [bool(answer.text) for answer in found[1:]] == [False, False]


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_what_is_written_is_what_generate_writes(
    models: Callable[[str], VideoLlm], name: str, preset: str
) -> None:
    model, one = models(name), sample(name)
    pipeline = load_pipeline(preset, PIPELINES[preset])
    written = answers(model, one, pipeline, "generation")
    likely = answers(model, one, pipeline)
    tokenizer = model._loaded.tokenizer
    for answer, other, question in zip(written, likely, one.questions, strict=True):
        assert answer.scores == {}
        context, inputs = asked(model, one, question, pipeline)
        with context as session:
            output = model._loaded.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
            assert answer.layer_tokens == next(iter(session.layer_tokens), ())
        made = output[0, inputs["input_ids"].shape[1] :]
        assert answer.text == tokenizer.decode(made, skip_special_tokens=True).strip()
        # both ways of answering look at the same next token
        assert (answer.log_probs - other.log_probs).abs().max() < 1e-4
        assert (answer.state - other.state).abs().max() < 1e-4
    assert any(answer.text for answer in written)
    assert written[0].text == likely[0].text  # free text is written either way


@pytest.mark.parametrize("name", NAMES)
def test_what_is_reduced_depends_on_the_pipeline_alone(
    models: Callable[[str], VideoLlm], name: str
) -> None:
    model, one = models(name), sample(name)
    pipeline = load_pipeline("aot-paper", PIPELINES["aot-paper"])
    with torch.inference_mode():
        encoded = model.encode(one, pipeline.needs)
        reduced = model.reduce(encoded, pipeline, torch.Generator())
        whole = model.reduce(encoded, load_pipeline("vanilla"), torch.Generator())
    realised = reduced.realised
    assert realised.n_tokens < whole.realised.n_tokens
    assert whole.realised.retention_ratio == 1
    context, inputs = asked(model, one, one.questions[0], pipeline)
    with context as session, torch.no_grad():
        model._loaded.model(**inputs)
    assert session.realised[0].n_tokens == realised.n_tokens
    assert session.realised[0].newline_tokens == realised.newline_tokens


class TestRevision:
    @pytest.fixture
    def folder(self, folders: Callable[[str], Path], tmp_path: Path) -> Path:
        return Path(shutil.copytree(folders("LLaVA-OneVision"), tmp_path / "model"))

    @staticmethod
    def revision(folder: Path, dtype: str = "float32") -> str:
        return VideoLlm(ModelSpec(str(folder), device="cpu", dtype=dtype)).revision

    def test_a_copy_elsewhere_is_the_same_model(self, folder: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(folder, tmp_path / "another name"))
        assert self.revision(folder) == self.revision(other)

    def test_it_changes_with_the_precision(self, folder: Path) -> None:
        assert self.revision(folder) != self.revision(folder, "bfloat16")
        assert self.revision(folder).endswith("-float32")

    def test_it_changes_with_weights_settings_and_tokenizer(self, folder: Path) -> None:
        found = [self.revision(folder)]
        weights = bytearray((folder / "model.safetensors").read_bytes())
        weights[len(weights) // 2] ^= 1
        (folder / "model.safetensors").write_bytes(weights)
        found.append(self.revision(folder))
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        settings["image_mean"] = [0.4, 0.4, 0.4]
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
        found.append(self.revision(folder))
        chat = folder / "chat_template.jinja"
        chat.write_text(chat.read_text().replace("USER", "HUMAN") + " ")
        found.append(self.revision(folder))
        assert len(set(found)) == 4


def test_words_that_a_model_does_not_know_are_no_question() -> None:
    """The embedded model knows few words, and would read the others as one."""
    model = VideoLlm()
    frames = torch.zeros(8, 104, 104, 3, dtype=torch.uint8)

    def ask(question: Question) -> None:
        times = torch.arange(8, dtype=torch.float32)
        model.encode(Sample("x", frames, tuple(range(8)), times, (question,)), frozenset())

    ask(Question("colour", "what color is 3", ("red", "blue")))
    with pytest.raises(InputError, match="the embedded model does not know 'colour'"):
        ask(Question("colour", "what colour is 3", ("red", "blue")))
    with pytest.raises(InputError, match=r"embedded .* has no token for parts of 'crimson'"):
        ask(Question("colour", "what color is 3", ("red", "crimson")))
    with pytest.raises(InputError, match="no token for parts of ''"):
        ask(Question("colour", "what color is 3", ("red", "")))


def test_the_embedded_model_is_known_before_it_is_loaded() -> None:
    loads: list[bool] = []
    model = VideoLlm(on_load=lambda: loads.append(True))
    revision, shape = model.revision, model.shape
    assert not loads
    loaded = model._loaded
    assert loads == [True]
    assert revision == revision_of(loaded)
    assert shape == LlmShape.of(loaded.model.config.text_config)
    narrow = VideoLlm(ModelSpec(dtype="bfloat16")).revision
    assert narrow == revision.replace("float32", "bfloat16")


def test_a_folder_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TokenredError) as caught:
        VideoLlm(ModelSpec(str(tmp_path), device="cpu"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)

"""Parts of loading that need no model: prompts, settings, memory, and what the hub answers."""

import json

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from saved_models import MARK_ALONE, MARKS_AROUND, block_network

from tokenred.errors import InputError
from tokenred.models.inputs.prompting import chat_prompt
from tokenred.models.loading import memory
from tokenred.models.loading.checkpoint import find_checkpoint
from tokenred.models.loading.memory import count_text, free_memory, size_text
from tokenred.testing.models import byte_tokenizer

# Prompts

AROUND = [("<|vision_start|>", "<|vision_end|>")]
TEXT_ALONE = "{% for m in messages %}[{{ m.role }}] {{ m.content + '' }}{% endfor %}"
TEXT_ALONE_SILENT = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"


def prompt(template, question="what moves?", kind="video", placeholder="<video>", around=()):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return chat_prompt(tokenizer, question, kind, placeholder, around)


def test_without_a_template_the_question_follows_the_mark():
    assert prompt(None) == "<video>\nwhat moves?"
    assert prompt(None, kind="image", placeholder="<image>") == "<image>\nwhat moves?"


def test_a_template_with_the_mark_alone():
    assert prompt(MARK_ALONE) == "USER: <video>\nwhat moves? ASSISTANT:"


@pytest.mark.parametrize("kind", ["image", "video"])
def test_marks_around_the_placeholder_go_where_the_picture_brings_its_own(kind):
    pad = f"<|{kind}_pad|>"
    asked = "what moves?<|im_end|>\n<|im_start|>assistant\n"
    whole = prompt(MARKS_AROUND, kind=kind, placeholder=pad, around=AROUND)
    assert whole == f"<|im_start|>user\n<{kind}>{asked}"
    kept = prompt(MARKS_AROUND, kind=kind, placeholder=pad)
    assert kept == f"<|im_start|>user\n<|vision_start|><{kind}><|vision_end|>{asked}"


@pytest.mark.parametrize("template", [TEXT_ALONE, TEXT_ALONE_SILENT])
def test_a_template_that_knows_text_alone_gets_the_mark_as_text(template):
    assert prompt(template) == "[user] <video>\nwhat moves?"
    assert prompt(template, placeholder="<|video_pad|>") == "[user] <video>\nwhat moves?"


@pytest.mark.parametrize(
    "template", ["nothing at all", "{{ raise_exception('no') }}", "{{ messages[0].content[0] }}"]
)
def test_a_template_without_a_place_is_refused(template):
    with pytest.raises(InputError, match="no place for one video"):
        prompt(template)


@pytest.mark.parametrize("question", ["<video>?", "an <image> here?", "<|video_pad|>"])
def test_a_question_cannot_smuggle_in_a_picture(question):
    with pytest.raises(InputError, match="cannot hold the mark"):
        prompt(None, question, placeholder="<|video_pad|>")


def test_a_template_that_trims_finds_its_question():
    template = "{% for m in messages %}{{ m.content[0].type }} <video> {{ m.content[1].text | trim }}{% endfor %}"  # noqa: E501
    assert prompt(template, "  what moves? ") == "video <video> what moves?"


def test_the_start_token_stands_once():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = "<|im_start|>" + MARK_ALONE
    written = chat_prompt(tokenizer, "what moves?", "video", "<video>")
    assert written.startswith("<|im_start|>USER")  # nobody else writes it
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start[0]} $A", special_tokens=[start]
    )
    added = chat_prompt(tokenizer, "what moves?", "video", "<video>")
    assert added.startswith("USER")
    assert tokenizer(added).input_ids == tokenizer(written, add_special_tokens=False).input_ids


# Files of a checkpoint


@pytest.fixture
def write(tmp_path):
    def write(**files):
        (tmp_path / "config.json").write_text("{}")
        for name, content in files.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return find_checkpoint(str(tmp_path))

    return write


def test_settings_of_older_checkpoints(write):
    assert write().settings == {"image": {}, "video": {}}
    old = write(preprocessor_config={"min_pixels": 1, "max_pixels": None})
    assert old.settings == {"image": {"min_pixels": 1}, "video": {"min_pixels": 1}}
    both = write(video_preprocessor_config={"min_pixels": 2})
    assert both.settings == {"image": {"min_pixels": 1}, "video": {"min_pixels": 2}}


def test_settings_of_newer_checkpoints_go_first(write):
    old = {"preprocessor_config": {"min_pixels": 1}, "video_preprocessor_config": {"size": 2}}
    assert write(**old, processor_config={"processor_class": "X"}).settings["video"] == {"size": 2}
    new = {"image_processor": {"min_pixels": 3}, "video_processor": {"min_pixels": 4}}
    found = write(**old, processor_config=new).settings
    assert found == {"image": {"min_pixels": 3}, "video": {"min_pixels": 4}}


def test_the_template_of_the_processor_in_either_format(write, tmp_path):
    assert write().chat_template is None
    assert write(chat_template={"chat_template": "old"}).chat_template == "old"
    (tmp_path / "chat_template.jinja").write_text("new")
    assert write().chat_template == "new"


def test_the_size_to_download_stands_in_the_index(write):
    index = {"metadata": {"total_size": 7}, "weight_map": {"a": "1", "b": "2", "c": "1"}}
    checkpoint = write(**{"model.safetensors.index": index})
    assert checkpoint.weight_names == checkpoint.missing_weights == ["1", "2"]
    assert checkpoint.n_bytes_on_disk == 7
    del index["metadata"]
    assert write(**{"model.safetensors.index": index}).n_bytes_on_disk is None


# The hub

HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Return the folder of a model that was downloaded once, in a cache of its own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(HASH)
    folder = model / "snapshots" / HASH
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "cached"}')
    return folder


def test_a_downloaded_model_is_found_without_the_hub(cached, monkeypatch):
    block_network(monkeypatch)
    for revision in (None, "main", HASH):
        found = find_checkpoint("someone/model", revision=revision, local_files_only=True)
        assert (found.folder, found.revision) == (cached, HASH)
        assert found.config == {"model_type": "cached"}


def test_a_folder_goes_before_the_hub(cached, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "model").mkdir(parents=True)
    (tmp_path / "someone" / "model" / "config.json").write_text("{}")
    assert find_checkpoint("someone/model", local_files_only=True).revision is None


@pytest.mark.parametrize("name", ["someone/other", "someone/model/extra", "../model", "/model"])
def test_what_is_not_here_is_one_sentence(cached, monkeypatch, name):
    block_network(monkeypatch)
    with pytest.raises(InputError, match=f"from {name}: there is no such folder") as caught:
        find_checkpoint(name, local_files_only=True)
    assert ("not downloaded" in str(caught.value)) == (name == "someone/other")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.GatedRepoError, "its owner asks you to log in"),
        (errors.RepositoryNotFoundError, "on the hub no such model that you may read"),
        (errors.RevisionNotFoundError, "it has no revision 'v1'"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached"),
        (errors.OfflineModeIsEnabled, "the hub cannot be reached"),
        (errors.HfHubHTTPError, "no"),
        (ConnectionError, "no"),
    ],
)
def test_what_the_hub_says_becomes_one_sentence(monkeypatch, error, reason):
    def refuse(*_, **__):
        raise error.__new__(error, "no")  # whatever HTTP client stands behind it

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError) as caught:
        find_checkpoint("someone/model", revision="v1")
    assert str(caught.value).startswith("no model can be loaded from someone/model: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_code_is_fetched_only_when_it_is_trusted(cached, monkeypatch):
    asked = []

    def download(name, *, allow_patterns, **_):
        asked.append(allow_patterns)
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    find_checkpoint("someone/model")
    found = find_checkpoint("someone/model", with_code=True)
    found.fetch_weights()
    assert "*.py" not in asked[0]
    assert not any("safetensors" in pattern for pattern in asked[0])
    assert "*.py" in asked[1]
    assert asked[2] == ["model.safetensors"]


# Memory


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    cpu = torch.device("cpu")
    assert free_memory(cpu) is None
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  4 kB\n")
    assert free_memory(cpu) == 4096
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(cpu) == 4096
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_memory(cpu) == 2500
    assert free_memory(torch.device("meta")) is None


def test_sizes_in_words():
    assert size_text(16_060_000_000) == "16.1 GB"
    assert size_text(4_400_000) == "4.4 MB"
    assert size_text(1_100) == "1.1 kB"
    assert count_text(8_030_000_000) == "8.03 B"
    assert count_text(188_640) == "0.19 M"

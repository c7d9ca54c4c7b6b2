"""A model that was saved is loaded again, or one sentence says why not; never a network."""

import json
import sys

import pytest
import saved_models
import torch
from safetensors.torch import load_file, save_file

import tokenred
from tokenred.errors import CapabilityError, ConfigError, InputError, TokenredError
from tokenred.models.loading import model as loading
from tokenred.models.loading.memory import size_text
from tokenred.plugins import load_registry
from tokenred.testing.models import FAMILIES, synthetic_video

FAMILY = "LLaVA-OneVision"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    saved_models.block_network(monkeypatch)


@pytest.fixture(scope="module")
def originals():
    return {}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, originals):
    """Return the folder with a saved tiny model of a family."""
    found = {}

    def folder(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp("model")
            originals[name] = saved_models.save(name, found[name])
        return found[name]

    return folder


@pytest.fixture
def folder(tmp_path):
    """A folder of its own, to be spoilt."""
    saved_models.save(FAMILY, tmp_path)
    return tmp_path


def change(path, **changes):
    found = json.loads(path.read_text())
    found = {**found, **changes}
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def picture(name):
    """Return a video for ``inputs``, or an image for a family that reads images only."""
    frames = synthetic_video(4, FAMILIES[name].frame_size[0]).permute(0, 2, 3, 1)
    return {"video": frames} if "video" in FAMILIES[name].media else {"image": frames[0]}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loaded_model_is_the_saved_one(folders, originals, name):
    folder = folders(name)
    loaded = tokenred.load_model(folder, device="cpu")
    model, _ = originals[name]
    assert type(loaded.model) is type(model)
    assert not loaded.model.training
    assert (loaded.name, loaded.revision) == (str(folder), None)
    assert loaded.settings["video"] == dict(FAMILIES[name].settings)
    inputs = loaded.inputs("what moves?", **picture(name))
    assert torch.equal(logits(loaded.model, inputs), logits(model, inputs))


@pytest.mark.parametrize("name", FAMILIES)
def test_its_inputs_are_those_of_the_family(folders, originals, name):
    """The template's placeholder gives way to what the family's own ``prepare`` puts there."""
    loaded = tokenred.load_model(folders(name), device="cpu")
    family, (model, tokenizer) = FAMILIES[name], originals[name]
    frames = synthetic_video(4, family.frame_size[0])
    if "Qwen" in name:
        prompts = "<|im_start|>user\n<{}>what moves?<|im_end|>\n<|im_start|>assistant\n"
    else:
        prompts = "USER: <{}>\nwhat moves? ASSISTANT:"
    cases = {
        "video": ({"video": frames.permute(0, 2, 3, 1)}, {"videos": [frames]}),
        "image": ({"image": frames[0].permute(1, 2, 0)}, {"images": [frames[0]]}),
    }
    for kind in family.media:
        given, plain = cases[kind]
        found = loaded.inputs("what moves?", **given)
        expected = family.inputs(model, tokenizer, [prompts.format(kind)], **plain)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_runs_reduced(folders, name):
    loaded = tokenred.load_model(folders(name), device="cpu", dtype="bfloat16")
    assert loaded.model.dtype == loaded.plan.dtype == torch.bfloat16
    inputs = loaded.inputs("what moves?", **picture(name))
    with tokenred.attach(loaded.model, "vanilla") as session:
        output = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    whole = loaded.model.generate(**inputs, max_new_tokens=2, do_sample=False)
    assert torch.equal(output, whole)
    assert session.realised[0].retention_ratio == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plan_comes_first_and_is_right(folders, originals, monkeypatch, name):
    plans = []
    model, _ = originals.get(name) or (folders(name), originals[name])[1]
    monkeypatch.setattr(
        type(model), "from_pretrained", lambda *_, **__: pytest.fail("loaded before the plan")
    )

    def on_plan(plan):
        plans.append(plan)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenred.load_model(folders(name), device="cpu", dtype="float16", on_plan=on_plan)
    (plan,) = plans
    assert plan.n_parameters == sum(each.numel() for each in model.parameters())
    assert plan.n_bytes == 2 * plan.n_parameters
    assert plan.disk_bytes == (folders(name) / "model.safetensors").stat().st_size
    assert plan.downloaded
    assert f"{plan.n_parameters / 1e6:.2f} M parameters" in str(plan)
    assert "float16 on cpu" in str(plan)


def test_auto_takes_the_dtype_of_the_checkpoint(folder):
    loaded = tokenred.load_model(folder, dtype="bfloat16", device="cpu")
    loaded.model.save_pretrained(folder)
    assert tokenred.load_model(folder, device="cpu").model.dtype == torch.bfloat16
    change(folder / "config.json", dtype=None, torch_dtype=None)
    config = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        config[part].pop("dtype", None)
    (folder / "config.json").write_text(json.dumps(config))
    assert tokenred.load_model(folder, device="cpu").model.dtype == torch.bfloat16


def test_the_callers_random_state_is_left_alone(folder):
    before = torch.random.get_rng_state()
    tokenred.load_model(folder, device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())


def test_shards_are_found_through_their_index(folder):
    model, _ = FAMILIES[FAMILY].build()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="200KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    loaded = tokenred.load_model(folder, device="cpu")
    assert loaded.plan.disk_bytes == sum(shard.stat().st_size for shard in shards)
    shards[1].unlink()
    with pytest.raises(InputError, match=f"the folder lacks {shards[1].name}"):
        tokenred.load_model(folder, device="cpu", on_plan=pytest.fail)


def refusal(error, folder, **options):
    """Return the one sentence that a load ends in."""
    with pytest.raises(error) as caught:
        tokenred.load_model(folder, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_is_refused_unless_forced(folder, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: 1000)
    sentence = refusal(TokenredError, folder)
    assert "needs 754.6 kB in float32, but 1.0 kB are free on cpu" in sentence
    assert tokenred.load_model(folder, device="cpu", force=True).plan.free_bytes == 1000


def test_where_nobody_says_what_is_free_it_is_tried(folder, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: None)
    assert "unknown how much is free" in str(tokenred.load_model(folder, device="cpu").plan)


def test_another_class_is_refused_with_what_is_supported(folder):
    change(folder / "config.json", architectures=["BertModel"])
    sentence = refusal(CapabilityError, folder)
    assert "no adapter for BertModel" in sentence
    assert "supported: Llava" in sentence
    assert "LlavaMetaForCausalLM" not in sentence  # nothing here could load it
    change(folder / "config.json", architectures=None)
    assert "without architectures" in refusal(CapabilityError, folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_truncated_weights_are_damaged(folder, share):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "model.safetensors is damaged" in refusal(InputError, folder)


def test_missing_tensors_are_not_drawn_at_random(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("mlp.down_proj.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    sentence = refusal(InputError, folder)
    assert "its weights lack 1 tensors" in sentence
    assert "mlp.down_proj.weight" in sentence


def test_tensors_of_another_size_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] *= 2
    (folder / "config.json").write_text(json.dumps(config))
    assert f"no model can be loaded from {folder}" in refusal(InputError, folder)


def test_a_folder_without_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "it has no tokenizer" in refusal(InputError, folder)


def test_a_tokenizer_of_another_model_is_refused(folder):
    from tokenred.embedded import load_tokenizer

    load_tokenizer().save_pretrained(folder)
    assert "its tokenizer has no token" in refusal(InputError, folder)


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    refusal(InputError, folder)


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    assert "config.json" in refusal(InputError, folder)


def test_a_config_with_nonsense_is_refused(folder):
    change(folder / "config.json", text_config={"model_type": "qwen2", "hidden_size": "wide"})
    assert f"no model can be loaded from {folder}" in refusal(InputError, folder)


def test_folders_without_anything(tmp_path):
    assert "it has no config.json" in refusal(InputError, tmp_path)
    assert "there is no such folder" in refusal(InputError, tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "that is a file, not a folder" in refusal(InputError, tmp_path / "file")
    assert "has no revisions" in refusal(InputError, tmp_path, revision="main")


def test_devices_and_dtypes_that_are_none(folder):
    assert "is not a device" in refusal(ConfigError, folder, device="toaster")
    assert "there is no device cuda:77" in refusal(CapabilityError, folder, device="cuda:77")
    assert "did you mean 'bfloat16'?" in refusal(ConfigError, folder, dtype="bfloat61")
    assert tokenred.load_model(folder, device="cpu", dtype=torch.float16).plan.dtype.itemsize == 2


def test_a_tokenizer_without_padding_gets_some(folder):
    change(folder / "tokenizer_config.json", pad_token=None, padding_side="right")
    loaded = tokenred.load_model(folder, device="cpu")
    assert loaded.tokenizer.pad_token == "<|im_end|>"
    assert loaded.tokenizer.padding_side == "left"
    loaded.inputs("what moves?", **picture(FAMILY))


def test_an_unsupported_transformers_is_said_first(folder, monkeypatch):
    monkeypatch.setattr("transformers.__version__", "4.57.0")
    sentence = refusal(CapabilityError, folder, on_plan=pytest.fail)
    assert "needs transformers 5.10 or newer" in sentence


def test_what_is_not_here_yet_is_announced_as_a_download(folder, monkeypatch):
    """A model of the hub whose small files are here, and its weights are not."""
    import huggingface_hub

    path = folder / "model.safetensors"
    weights = path.read_bytes()
    path.unlink()
    index = {"metadata": {"total_size": len(weights)}, "weight_map": {"all": path.name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    asked = []

    def download(name, *, allow_patterns, **_):
        asked.append(allow_patterns)
        if path.name in allow_patterns:
            path.write_bytes(weights)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    plans = []
    tokenred.load_model("someone/model", device="cpu", on_plan=plans.append)
    assert f"({size_text(len(weights))} to download)" in str(plans[0])
    assert asked[1:] == [[path.name]]


def test_inputs_take_one_picture(folder):
    loaded = tokenred.load_model(folder, device="cpu")
    video = picture(FAMILY)
    for given in ({}, {**video, "image": video["video"][0]}):
        with pytest.raises(ConfigError, match="a video or an image"):
            loaded.inputs("what moves?", **given)


def test_only_the_caller_chooses_the_attention(folder):
    change(folder / "config.json", attn_implementation="someone/kernel")
    loaded = tokenred.load_model(folder, device="cpu")
    assert loaded.model.config._attn_implementation == "sdpa"
    loaded = tokenred.load_model(folder, device="cpu", attn_implementation="eager")
    assert loaded.model.config.text_config._attn_implementation == "eager"


# Code in a checkpoint

CODE = """
from pathlib import Path
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

Path({proof!r}).write_text("this code ran")

class OwnConfig(LlavaOnevisionConfig):
    pass

class OwnModel(LlavaOnevisionForConditionalGeneration):
    config_class = OwnConfig
"""


@pytest.fixture
def with_code(folder, tmp_path_factory, monkeypatch):
    """Put code into the folder that leaves a proof that it ran."""
    from transformers import dynamic_module_utils

    modules = tmp_path_factory.mktemp("modules")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", list(sys.path))
    proof = modules / "proof"
    # Under the names that they have in memory: transformers translates for its own classes alone.
    weights = FAMILIES[FAMILY].build()[0].state_dict()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "own.py").write_text(CODE.format(proof=str(proof)))
    auto_map = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForImageTextToText": "own.OwnModel",
        "AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"],
    }
    change(folder / "config.json", auto_map=auto_map)
    change(folder / "tokenizer_config.json", auto_map=auto_map)
    return proof


def test_code_of_a_checkpoint_does_not_run(folder, with_code):
    loaded = tokenred.load_model(folder, device="cpu")
    assert type(loaded.model).__module__.startswith("transformers.")
    change(folder / "config.json", architectures=["OwnModel"], model_type="own")
    sentence = refusal(CapabilityError, folder)
    assert "no adapter for OwnModel" in sentence
    assert "code of its own, which runs only if you trust it" in sentence
    assert not with_code.exists()


def test_code_of_a_checkpoint_runs_for_whoever_trusts_it(folder, with_code):
    change(folder / "config.json", architectures=["OwnModel"])
    change(folder / "tokenizer_config.json", auto_map=None)
    loaded = tokenred.load_model(folder, device="cpu", trust_remote_code=True)
    assert type(loaded.model).__name__ == loaded.plan.model_class == "OwnModel"
    assert loaded.adapter.model_class == "LlavaOnevisionForConditionalGeneration"
    assert with_code.read_text() == "this code ran"


def test_trusted_code_must_be_of_a_supported_kind(folder, with_code):
    change(folder / "config.json", architectures=["Other"])
    change(folder / "tokenizer_config.json", auto_map=None)
    code = CODE.format(proof=str(with_code)) + "\nclass Other: pass\n"
    (folder / "own.py").write_text(code)
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Other"}
    change(folder / "config.json", auto_map=auto_map)
    assert "no adapter for Other" in refusal(CapabilityError, folder, trust_remote_code=True)


def test_checkpoints_of_the_llava_package_need_its_distribution(folder, monkeypatch):
    from tokenred.models import adapter
    from tokenred.models.loading import recipe

    registry, _ = load_registry(third_party=False)
    for module in (adapter, recipe):
        monkeypatch.setattr(module, "registry", lambda: registry)
    change(folder / "config.json", architectures=["LlavaQwenForCausalLM"], model_type="llava_qwen")
    assert "distribution tokenred-llava serves" in refusal(CapabilityError, folder)

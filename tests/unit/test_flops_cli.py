"""``tokenred flops``: figures, terms, JSON and exit codes."""

import json

import pytest

from tokenred.accounting import FORMULAS, SHAPES, decode_flops, prefill_flops
from tokenred.cli import main


@pytest.fixture
def flops(capsys):
    """Run the verb in this process; return exit code, stdout, stderr."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(["flops", *arguments])
        streams = capsys.readouterr()
        return stop.value.code or 0, streams.out, streams.err

    return call


def test_every_term_is_printed_with_its_value(flops):
    code, out, err = flops("qwen2-7b", "--retention-ratio", "0.1")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["FFN", "2", "n", "d", "m", "2.433", "23.847", "10.2%"] in lines
    assert ["prefill", "3.436", "40.765", "8.4%"] in lines
    assert ["attention", "to", "the", "prompt", "2", "R", "n", "d"] in [line[:8] for line in lines]
    assert ["n", "28x640", "(layers", "x", "tokens);", "vanilla", "28x6272"] in lines
    assert "d = 3584, m = 18944\n" in out


@pytest.mark.parametrize("formula", FORMULAS)
def test_json_holds_the_exact_numbers(flops, formula):
    _, out, _ = flops(
        "qwen2-7b", "--retention-ratio", "0.1", "--generated", "7", "--formula", formula, "--json"
    )
    data, shape = json.loads(out), SHAPES["qwen2-7b"]
    prefill, decode = prefill_flops(640, shape, formula), decode_flops(640, shape, 7, formula)
    for part, cost in (("prefill", prefill), ("decode", decode)):
        assert data[part]["flops"] == cost.total
        assert [(t["name"], t["expression"], t["flops"]) for t in data[part]["terms"]] == [
            (term.name, term.expression, term.value) for term in cost.terms
        ]
    vanilla = prefill_flops(6272, shape, formula).total
    assert data["prefill"]["share"] == prefill.total / vanilla
    assert data["total"]["flops"] == prefill.total + decode.total
    assert (data["formula"], data["n_generated"]) == (formula, 7)


def test_a_schedule_inside_the_llm(flops):
    _, out, _ = flops("qwen2-7b", "--schedule", "18x640,10x320", "--json")
    data = json.loads(out)
    assert data["schedule"] == "18x640,10x320"
    assert round(100 * data["prefill"]["share"], 1) == 6.9


def test_text_tokens_are_added_to_both(flops):
    _, out, _ = flops("qwen2-7b", "--retention-ratio", "0.1", "--text-tokens", "20", "--json")
    data = json.loads(out)
    assert (data["schedule"], data["vanilla_schedule"]) == ("28x660", "28x6292")


def test_frames_and_grid_can_be_given(flops):
    _, out, _ = flops(
        "qwen2-7b", "--frames", "64", "--tokens-per-frame", "169", "--retention-ratio", "0.15"
    )
    assert "28x1664 (layers x tokens); vanilla 28x10816" in out
    assert any(line.split() == ["prefill", "9.276", "80.164", "11.6%"] for line in out.splitlines())


def test_the_embedded_model_is_the_default(flops):
    _, out, _ = flops("--json")
    data = json.loads(out)
    assert (data["model"], data["n_layers"]) == ("embedded", 4)
    assert data["sizes"] == {"d": 128, "m": 384, "q": 128, "k": 64}
    assert data["schedule"] == data["vanilla_schedule"] == "4x392"
    assert data["prefill"]["share"] == 1


def test_a_folder_needs_no_weights(flops, tmp_path):
    config = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_qwen", **config}))
    code, out, err = flops(str(tmp_path), "--formula", "gqa-swiglu")
    assert (code, err) == (0, "")
    assert "3 layers, d = 64, m = 160, q = 64, k = 32" in out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["qwen2-7"], 2, "did you mean 'qwen2-7b'?"),
        (["qwen2-7b", "--formula", "pap"], 2, "did you mean 'paper'?"),
        (["qwen2-7b", "--retention-ratio", "0"], 2, "retention_ratio: a share lies in (0, 1]"),
        (["qwen2-7b", "--schedule", "3x4"], 2, "the LLM has 28 layers, '3x4' has 3"),
        (["qwen2-7b", "--schedule", "28"], 2, "write LAYERSxTOKENS"),
        (["--schedule", "4x9", "--retention-ratio", "0.1"], 2, "not both"),
        (["qwen2-7b", "--frames", "0"], 2, "'--frames'"),
        (["experts"], 1, "mixture of experts"),
        (["empty"], 1, "does not exist"),
    ],
)
def test_faults_end_in_one_sentence(flops, tmp_path, monkeypatch, arguments, exit_code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "experts").write_text(json.dumps({"hidden_size": 8, "num_experts": 4}))
    code, out, err = flops(*arguments)
    assert (code, out) == (exit_code, "")
    assert message in err

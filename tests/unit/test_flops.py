"""FLOPs formulas against published figures and recorded values; schedules; shapes of LLMs."""

import json
import math
import subprocess
import sys
from copy import deepcopy

import pytest

from tokenred.accounting import (
    FORMULAS,
    SHAPES,
    LlmShape,
    decode_flops,
    find_shape,
    parse_schedule,
    prefill_flops,
    schedule_of,
    schedule_text,
)
from tokenred.errors import ConfigError, InputError

QWEN2_7B = SHAPES["qwen2-7b"]
FRAMES, TOKENS_PER_FRAME = 32, 196
VANILLA = FRAMES * TOKENS_PER_FRAME
HOLITOM = [640] * 18 + [320] * 10

# Recorded from an independent computation: schedule -> paper, sparsevlm, gqa-swiglu.
REFERENCE = {
    "28x6272": (40765480763392, 52688981065728, 48821899886592),
    "28x1568": (8711003176960, 11691878252544, 10725107957760),
    "28x1280": (7037035479040, 9470402887680, 8681202647040),
    "28x960": (5216120340480, 7041145896960, 6449245716480),
    "28x640": (3436309381120, 4652993085440, 4258392965120),
    "28x10816": (80163836526592, 100725791129600, 94057049096192),
    "28x11648": (88275335249920, 110418978668544, 103237256478720),
    "18x640,10x320": (2815342673920, 3814761431040, 3490625617920),
    "28x608": (3260589015040, 4416438534144, 4041568419840),
}

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SMALL = LlmShape(64, 160, 3, 64, 32)


def tera(flops):
    return flops.total / 1e12


@pytest.mark.parametrize("schedule", REFERENCE)
def test_prefill_equals_the_recorded_values(schedule):
    tokens = parse_schedule(schedule, 28)
    found = [
        prefill_flops(tokens, QWEN2_7B, name).total for name in ("paper", "sparsevlm", "gqa-swiglu")
    ]
    assert tuple(found) == REFERENCE[schedule]


@pytest.mark.parametrize(
    ("retention_ratio", "published"), [(1, 40.8), (0.25, 8.7), (0.2, 7.0), (0.15, 5.2), (0.1, 3.4)]
)
def test_prefill_equals_table_1(retention_ratio, published):
    n_tokens = math.ceil(TOKENS_PER_FRAME * retention_ratio) * FRAMES
    assert round(tera(prefill_flops(n_tokens, QWEN2_7B)), 1) == published


@pytest.mark.parametrize(
    ("frames", "cells", "published"), [(32, 196, 9.3), (64, 169, 17.1)], ids=["table 1", "table 2"]
)
def test_fastv_is_two_full_layers_and_a_fifth_after_them(frames, cells, published):
    full = frames * cells
    schedule = [full] * 2 + [math.ceil(full * 0.2)] * 26
    assert round(tera(prefill_flops(schedule, QWEN2_7B)), 1) == published


def test_published_shares_of_other_methods():
    def share(schedule, formula):
        reduced, full = (prefill_flops(n, QWEN2_7B, formula).total for n in (schedule, VANILLA))
        return round(100 * reduced / full, 1)

    assert share(HOLITOM, "paper") == 6.9
    assert share(FRAMES * 19, "gqa-swiglu") == 8.3  # FastVID rounds 19.6 down
    assert share(FRAMES * 19, "paper") == 8.0


@pytest.mark.parametrize("formula", FORMULAS)
def test_prefill_of_a_schedule_adds_its_layers(formula):
    one = LlmShape(8, 24, 1, 12, 4)
    layers = [prefill_flops(n, one, formula).total for n in (50, 20, 5)]
    three = LlmShape(8, 24, 3, 12, 4)
    assert prefill_flops([50, 20, 5], three, formula).total == sum(layers)


def test_terms_are_what_their_expressions_say():
    """Evaluate every printed expression, with each layer's tokens, and find its value again."""
    shape, schedule, r = LlmShape(8, 24, 2, 12, 4), (7, 5), 3
    for formula in FORMULAS:
        prefill, decode = (
            prefill_flops(schedule, shape, formula),
            decode_flops(schedule, shape, r, formula),
        )
        for term in (*prefill.terms, *decode.terms):
            product = term.expression.replace("^", "**").replace("(R + 1)", "(R+1)").split()
            code = "*".join(product)
            names = {**shape.sizes, "R": r}
            assert term.value == sum(eval(code, names | {"n": n}) for n in schedule), term
        assert prefill.total == sum(term.value for term in prefill.terms)


def test_the_paper_formula_is_spelt_as_in_the_paper():
    assert [term.expression for term in prefill_flops(1, QWEN2_7B).terms] == [
        "4 n d^2",
        "2 n d m",
        "2 n^2 d",
    ]


def test_formulas_read_the_sizes_that_they_name():
    wide = LlmShape(8, 24, 1, query_size=16, key_value_size=2)
    assert prefill_flops(5, wide, "gqa-swiglu").total == (
        2 * 5 * 8 * 16 + 2 * 5 * 8 * 2 + 2 * 25 * 16 + 3 * 5 * 8 * 24
    )
    plain = LlmShape(8, 24, 1)
    for formula in ("paper", "sparsevlm"):
        assert prefill_flops(5, wide, formula) == prefill_flops(5, plain, formula)
    assert prefill_flops(5, plain, "gqa-swiglu").total == prefill_flops(5, plain, "sparsevlm").total


@pytest.mark.parametrize("formula", FORMULAS)
def test_decode_adds_the_generated_tokens_one_by_one(formula):
    """What token r costs is what a prefill costs, but linear terms once and n + r tokens seen."""
    shape, n, r_max = LlmShape(8, 24, 1, 12, 4), 7, 5
    single = prefill_flops(1, shape, formula)
    linear = sum(term.value for term in single.terms if term.name != "attention")
    width = shape.sizes[FORMULAS[formula].attention]
    by_hand = sum(linear + 2 * width * (n + r) for r in range(1, r_max + 1))
    assert decode_flops(n, shape, r_max, formula).total == by_hand


def test_decode_is_equation_18():
    d, m, layers, r = 3584, 18944, 28, 100
    by_hand = sum(
        r * ((4 * d**2 + 2 * d * m) + 2 * (d * n + d * (r + 1) / 2)) for n in [VANILLA] * layers
    )
    assert decode_flops(VANILLA, QWEN2_7B, r).total == by_hand


def test_decoding_a_hundred_tokens_is_two_per_cent_of_vanilla_but_not_of_reduced():
    def share(n):
        prefill, decode = prefill_flops(n, QWEN2_7B).total, decode_flops(n, QWEN2_7B).total
        return round(100 * decode / (prefill + decode), 1)

    assert (share(VANILLA), share(640)) == (1.6, 13.5)


def test_a_schedule_counts_text_only_if_asked():
    entering = (12, 12, 5)
    assert schedule_of(entering, 3) == entering
    assert schedule_of(entering, 3, text_tokens=4) == (16, 16, 9)
    assert schedule_of(7, 2) == (7, 7)


def test_schedules_are_read_as_they_are_written():
    assert parse_schedule("18x640, 10x320", 28) == tuple(HOLITOM)
    assert schedule_text(HOLITOM) == "18x640,10x320"
    assert parse_schedule("2x5,1x0", 3) == (5, 5, 0)


@pytest.mark.parametrize("text", ["", "18", "18x", "3y4", "2x5,", "-1x5", "2x-5"])
def test_a_misspelt_schedule_is_refused(text):
    with pytest.raises(ConfigError, match="write LAYERSxTOKENS"):
        parse_schedule(text, 28)


def test_a_schedule_of_the_wrong_length_is_refused():
    with pytest.raises(InputError, match="28 layers need 28 token counts, got 2"):
        prefill_flops([10, 10], QWEN2_7B)
    with pytest.raises(ConfigError, match="the LLM has 28 layers, '999999999999x1' has 9"):
        parse_schedule("999999999999x1", 28)


def test_negative_counts_are_refused():
    with pytest.raises(InputError, match="cannot be negative, got -3"):
        schedule_of([4, -3], 2)
    with pytest.raises(InputError, match="cannot be negative, got -1"):
        schedule_of(4, 2, text_tokens=-1)
    with pytest.raises(InputError, match="cannot be negative, got -2"):
        decode_flops(4, QWEN2_7B, -2)


def test_an_unknown_formula_is_refused_with_a_suggestion():
    for count in (prefill_flops, decode_flops):
        with pytest.raises(ConfigError, match="unknown FLOPs formula 'papers'; did you mean"):
            count(10, QWEN2_7B, formula="papers")


@pytest.mark.parametrize(
    "config",
    [
        TEXT,
        {"model_type": "llava_qwen", "mm_hidden_size": 1152, **TEXT},
        {"text_config": TEXT, "vision_config": {"hidden_size": 9}},
        {"text_config": {"model_type": "qwen2"}, **TEXT},
        {"llm_config": TEXT, "hidden_size": 9},
        {"thinker_config": {"text_config": TEXT, "audio_config": {"hidden_size": 9}}},
    ],
    ids=["text", "original llava", "nested", "flat with an empty part", "llm_config", "omni"],
)
def test_a_shape_is_read_from_any_layout(config):
    assert LlmShape.of(config) == SMALL


def test_head_dim_goes_before_the_quotient():
    shape = LlmShape.of({**TEXT, "head_dim": 32})
    assert (shape.query_size, shape.key_value_size) == (128, 64)
    assert LlmShape.of({**TEXT, "head_dim": None}) == SMALL


def test_without_grouped_keys_every_head_has_its_own():
    config = {**TEXT, "num_key_value_heads": None}
    assert LlmShape.of(config).key_value_size == 64


@pytest.mark.parametrize(
    "model_type", ["llava_onevision", "llava_next_video", "qwen2_5_vl", "qwen3_vl", "qwen2"]
)
def test_a_shape_is_read_from_transformers_configs(model_type, tmp_path):
    transformers = pytest.importorskip("transformers")
    nested = {"text_config": dict(TEXT)} if model_type != "qwen2" else TEXT
    config = transformers.AutoConfig.for_model(model_type, **nested)
    head_dim = getattr(config.get_text_config(), "head_dim", None) or 16
    wanted = LlmShape(64, 160, 3, 4 * head_dim, 2 * head_dim)
    assert LlmShape.of(config) == LlmShape.of(config.get_text_config()) == wanted
    config.save_pretrained(tmp_path)
    assert find_shape(str(tmp_path)) == find_shape(str(tmp_path / "config.json")) == wanted


def test_what_an_old_config_leaves_out_is_filled_in():
    """The converted LLaVA-NeXT-Video lists only what differs from the defaults of Llama."""
    pytest.importorskip("transformers")
    text = {"model_type": "llama", "vocab_size": 32064}
    config = {"model_type": "llava_next_video", "text_config": text}
    before = deepcopy(config)
    assert LlmShape.of(config) == SHAPES["vicuna-7b"]
    assert config == before


def test_named_shapes_are_those_of_their_heads():
    heads = {
        "qwen2-0.5b": (14, 2, 64),
        "qwen2-7b": (28, 4, 128),
        "qwen2-72b": (64, 8, 128),
        "qwen3-4b": (32, 8, 128),
        "vicuna-7b": (32, 32, 128),
    }
    assert set(heads) == set(SHAPES)
    for name, (queries, keys, head_dim) in heads.items():
        assert SHAPES[name].query_size == queries * head_dim
        assert SHAPES[name].key_value_size == keys * head_dim
        assert find_shape(name) is SHAPES[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 60}, "mixture of experts .num_experts = 60."),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"n_routed_experts": 64}, "mixture of experts"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "has linear_attention too"),
        ({"intermediate_size": [160, 80, 80]}, "intermediate_size must be one whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be one whole number above 0, got 0"),
        ({"hidden_size": True}, "hidden_size must be one whole number"),
        ({"head_dim": "x"}, "head_dim must be one whole number"),
        (
            {"intermediate_size": None, "num_attention_heads": None},
            "has no intermediate_size, num_attention_heads",
        ),
    ],
)
def test_a_config_that_the_formulas_do_not_fit_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        LlmShape.of({**TEXT, **change})


def test_dense_models_of_mixed_families_are_accepted():
    assert LlmShape.of({**TEXT, "num_experts": 0, "n_routed_experts": None}) == SMALL
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    assert LlmShape.of({**TEXT, "layer_types": kinds}) == SMALL


def test_files_that_are_no_config_are_named(tmp_path):
    file = tmp_path / "config.json"
    with pytest.raises(InputError, match=r"config\.json does not exist"):
        find_shape(str(tmp_path))
    for text, message in [("{", "line 1: not valid JSON"), ("[1]", r"holds no mapping, but \[1\]")]:
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            find_shape(str(file))
    file.write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(InputError, match=r"config\.json: the config has no intermediate_size"):
        find_shape(str(file))


def test_an_unknown_model_gets_a_suggestion():
    with pytest.raises(ConfigError, match=r"no named shape; did you mean 'qwen2-7b'"):
        find_shape("qwen2-7")


def test_counting_needs_no_model_library():
    code = "import sys, tokenred.accounting; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

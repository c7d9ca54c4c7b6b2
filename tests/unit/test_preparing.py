"""Prompts with thousands of placeholders, of which the tokenizer reads one a run."""

import pytest
import torch

from tokenred.models.inputs.preparing import Prepared, tokenise
from tokenred.testing.models import byte_tokenizer

transformers = pytest.importorskip("transformers")

N = 500


class Counting:
    """A tokenizer that notes how much text it was given."""

    def __init__(self, tokenizer):
        self.tokenizer, self.read = tokenizer, 0

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, **kwargs):
        self.read += sum(map(len, texts))
        return self.tokenizer(texts, **kwargs)


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def video(tokenizer):
    return tokenizer.convert_tokens_to_ids("<video>")


def clip(video, *pieces):
    return Prepared({}, {"video": [list(each) for each in pieces]}, {video: 2})


def expected(tokenizer, texts):
    found = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    return found["input_ids"], found["attention_mask"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_equal_those_that_are_spelled_out(tokenizer, video, side):
    tokenizer.padding_side = side
    prepared = clip(video, [video] * N, ["<0.5 s>", *[video] * 3, "<1.0 s>", video, *[video] * 2])
    counting = Counting(tokenizer)
    found = tokenise(counting, ["See <video>\nwhat?", "<video> and so on"], prepared)
    spelled = [
        "See " + "<video>" * N + "\nwhat?",
        "<0.5 s>" + "<video>" * 3 + "<1.0 s>" + "<video>" * 3 + " and so on",
    ]
    ids, mask = expected(tokenizer, spelled)
    assert torch.equal(found["input_ids"], ids)
    assert torch.equal(found["attention_mask"], mask)
    assert torch.equal(found["mm_token_type_ids"], (ids == video) * 2)
    assert counting.read < 100


def test_one_prompt_may_hold_several_clips(tokenizer, video):
    found = tokenise(tokenizer, ["<video>a<video>"], clip(video, [video] * 2, [video] * 5))
    (row,) = (found["input_ids"] == video).int()
    assert row.sum() == 7
    assert torch.equal(
        found["input_ids"], expected(tokenizer, ["<video>" * 2 + "a" + "<video>" * 5])[0]
    )


def test_neighbouring_runs_keep_their_lengths(tokenizer, video):
    found = tokenise(tokenizer, ["<video><video>"], clip(video, [video] * 2, [video] * 5))
    assert torch.equal(found["input_ids"], expected(tokenizer, ["<video>" * 7])[0])


def test_placeholders_in_a_piece_of_text_are_not_miscounted(tokenizer, video):
    prepared = clip(video, ["<video>", *[video] * 4])
    found = tokenise(tokenizer, ["<video>?"], prepared)
    assert torch.equal(found["input_ids"], expected(tokenizer, ["<video>" * 5 + "?"])[0])


def test_text_alone_is_tokenised_too(tokenizer):
    found = tokenise(tokenizer, ["ab", "c"], Prepared({}, {}))
    assert torch.equal(found["input_ids"], expected(tokenizer, ["ab", "c"])[0])

from dataclasses import replace

import pytest
import torch
from tokenred_methods.mmtok.text_coverage import TextCoverageConfig, TextCoverageSelector

from tokenred import CapabilityError, load_pipeline
from tokenred.models.cues.text import text_similarity
from tokenred.testing import parametrize_checks, video_tokens

TEXT = "text-similarity"


def selector(**settings):
    return TextCoverageSelector(TextCoverageConfig(**settings))


def choose(chooser, tokens, n_anchors):
    return chooser.select(tokens, n_anchors, generator=torch.Generator())


@parametrize_checks(selector())
def test_contract(check):
    check()


def covering(text, vectors_of_text, vectors, spread, left, n, alpha):
    """Pick by what is covered, summed anew for every pick."""
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    rows = []
    text = text / vectors_of_text.norm(dim=-1, keepdim=True)
    for word in range(text.shape[1]):
        logits = torch.tensor([float(text[j, word]) / 0.02 for j in spread])
        rows.append(dict(zip(spread, (logits.softmax(0) / text.shape[1]).tolist())))
    for i in spread:
        logits = torch.tensor([float(unit[i] @ unit[j]) / 0.2 for j in spread])
        rows.append(dict(zip(spread, (alpha * logits.softmax(0) / len(spread)).tolist())))
    picks = []
    while len(picks) < n:
        totals = {
            j: sum(max(row[k] for k in (*picks, j)) for row in rows) for j in left if j not in picks
        }
        picks.append(max(totals, key=totals.__getitem__))
    return picks


@pytest.mark.parametrize("alpha", [0.2, 0.5, 3.0])
@pytest.mark.parametrize("dropped", ["ignore", "cover"])
def test_every_pick_covers_most(alpha, dropped):
    tokens = video_tokens(2, (4, 5), needs={TEXT, "tower"}, seed=3)
    keep = tokens.keep.clone()
    keep[1, 3:9] = False
    cues = {**tokens.cues, TEXT: tokens.cues[TEXT] / 20}
    picks = choose(selector(alpha=alpha, dropped=dropped), replace(tokens, keep=keep, cues=cues), 7)
    for frame in range(2):
        left = keep[frame].nonzero()[:, 0].tolist()
        spread = left if dropped == "ignore" else list(range(20))
        seen = cues[TEXT][frame], tokens.features[frame], tokens.cues["tower"][frame]
        wanted = covering(*seen, spread, left, 7, alpha)
        assert picks[frame].tolist() == wanted


def test_one_word_may_come_as_one_number_a_token():
    tokens = video_tokens(2, (4, 5), needs={TEXT, "tower"}, seed=3)
    word = tokens.cues[TEXT][..., 0]
    flat, wide = (replace(tokens, cues={**tokens.cues, TEXT: c}) for c in (word, word[..., None]))
    assert torch.equal(choose(selector(), flat, 5), choose(selector(), wide, 5))


def test_without_a_question_one_sentence_says_so():
    tokens = video_tokens(2, (4, 5), needs={"tower"})
    with pytest.raises(CapabilityError, match="cues that are missing: text-similarity"):
        load_pipeline("mmtok").run(tokens)


def test_the_release_rounds_down():
    tokens = video_tokens(3, (5, 5), needs={TEXT, "tower"}, dim=9)
    for ratio, released, repaired in ((0.11, 6, 9), (0.05, 3, 6)):
        budget = {"budget.retention_ratio": ratio}
        assert load_pipeline("mmtok-released", budget).run(tokens).realised.n_tokens == released
        assert load_pipeline("mmtok", budget).run(tokens).realised.n_tokens == repaired


def test_a_word_draws_the_tokens_that_are_like_it():
    tokens = video_tokens(2, (5, 5), needs={"tower"}, dim=8, seed=1)
    word = tokens.features[:, 17].mean(0, keepdim=True)
    cues = {**tokens.cues, TEXT: text_similarity(tokens.features, word)}
    picks = choose(selector(alpha=0.0), replace(tokens, cues=cues), 1)
    alike = torch.nn.functional.cosine_similarity(tokens.features, word[None], dim=-1)
    assert torch.equal(picks[:, 0], alike.argmax(-1))

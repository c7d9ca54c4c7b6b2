from dataclasses import replace

import pytest
import torch
from tokenred_methods.visiontrim.like_the_text import LikeTheTextConfig, LikeTheTextSelector
from tokenred_methods.visiontrim.through_text import ThroughTextConfig, ThroughTextCost
from tokenred_methods.visiontrim.two_attentions import TwoAttentionsConfig, TwoAttentionsSelector

from tokenred import CapabilityError, VisualTokens, load_pipeline
from tokenred.models.cues.text import text_similarity
from tokenred.testing import parametrize_checks, video_tokens

TEXT, CLASS, PATCHES = "text-similarity", "salience@features", "patch-attention@features"


@parametrize_checks(TwoAttentionsSelector(TwoAttentionsConfig()))
def test_two_attentions_contract(check):
    check()


@parametrize_checks(LikeTheTextSelector(LikeTheTextConfig()))
def test_like_the_text_contract(check):
    check()


@parametrize_checks(ThroughTextCost(ThroughTextConfig()))
def test_through_text_contract(check):
    check()


def question(seed=0, frames=2, grid=(5, 5), dim=6, words=4):
    """Return tokens with all cues, those of the text computed from words, and the words."""
    tokens = video_tokens(frames, grid, needs={CLASS, PATCHES}, dim=dim, seed=seed)
    text = torch.randn(words, dim, generator=torch.Generator().manual_seed(seed))
    return replace(tokens, cues={**tokens.cues, TEXT: text_similarity(tokens.features, text)}), text


def test_neither_attention_outweighs_the_other():
    tokens, _ = question()
    chooser = TwoAttentionsSelector(TwoAttentionsConfig())
    louder = replace(tokens, cues={**tokens.cues, CLASS: 1000 * tokens.cues[CLASS]})
    picks = [chooser.select(each, 7, generator=torch.Generator()) for each in (tokens, louder)]
    assert torch.equal(*picks)
    scaled = [torch.nn.functional.normalize(tokens.cues[cue], dim=-1) for cue in (CLASS, PATCHES)]
    wanted = sum(scaled).argsort(-1, descending=True)[:, :7]
    assert torch.equal(picks[0], wanted)


def by_hand(features, text, dominant, complement, n_rounds, released):
    """Merge one frame, similarities computed from the vectors as they stand."""

    def alike(vectors):
        return torch.nn.functional.normalize(vectors, dim=-1) @ words.T

    words = torch.nn.functional.normalize(text, dim=-1)
    rest = [i for i in range(len(features)) if i not in dominant]
    ranked = sorted(rest, key=lambda i: -float(alike(features)[i].mean()))
    centres = sorted(ranked[:complement])
    sources = [i for i in rest if i not in centres]
    held = features[centres].clone()
    for _ in range(n_rounds):
        nearest = (alike(features[sources]) @ alike(held).T).argmax(-1)
        for k in range(complement):
            own = features[sources][nearest == k]
            if len(own):
                if released:
                    held[k] = held[k] + own.mean(0)
                else:
                    held[k] = torch.cat((held[k : k + 1], own)).mean(0)
    return held


@pytest.mark.parametrize("preset", ["visiontrim", "visiontrim-released"])
@pytest.mark.parametrize("n_rounds", [1, 3])
@pytest.mark.parametrize("ratio", [0.4, 0.24])
def test_complement_tokens_take_in_the_rest_from_where_they_stand(preset, n_rounds, ratio):
    tokens, text = question(seed=2)
    settings = {"budget.retention_ratio": ratio, "complement.rounds": n_rounds}
    reduced = load_pipeline(preset, settings).run(tokens, trace=True)
    number, n_dominant = round(25 * ratio), round(round(25 * ratio) * 0.75)
    index = reduced.token_index.view(2, number)
    for frame in range(2):
        dominant = index[frame, :n_dominant].tolist()
        held = by_hand(
            tokens.features[frame],
            text,
            dominant,
            number - n_dominant,
            n_rounds,
            preset.endswith("released"),
        )
        found = reduced.features.view(2, number, -1)[frame]
        torch.testing.assert_close(found[:n_dominant], tokens.features[frame, dominant])
        torch.testing.assert_close(found[n_dominant:], held)
    traced = (reduced.trace @ tokens.features.flatten(0, 1)).to(reduced.features)
    torch.testing.assert_close(traced, reduced.features)


def test_rounds_move_anchors_in_every_frame_alike():
    tokens, _ = question(frames=3, seed=5)
    pipeline = load_pipeline("visiontrim-released", {"budget.retention_ratio": 0.4})
    whole = pipeline.run(tokens).features
    alone = [
        pipeline.run(
            VisualTokens.of(
                tokens.features[[t]],
                tokens.grid,
                cues={name: cue[[t]] for name, cue in tokens.cues.items()},
            )
        ).features
        for t in range(3)
    ]
    torch.testing.assert_close(whole, torch.cat(alone))


def test_without_a_question_one_sentence_says_so():
    tokens = video_tokens(2, (4, 5), needs={CLASS, PATCHES})
    with pytest.raises(CapabilityError, match="cues that are missing: text-similarity"):
        load_pipeline("visiontrim").run(tokens)

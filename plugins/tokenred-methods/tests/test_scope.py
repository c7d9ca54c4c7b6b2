from dataclasses import replace

import pytest
import torch
from tokenred_methods.scope.coverage import CoverageConfig, CoverageSelector

from tokenred import ConfigError, load_pipeline
from tokenred.errors import BudgetWarning
from tokenred.testing import parametrize_checks, video_tokens

SALIENCY = "salience@-2"


def selector(**settings):
    return CoverageSelector(CoverageConfig(saliency=SALIENCY, **settings))


def choose(chooser, tokens, n_anchors):
    return chooser.select(tokens, n_anchors, generator=torch.Generator())


@parametrize_checks(selector(of="tower"))
def test_contract(check):
    check()


def covering(vectors, weight, left, n, combine):
    """Pick by gains that are summed anew for every pick."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    alike = unit @ unit.T
    covered, picks = dict.fromkeys(left, 0.0), []
    while len(picks) < n:
        scores = {}
        for j in left:
            if j not in picks:
                gain = sum(max(0.0, float(alike[i, j]) - covered[i]) for i in left)
                scores[j] = gain * weight[j] if combine == "multiply" else gain + weight[j]
        picks.append(max(scores, key=scores.__getitem__))
        covered = {i: max(covered[i], float(alike[i, picks[-1]])) for i in left}
    return picks


@pytest.mark.parametrize("combine", ["multiply", "add"])
@pytest.mark.parametrize("similar", [0.0, 0.7])
def test_every_pick_covers_most(combine, similar):
    tokens = video_tokens(3, (4, 6), needs={SALIENCY}, dim=9, similar=similar, seed=6)
    keep = tokens.keep.clone()
    keep[1, 3:9] = False
    chooser = selector(combine=combine, alpha=2.0, scale=30.0)
    picks = choose(chooser, replace(tokens, keep=keep), 12)
    for frame in range(3):
        weight = (30.0 * tokens.cues[SALIENCY][frame].double()).square().tolist()
        left = keep[frame].nonzero()[:, 0].tolist()
        wanted = covering(tokens.features[frame], weight, left, 12, combine)
        assert picks[frame].tolist() == wanted


def test_what_changes_is_counted_in_pieces(monkeypatch):
    tokens = video_tokens(2, (6, 6), needs={SALIENCY}, dim=9, similar=0.3, seed=4)
    whole = choose(selector(), tokens, 12)
    monkeypatch.setattr("tokenred.kernels.similarity.CHUNK_BYTES", 500)
    assert torch.equal(choose(selector(), tokens, 12), whole)


def test_the_scale_of_the_saliency_matters_where_it_is_added_only():
    tokens = video_tokens(2, (6, 6), needs={SALIENCY}, dim=9, similar=0.3, seed=4)
    for combine, same in (("multiply", True), ("add", False)):
        plain, scaled = (
            choose(selector(combine=combine, scale=scale), tokens, 12) for scale in (1.0, 1024.0)
        )
        assert torch.equal(plain, scaled) is same


def test_the_release_rounds_down():
    tokens = video_tokens(3, (5, 5), needs={SALIENCY, "tower"}, dim=9)
    for ratio, released, repaired in ((0.11, 6, 9), (0.05, 3, 6)):
        budget = {"budget.retention_ratio": ratio}
        assert load_pipeline("scope-released", budget).run(tokens).realised.n_tokens == released
        assert load_pipeline("scope", budget).run(tokens).realised.n_tokens == repaired
    with pytest.warns(BudgetWarning, match="keeps 0 % of the tokens"):
        none = load_pipeline("scope-released", {"budget.retention_ratio": 0.03}).run(tokens)
    assert none.realised.n_tokens == 0


def test_other_combinations_are_refused():
    with pytest.raises(ConfigError, match=r"stages.frame.selector.combine: .*'multiply' or 'add'"):
        load_pipeline("scope", {"frame.selector.combine": "max"})

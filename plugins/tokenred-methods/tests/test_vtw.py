import pytest
import torch
from tokenred_methods.vtw import find_layer, withdrawal_layer

from tests.ranked_cases import run
from tokenred import ConfigError, load_pipeline
from tokenred.testing import layer_state


def logits_by_layer(gaps):
    """Return what stands for a model: the later the withdrawal, the nearer to the whole model."""

    def next_token(pipeline):
        reducers = pipeline.inside_llm.reducers if pipeline.inside_llm else ()
        if not reducers:
            return torch.zeros(2, 2)
        (layer,) = (step.layer for step in reducers[0][1].steps(32))
        return torch.tensor([[gaps[layer], 0.0], [0.0, 0.0]])

    return next_token


def test_the_first_layer_that_is_good_enough_is_found():
    found = withdrawal_layer(logits_by_layer({5: 3.0, 6: 0.1, 7: 2.0}), (5, 6, 7), 0.003)
    assert found.layer == 6
    assert found.divergence.shape == (2, 3)
    assert (found.divergence[1] == 0).all()
    share = torch.tensor([3.0, 0.0]).double().softmax(0)
    assert float(found.divergence[0, 0]) == pytest.approx(float((share * (2 * share).log()).sum()))
    assert load_pipeline("vtw", found.settings).inside_llm.reducers[0][1].steps(32)[0].layer == 6


def test_where_none_is_good_enough_the_nearest_is_named():
    with pytest.raises(ConfigError, match="nearest is layer 6"):
        withdrawal_layer(logits_by_layer({5: 3.0, 6: 0.1}), (5, 6), 1e-9)


def test_a_shallow_model_has_no_candidates():
    with pytest.raises(ConfigError, match="no layer to try"):
        withdrawal_layer(logits_by_layer({}), ())


def test_a_search_needs_prompts():
    with pytest.raises(ConfigError, match="at least one prompt"):
        find_layer(None, [])


def test_all_visual_tokens_leave():
    state = layer_state(3, (2, 3), n_layers=32)
    (reduction,) = run(load_pipeline("vtw").inside_llm.reducers[0][1], state)
    assert reduction.source.tolist() == (~state.visual).nonzero()[:, 0].tolist()


def test_beyond_the_last_layer_only_the_release_does_nothing():
    released = load_pipeline("vtw-released").inside_llm.reducers[0][1]
    assert released.steps(8) == []
    settings = {"stages.withdraw.reducer.schedule": {15: 0}}
    with pytest.raises(ConfigError, match="no layer 15"):
        load_pipeline("vtw", settings).inside_llm.reducers[0][1].steps(8)

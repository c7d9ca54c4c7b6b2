from dataclasses import replace

import pytest
import torch
from tokenred_methods.otprune.channel_volume import ChannelVolumeConfig, ChannelVolumeSelector

from tokenred import InputError, load_pipeline
from tokenred.testing import parametrize_checks, video_tokens

PLAIN = ChannelVolumeSelector(ChannelVolumeConfig())
RELEASED = ChannelVolumeSelector(ChannelVolumeConfig(released=True))


def choose(selector, tokens, n_anchors):
    return selector.select(tokens, n_anchors, generator=torch.Generator())


@parametrize_checks(PLAIN)
def test_contract(check):
    check()


@pytest.mark.parametrize("dim", [6, 40])
def test_every_pick_adds_most_to_the_determinant(dim):
    """With more tokens than channels, and with fewer: two ways to the same kernel."""
    selector = ChannelVolumeSelector(ChannelVolumeConfig(weight=0.5))
    tokens = video_tokens(3, (4, 5), dim=dim, similar=0.4, seed=3)
    keep = tokens.keep.clone()
    keep[2, [0, 7]] = False
    picks = choose(selector, replace(tokens, keep=keep), 7)
    for frame in range(3):
        x = tokens.features[frame].double() * keep[frame, :, None]
        x = x / x.norm(dim=0)
        kernel = torch.eye(20) + 0.5 * (x @ x.T) @ (x @ x.T)
        picked = []
        for pick in picks[frame].tolist():
            gains = {
                t: float(torch.logdet(kernel[[*picked, t]][:, [*picked, t]]))
                for t in keep[frame].nonzero()[:, 0].tolist()
                if t not in picked
            }
            assert pick == max(gains, key=gains.__getitem__)
            picked.append(pick)


def test_a_channel_of_zeros_is_none():
    tokens = video_tokens(2, (4, 4), dim=9, seed=1)
    features = torch.cat([tokens.features, torch.zeros(2, 16, 3)], dim=-1)
    assert torch.equal(
        choose(PLAIN, replace(tokens, features=features), 5), choose(PLAIN, tokens, 5)
    )


def test_the_scale_of_a_channel_does_not_matter():
    tokens = video_tokens(2, (4, 4), dim=9, seed=1)
    stretched = tokens.features * torch.arange(1, 10)
    assert torch.equal(
        choose(PLAIN, replace(tokens, features=stretched), 5), choose(PLAIN, tokens, 5)
    )


def test_the_release_sends_tokens_in_the_order_of_a_set():
    tokens = video_tokens(1, (12, 12), dim=9, similar=0.2, seed=5)
    ratio = {"budget.retention_ratio": 0.1}
    sent = load_pipeline("otprune-released", ratio).run(tokens).token_index.tolist()
    picks = choose(PLAIN, tokens, len(sent))[0].tolist()
    assert sent == list(set(picks))
    assert sent != sorted(sent)
    raster = load_pipeline("otprune-released", {**ratio, "frame.order": "raster"}).run(tokens)
    assert raster.token_index.tolist() == sorted(sent)


def test_the_release_fails_where_it_is_to_keep_none():
    tokens = video_tokens(1, (3, 3), dim=4)
    with pytest.raises(InputError, match="asked for none"):
        choose(RELEASED, tokens, 0)
    assert choose(PLAIN, tokens, 0).shape == (1, 0)

"""The matrix products behind costs and merges: as exact as float32, whatever the features are."""

import pytest
import torch

from tokenred.kernels import merge, similarity
from tokenred.kernels.merge import apply_merge, merge_among
from tokenred.kernels.similarity import cosine_similarity
from tokenred.types import MergeWeights


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3,), ()])
def test_similarities_are_as_exact_as_float32(
    dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "CHUNK_BYTES", 2 * 4 * 40 * 96)  # pieces of two frames
    left = (1 + draw(*shape, 40, 96)).to(dtype)
    right = (1 + draw(*shape, 7, 96, seed=1)).to(dtype)
    left[..., 0, :] = 0
    before = left.clone(), right.clone()
    found = cosine_similarity(left, right)
    wanted = torch.nn.functional.cosine_similarity(
        left.double()[..., :, None, :], right.double()[..., None, :, :], dim=-1
    )
    assert found.dtype == torch.float32
    assert float((found.double() - wanted).abs().max()) < 5e-7
    assert torch.equal(left, before[0])
    assert torch.equal(right, before[1])
    assert cosine_similarity(left.double(), right.double()).dtype == torch.float64


def test_similarities_have_a_gradient() -> None:
    left, right = draw(2, 5, 4).double().requires_grad_(), draw(2, 3, 4, seed=1).double()
    assert torch.autograd.gradcheck(lambda x: cosine_similarity(x, right), left)
    same = cosine_similarity(left, right).detach()
    torch.testing.assert_close(cosine_similarity(left.detach(), right), same)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_among_all_tokens_is_merging_what_was_gathered(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "CHUNK_BYTES", 4 * 9 * 16)  # pieces of one frame
    tokens, index = draw(3, 9, 16).to(dtype), torch.tensor([[0, 4], [8, 1], [3, 3]])
    weights = MergeWeights(draw(3, 2, seed=1), draw(3, 9, 2, seed=2))
    weights.source.scatter_(1, index[:, None, :].expand(-1, 2, -1), 0.0)
    kept = weights.source.clone()
    anchors = tokens.gather(1, index[..., None].expand(-1, -1, 16))
    found = merge_among(tokens, index, weights)
    assert found.dtype == dtype
    wanted = apply_merge(anchors, tokens, weights)
    slack = 1e-5 if dtype == torch.float32 else 2e-2  # weights are rounded, too
    torch.testing.assert_close(found, wanted, atol=slack, rtol=slack)
    assert torch.equal(weights.source, kept)


@pytest.mark.parametrize("multiplies", [False, True])
def test_merges_in_bfloat16_are_off_by_its_rounding(
    multiplies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averages of many tokens, where sums in bfloat16 would be far off; by every path."""
    if multiplies and not merge._processor_multiplies_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    monkeypatch.setattr(merge, "_multiplies_bfloat16", lambda tokens: multiplies)
    monkeypatch.setattr(similarity, "CHUNK_BYTES", 2 * 4 * 600 * 16)  # pieces of two frames
    tokens, index = (0.5 + draw(3, 600, 16)).bfloat16(), torch.tensor([[0, 4], [8, 1], [3, 5]])
    share = draw(3, 601, 2, seed=1).softmax(1)
    weights = MergeWeights(share[:, 0], share[:, 1:])
    anchors = tokens.gather(1, index[..., None].expand(-1, -1, 16))
    wanted = share[:, 0, :, None].double() * anchors.double()
    wanted = wanted + weights.source.double().mT @ tokens.double()
    learnt = tokens.clone().requires_grad_()
    one = MergeWeights(weights.anchor[0], weights.source[0])
    for found in (
        merge_among(tokens, index, weights),
        merge_among(learnt, index, weights).detach(),
        apply_merge(anchors, tokens, weights),
        apply_merge(anchors, learnt, weights).detach(),
        torch.stack([apply_merge(anchors[0], tokens[0], one), *wanted[1:].bfloat16()]),
    ):
        assert found.dtype == torch.bfloat16
        off = (found.double() - wanted).norm(dim=(-2, -1)) / wanted.norm(dim=(-2, -1))
        assert float(off.max()) < 2**-8

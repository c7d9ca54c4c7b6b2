"""The matrix products behind costs and merges: as exact as float32, whatever the features are."""

import pytest
import torch

from tokenred.kernels import similarity
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
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-2 if dtype != torch.float32 else 0)
    assert torch.equal(weights.source, kept)

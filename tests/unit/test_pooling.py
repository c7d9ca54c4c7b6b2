"""The pooling of LLaVA's video models, against torch and by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tokenred.kernels.pooling import pool_tokens, pooled_grid, pooling_matrix


@pytest.mark.parametrize(
    ("mode", "grid", "stride", "wanted"),
    [
        ("bilinear", (27, 27), 2, (14, 14)),
        ("average", (27, 27), 2, (13, 13)),
        ("max", (27, 27), 2, (13, 13)),
        ("none", (27, 27), 2, (27, 27)),
        ("bilinear", (24, 15), 2, (12, 8)),
        ("average", (24, 15), 3, (8, 5)),
        ("bilinear", (1, 3), 2, (1, 2)),
    ],
)
def test_pooled_grid(
    mode: str, grid: tuple[int, int], stride: int, wanted: tuple[int, int]
) -> None:
    assert pooled_grid(grid, mode, stride) == wanted  # type: ignore[arg-type]
    tokens = torch.randn(2, grid[0] * grid[1], 3)
    assert pool_tokens(tokens, grid, mode, stride).shape == (2, wanted[0] * wanted[1], 3)  # type: ignore[arg-type]


def test_average_is_the_mean_of_whole_blocks() -> None:
    tokens = torch.arange(15.0).view(1, 15, 1)
    assert pool_tokens(tokens, (3, 5), "average").flatten().tolist() == [3.0, 5.0]
    assert pool_tokens(tokens, (3, 5), "max").flatten().tolist() == [6.0, 8.0]


def test_bilinear_is_interpolation_without_antialiasing() -> None:
    """On an odd side the centre of a cell lies on a token: 3 -> 2 mixes 3/4 and 1/4."""
    tokens = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1)
    torch.testing.assert_close(
        pool_tokens(tokens, (1, 3), "bilinear").flatten(), torch.tensor([0.25, 1.75])
    )


@given(st.integers(2, 9), st.integers(2, 9), st.sampled_from(("bilinear", "average", "none")))
def test_the_matrix_is_the_pooling(rows: int, columns: int, mode: str) -> None:
    tokens = torch.randn(2, rows * columns, 3, generator=torch.Generator().manual_seed(0))
    matrix = pooling_matrix((rows, columns), mode)  # type: ignore[arg-type]
    pooled = pool_tokens(tokens, (rows, columns), mode)  # type: ignore[arg-type]
    torch.testing.assert_close(matrix @ tokens, pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(len(matrix)))
    assert int((matrix > 0).sum(-1).max()) <= 4


def test_the_maximum_is_no_linear_map() -> None:
    with pytest.raises(ValueError, match="not a linear map"):
        pooling_matrix((4, 4), "max")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("mode", ["bilinear", "average", "max", "none"])
def test_pooling_keeps_the_dtype(dtype: torch.dtype, mode: str) -> None:
    tokens = torch.randn(2, 15, 4).to(dtype)
    assert pool_tokens(tokens, (3, 5), mode).dtype == dtype  # type: ignore[arg-type]

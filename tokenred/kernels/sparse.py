"""Sparse linear maps: how a reduction's trace is stored and composed."""

import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sparse_map(
    index: Int[Tensor, "2 entries"], values: Float[Tensor, "entries"], size: tuple[int, int]
) -> Tensor:
    """Return a coalesced sparse COO matrix of ``size`` (outputs, inputs)."""
    return torch.sparse_coo_tensor(index, values, size, check_invariants=False).coalesce()


def sparse_identity(size: int, device: torch.device) -> Tensor:
    """Return the sparse identity."""
    index = torch.arange(size, device=device)
    return sparse_map(torch.stack([index, index]), torch.ones(size, device=device), (size, size))


def compose(later: Tensor, earlier: Tensor) -> Tensor:
    """Return the map that applies ``earlier`` first."""
    with warnings.catch_warnings():  # torch goes through CSR inside and calls that beta
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse.mm(later, earlier)

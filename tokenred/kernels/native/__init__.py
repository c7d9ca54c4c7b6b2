"""Sinkhorn in compiled C: one pass over the kernel matrix for each sweep.

Nothing here is needed: where no library was built (``tokenred native build``), ``solve`` returns
None and plain torch does the work.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.native.library import STOPS, BackendSolution, find_library, library_checksum

__all__ = ["BackendSolution", "kernels_in_use", "solve"]


def solve(
    scaled: Float[Tensor, "batch sources anchors"],
    source: Float[Tensor, "batch sources"],
    anchor: Float[Tensor, "batch anchors"],
    *,
    max_iter: int,
    stop: str,
    tolerance: float,
    last: Literal["anchor", "source"],
    rho: float | None = None,
    epsilon: float = 1.0,
) -> BackendSolution | None:
    """Scale ``exp(-scaled / epsilon)`` to the masses, or return None where the library cannot.

    It can if it was built, and for float32 tensors of the CPU that are not empty and carry no
    gradient.

    Parameters
    ----------
    scaled : cost, in units of ``epsilon``, with any strides; read once
    source, anchor : masses; what has none is padding, whatever it costs
    max_iter : sweeps at most, at least one
    stop : as in ``tokenred.kernels.sinkhorn``; ``scaling-batch`` makes about twice the sweeps
    tolerance : of the stop rule
    last : the side that is updated last, whose marginal is then exact
    rho : bound of Chebyshev's acceleration, as in ``tokenred.kernels.sinkhorn``; None makes plain
        sweeps. Not with the stops by scaling

    Notes
    -----
    Equal rows of ``scaled`` with equal mass get scalings that are equal to the last bit. Threads
    are ``torch.get_num_threads()``, a problem each.
    """
    tensors = (scaled, source, anchor)
    if any(t.device.type != "cpu" or t.dtype != torch.float32 for t in tensors):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return None
    if scaled.numel() == 0 or max_iter < 1 or stop not in STOPS or (rho and "scaling" in stop):
        return None
    library = find_library()
    if library is None:
        return None
    return library.solve(
        *tensors,
        epsilon=epsilon,
        max_iter=max_iter,
        stop=stop,
        tolerance=tolerance,
        last=last,
        rho=rho,
    )


def kernels_in_use() -> str:
    """Return ``torch``, or ``native`` with a hash of the library: float32 sums differ in order."""
    return "torch" if find_library() is None else f"native {library_checksum()[:16]}"

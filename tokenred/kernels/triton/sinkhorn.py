"""Sinkhorn scaling on a GPU: one program a problem, the whole solve in one or two launches."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from tokenred.kernels.native.library import BackendSolution
from tokenred.kernels.triton import available, interpreted

WIDEST = 1024
"""Anchors that one program holds in a row; wider problems are left to plain torch."""

RESIDENT_VALUES = 6 * 128 * 128
"""Entries of the kernel matrix that fit in shared memory as bfloat16, with room for the vectors."""

EXACT_SWEEPS = {"accelerated": 8, "plain": 16}
"""Sweeps in float32 at the end of a fixed number that begins on the bfloat16 matrix.

The rounding of the matrix moves a plan by 3e-4 of its mass. Measured on synthetic frames (603
sources, 126 anchors, accelerated, one seed, two regimes, emulated in float64) 2 exact sweeps leave
5e-5, 4 leave 1e-5 and 8 leave 2e-6 at epsilon 0.1; at epsilon 0.05 8 leave 1e-5 at worst.
"""

BFLOAT16_STEP = 2.0**-9
"""Relative rounding of a bfloat16 matrix entry; nearer than that its sweeps tell nothing."""

TIGHT = 1e-4
"""Up to this tolerance enough exact sweeps follow to undo the rounding of the bfloat16 matrix; a
looser rule could stop with a plan that shows it."""


def solve(
    scaled: Float[Tensor, "batch sources anchors"],
    source: Float[Tensor, "batch sources"],
    anchor: Float[Tensor, "batch anchors"],
    *,
    max_iter: int,
    stop: str,
    tolerance: float,
    last: str,
    rho: float | None = None,
    resident: bool | None = None,
) -> BackendSolution | None:
    """Scale ``exp(-scaled)`` to the given marginals, or return None where this cannot run.

    Parameters
    ----------
    scaled : cost / epsilon in float32, any strides; its range must fit float32's exp
    source, anchor : marginals, zero on padding; any strides, so expanded ones are not copied
    max_iter, stop, tolerance, last : as in ``tokenred.kernels.sinkhorn.sinkhorn``; ``stop`` is
        ``none``, ``residual`` or ``scaling``
    rho : upper end of the spectrum that the Chebyshev iteration assumes; None: plain sweeps
    resident : sweep first with the matrix as bfloat16 in shared memory, on the tensor cores.
        Default: where the matrix fits and so many sweeps in float32 follow that the plan does not
        show it. Never for ``scaling``, which stops on the way: there the way must be exact.

    Notes
    -----
    No host synchronisation, no value of a tensor is read: it can be captured in a CUDA graph. Equal
    rows get equal scalings to the last bit, as every row is summed in the same order. Stops and
    acceleration are those of ``tokenred.kernels.sinkhorn``, decided problem by problem on the
    device.
    """
    tensors = scaled, source, anchor
    if scaled.ndim != 3 or any(t.dtype != torch.float32 for t in tensors):
        return None
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return None
    if stop not in ("none", "residual", "scaling") or not available(*tensors):
        return None
    batch, n, m = scaled.shape
    if min(scaled.shape) == 0 or m > WIDEST or max_iter < 1:
        return None
    from tokenred.kernels.triton.device.sinkhorn import sweep_exact, sweep_resident

    columns = max(16, power_of_two(m))
    tiles = -(-n // resident_rows(columns))
    fits = tiles * resident_rows(columns) * columns <= RESIDENT_VALUES and columns <= 256
    exact = EXACT_SWEEPS["plain" if rho is None else "accelerated"]
    if resident is None:
        resident = max_iter >= 2 * exact and (stop == "none" or tolerance <= TIGHT)
    resident = resident and stop != "scaling" and fits and max_iter > exact

    empty = partial(torch.empty, dtype=torch.float32, device=scaled.device)
    plan = empty(batch, n, m)
    rows = empty(batch, 2, n)
    source_scaling = empty(batch, n)
    anchor_scaling = empty(batch, m)
    before = empty(batch, m)
    weight = empty(batch, 3)
    n_iter = torch.empty(batch, dtype=torch.int64, device=scaled.device)
    done = torch.empty(batch, dtype=torch.int32, device=scaled.device)
    inputs = (*scaled.stride(), *source.stride(), *anchor.stride(), n, m)
    alpha, gamma = (2 / (2 - rho), rho / (2 - rho)) if rho is not None else (1.0, 0.0)
    chosen = {"LAST_ANCHOR": last == "anchor", "CHEBYSHEV": rho is not None, "BM": columns}
    with torch.cuda.device_of(scaled):
        if resident:
            height = resident_rows(columns)
            copy = torch.empty(
                batch, tiles * height, columns, dtype=torch.bfloat16, device=plan.device
            )
            sweep_resident[(batch,)](
                *(scaled, source, anchor, plan, copy, anchor_scaling, before, weight, n_iter),
                *inputs,
                max_iter - exact,
                max(100 * tolerance, BFLOAT16_STEP) if stop == "residual" else 0.0,
                alpha,
                gamma,
                **chosen,
                TILES=tiles,
                BN=height,
                PART=exact_rows(columns),
                EMULATE=interpreted(),
                **RESIDENT_OPTIONS,
            )
        sweep_exact[(batch,)](
            *(scaled, source, anchor, plan, rows, source_scaling, anchor_scaling),
            *(before, weight, n_iter, done),
            *inputs,
            max_iter,
            tolerance,
            alpha,
            gamma,
            **chosen,
            RESIDUAL=stop == "residual",
            SCALING=stop == "scaling",
            WARM=resident,
            BN=exact_rows(columns),
            **EXACT_OPTIONS,
        )
    return BackendSolution(plan, source_scaling, anchor_scaling, n_iter, done.bool())


RESIDENT_OPTIONS = {"num_warps": 8, "num_stages": 1, "enable_fp_fusion": True}
EXACT_OPTIONS = {"num_warps": 8, "num_stages": 2, "enable_fp_fusion": True}


def power_of_two(size: int) -> int:
    """Return the next power of two."""
    return 1 << (size - 1).bit_length()


def resident_rows(columns: int) -> int:
    """Return the rows of a tile in shared memory; the tensor cores take 64 at least."""
    return 128 if columns >= 64 else 64


def exact_rows(columns: int) -> int:
    """Return the rows of a tile in registers: a matrix tile and the sums beside it must fit."""
    return max(4, min(64, 4096 // columns))

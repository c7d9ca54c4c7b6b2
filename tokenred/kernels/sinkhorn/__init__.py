"""Entropic optimal transport by Sinkhorn-Knopp scaling.

``solve`` is the public function: it chooses domain, path and gradient. ``sweeps`` is the loop that
all torch arithmetic shares; ``kernel``, ``absorbed`` and ``logarithm`` are the arithmetic, one a
domain; ``monitor`` stops and freezes problems; ``chebyshev`` accelerates; ``unrolled`` and
``implicit`` are the gradients.
"""

from tokenred.kernels.sinkhorn.problem import Acceleration, Domain, Gradient, Side, Stop
from tokenred.kernels.sinkhorn.solve import Scaling, sinkhorn

__all__ = ["Acceleration", "Domain", "Gradient", "Scaling", "Side", "Stop", "sinkhorn"]

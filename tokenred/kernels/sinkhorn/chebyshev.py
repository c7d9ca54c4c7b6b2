"""Chebyshev's semi-iteration on the logarithms of the anchor scalings.

Near the solution a plain sweep is a linear map of ``g = log c`` whose eigenvalues lie in [0, 1):
it is similar to a product of a matrix with its transpose. Of all polynomials in that map,
Chebyshev's shrink the parts with eigenvalues in [0, rho] fastest, and those above faster than plain
sweeps do. So no ``rho`` makes it diverge there; a bad one only makes it slow.

Source: Golub and Varga 1961, "Chebyshev semi-iterative methods"; Manteuffel 1977. Differs from
the textbook: the step is written as a move of ``g`` with momentum, ``h' = (w - 1) h + w alpha d``
with the defect ``d = F(g) - g`` of a plain sweep ``F``. Nothing but differences of logarithms
enters, so rounding does not grow with the size of the scalings, and the scalings may be rebased.
"""

from collections.abc import Iterator

PLAIN_SWEEPS = 2
"""Sweeps before the first accelerated one: far from the solution the map is not linear."""


def default_rho(epsilon: float) -> float:
    """Return the bound for costs of size one; a smaller epsilon converges more slowly.

    A compromise: easy problems take a few sweeps more than plain ones, hard ones less than half.
    """
    if epsilon >= 0.08:
        return 0.8
    return 0.9 if epsilon >= 0.04 else 0.95


def factors(rho: float) -> Iterator[tuple[float, float]]:
    """Yield ``(momentum, step)`` of one accelerated sweep after the other, without end."""
    alpha, gamma = 2 / (2 - rho), rho / (2 - rho)
    yield 0.0, alpha
    weight = 1 / (1 - gamma**2 / 2)
    while True:
        yield weight - 1, weight * alpha
        weight = 1 / (1 - gamma**2 * weight / 4)

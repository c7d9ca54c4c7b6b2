"""A sum whose rounding does not depend on where an entry stands."""

from jaxtyping import Float
from torch import Tensor


def fold(terms: Float[Tensor, "b m n"]) -> Float[Tensor, "b n"]:
    """Return the sum over the middle axis, by halves; ``terms`` is overwritten.

    Equal columns get equal sums to the last bit, whatever their places, the number of threads and
    the width of vectors, because nothing but whole rows is added to each other. No sum of BLAS or
    torch promises that over an axis that is not the innermost.
    """
    rows = terms.shape[1]
    while rows > 1:
        half = rows // 2
        terms[:, :half] += terms[:, rows - half : rows]
        rows -= half
    return terms[:, 0]

"""Which implementation of a kernel runs: plain torch, native code or Triton."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

Path = Literal["auto", "torch", "native", "triton"]
"""``auto`` takes native code where it was built and fits, else plain torch."""

_path: ContextVar[Path] = ContextVar("tokenred_path", default="auto")


def wanted() -> Path:
    """Return the path that ``use`` asks for."""
    return _path.get()


@contextmanager
def use(path: Path) -> Iterator[None]:
    """Take one path inside the block, for tests and benchmarks.

    No path changes what is computed but for the order of float32 sums. A kernel that a path does
    not have runs in plain torch.
    """
    token = _path.set(path)
    try:
        yield
    finally:
        _path.reset(token)

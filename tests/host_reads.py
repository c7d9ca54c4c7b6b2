"""Finds code that reads values of tensors on the host, for which a GPU would have to be awaited."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

PACKAGE = Path(__file__).parents[1] / "tokenred"
READS = {
    f"aten::{name}"
    for name in (
        *("_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount"),
        *("_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
    )
}
"""Operations whose result, or the size of it, depends on values."""
INDEXED = {f"aten::{name}" for name in ("index", "index_put", "index_put_", "_index_put_impl_")}


class _Watch(TorchDispatchMode):
    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.name().split(".")[0]
        masks = name in INDEXED and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or masks:
            self.found.append(_where(name))
        return func(*args, **(kwargs or {}))


def _where(what: str) -> str:
    """Say which line of the package did it, if one did."""
    inside = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(PACKAGE)]
    last = inside[-1] if inside else None
    return what if last is None else f"{what}: {last.filename}:{last.lineno} {last.line}"


@contextmanager
def host_reads() -> Iterator[list[str]]:
    """Yield a list that grows by every read inside the block, on whatever device the tensors are.

    Transfers between devices are not among them.
    """
    found: list[str] = []
    as_list = Tensor.tolist

    def tolist(self: Tensor) -> Any:
        found.append(_where("tolist"))
        return as_list(self)

    with patch.object(Tensor, "tolist", tolist), _Watch(found):
        yield found

"""The same maths on a GPU, in Triton; nothing here is imported before it is asked for."""

from functools import cache

from torch import Tensor

MIN_CAPABILITY = (8, 0)
"""The oldest GPU that multiplies bfloat16 on its tensor cores."""


def available(*tensors: Tensor) -> bool:
    """Whether Triton is installed and can run on these tensors: CUDA ones, or any interpreted."""
    if not _installed():
        return False
    if interpreted():
        return True
    return bool(tensors) and all(t.is_cuda and _capable(t.device.index) for t in tensors)


def interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU and slowly: for tests."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


@cache
def _installed() -> bool:
    try:
        import triton
    except ImportError:
        return False
    return hasattr(triton, "knobs")  # since 3.4


@cache
def _capable(device: int | None) -> bool:
    import torch

    return torch.cuda.get_device_capability(device) >= MIN_CAPABILITY

"""What one core of this machine can do, from a small C program that is compiled on the spot."""

import ctypes
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tokenred.errors import TokenredError
from tokenred.kernels.native.build import compile_source, find_compiler
from tokenred.kernels.native.library import FLAGS

SOURCE = Path(__file__).with_suffix(".c")
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_BYTES = {1: 32 * 2**10, 2: 2**20, 3: 32 * 2**20}
"""Level -> size of a data cache, where the system does not tell."""
ROUNDS = 9
ROUND_S = 0.02


def measure() -> dict[str, float]:
    """Return peaks of one core: ``gflops`` (float32), and ``l1_gbs`` to ``dram_gbs`` (reads).

    Each is the best of some rounds of CPU time, since other work on the machine only takes away. A
    cache is read from a buffer of half its size; the third level from one of four times the
    second, main memory from one of four times the third.

    Raises
    ------
    RuntimeError
        If there is no compiler, or it fails.
    """
    sizes = cache_bytes()
    buffers = {"l1": sizes[1] // 2, "l2": sizes[2] // 2, "l3": 4 * sizes[2], "dram": 4 * sizes[3]}
    with tempfile.TemporaryDirectory() as place:
        library = _compiled(Path(place))
        multiply, read = library.multiply_adds, library.read_floats
        multiply.restype = read.restype = ctypes.c_double
        result = torch.empty(16)
        out = ctypes.c_void_p(result.data_ptr())

        def arithmetic(count: int) -> float:
            return multiply(ctypes.c_int64(count), ctypes.c_float(0.5), out)

        found = {"gflops": _best(arithmetic)}
        for level, size in buffers.items():
            floats = size // 4 // 1024 * 1024
            memory = torch.zeros(floats + 16)
            skip = -memory.data_ptr() % 64  # a vector must not straddle two lines
            start = ctypes.c_void_p(memory.data_ptr() + skip)

            def reading(count: int, start=start, floats=floats) -> float:
                return read(start, ctypes.c_int64(floats), ctypes.c_int64(count), out)

            found[f"{level}_gbs"] = _best(reading)
    return found


def cache_bytes() -> dict[int, int]:
    """Return level -> bytes of the first core's data caches."""
    found = dict(USUAL_BYTES)
    for index in sorted(CACHES.glob("index*")):
        if (index / "type").read_text().strip() != "Instruction":
            size = (index / "size").read_text().strip()
            unit = {"K": 2**10, "M": 2**20}[size[-1]]
            found[int((index / "level").read_text())] = int(size[:-1]) * unit
    return found


def _compiled(folder: Path) -> ctypes.CDLL:
    target = folder / "roofline.so"
    try:
        compile_source(find_compiler(), SOURCE, target, FLAGS)
    except TokenredError as error:
        raise RuntimeError(str(error)) from error
    return ctypes.CDLL(str(target))


def _best(work: Callable[[int], float]) -> float:
    """Return the most work done in a nanosecond of CPU time, after a search for a fair count."""
    count = 1
    while True:
        start = time.process_time()
        work(count)
        if time.process_time() - start >= ROUND_S:
            break
        count *= 2
    rates = []
    for _ in range(ROUNDS):
        start = time.process_time()
        done = work(count)
        rates.append(done / (time.process_time() - start))
    return max(rates) / 1e9

"""What the compiler makes of the kernels for an H100 or H200, found out without one."""

import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from profiles import share

triton = pytest.importorskip("triton", reason="triton is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(triton.knobs.runtime.interpret, reason="triton's interpreter is on"),
]

SHARED_MOST = 227 * 1024
REGISTERS_MOST = 255
FLOATS = {"target", "tolerance", "alpha", "gamma", "epsilon", "floor", "strength"}
INTEGERS = {"index": "*i64", "n_iter": "*i64", "done": "*i32", "copy": "*bf16"}
FEATURES = {"tokens", "anchors"}
ONES = {"scaled_m", "source_n", "anchor_m", "tokens_d", "anchors_d", "index_m", "weights_m"}
ALIGNED = {"tokens_b", "tokens_n", "anchors_b", "anchors_m", "d"}
POINTERS = {
    *("scaled", "source", "anchor", "kernel", "next_scaling", "log_before", "weight_out"),
    *("weight_in", "plan", "rows", "source_scaling", "anchor_scaling", "out", "weights", "own"),
    "source_weight",
}


@dataclass(frozen=True)
class Built:
    """A compiled kernel: resources, and its instructions by name, in all and in loops."""

    registers: int
    stack: int
    shared: int
    ops: Counter[str]


def build(kernel: Any, constants: dict[str, Any], options: dict[str, Any], dtype: str) -> Built:
    """Compile with the specialisation of contiguous tensors of 3584 features."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, fixed, attributes = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants or name in ONES:
            signature[name], fixed[place,] = "constexpr", constants.get(name, 1)
        elif name in FLOATS:
            signature[name] = "fp32"
        elif name in FEATURES | POINTERS | INTEGERS.keys():
            features = name in FEATURES or (name == "out" and "weights" in kernel.arg_names)
            signature[name] = INTEGERS.get(name, f"*{dtype if features else 'fp32'}")
        else:
            signature[name] = "i32"
        if signature[name].startswith("*") or name in ALIGNED:
            attributes[place,] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, fixed, attributes)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    return _inspect(binary)


def _inspect(binary: Any) -> Built:
    import tempfile

    import triton.backends.nvidia as nvidia

    tools = Path(nvidia.__file__).parent / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary.asm["cubin"])

        def tool(*command: str) -> str:
            done = subprocess.run(
                [str(tools / command[0]), *command[1:], file.name], capture_output=True, check=True
            )
            return done.stdout.decode()

        usage = tool("cuobjdump", "-res-usage")
        assembly = tool("nvdisasm", "-c")
    registers, stack = (int(re.findall(rf"{name}:(\d+)", usage)[-1]) for name in ("REG", "STACK"))
    ops = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z0-9]+)", assembly, re.M))
    return Built(registers, stack, int(binary.metadata.shared), ops)


def fits(built: Built) -> None:
    """Nothing is spilled to memory, and one program fits on a multiprocessor."""
    assert built.stack == 0
    assert built.ops["STL"] == built.ops["LDL"] == 0
    assert built.registers <= REGISTERS_MOST
    assert built.shared <= SHARED_MOST


SIZES = {"603x126": (603, 126), "170x34": (170, 34), "300x200": (300, 200)}


@pytest.mark.parametrize("size", share(list(SIZES), 3))
def test_resident_sweeps(size: str) -> None:
    from tokenred.kernels.triton import sinkhorn
    from tokenred.kernels.triton.device.sinkhorn import sweep_resident

    n, m = SIZES[size]
    columns = sinkhorn.power_of_two(m)
    rows = sinkhorn.resident_rows(columns)
    constants = {
        "LAST_ANCHOR": True,
        "CHEBYSHEV": True,
        "TILES": -(-n // rows),
        "BN": rows,
        "BM": columns,
        "PART": sinkhorn.exact_rows(columns),
        "EMULATE": False,
    }
    built = build(sweep_resident, constants, sinkhorn.RESIDENT_OPTIONS, "fp32")
    fits(built)
    # The matrix is in shared memory, and both products run on the tensor cores.
    assert built.shared >= constants["TILES"] * rows * columns * 2
    assert built.ops["HGMMA"] > 0


@pytest.mark.parametrize(
    ("columns", "warm"), share(list(product([512, 128, 16, 256], [True, False])), 5)
)
def test_exact_sweeps(columns: int, warm: bool) -> None:
    from tokenred.kernels.triton import sinkhorn
    from tokenred.kernels.triton.device.sinkhorn import sweep_exact

    constants = {
        "LAST_ANCHOR": True,
        "CHEBYSHEV": warm,
        "RESIDUAL": True,
        "SCALING": False,
        "WARM": warm,
        "BN": sinkhorn.exact_rows(columns),
        "BM": columns,
    }
    fits(build(sweep_exact, constants, sinkhorn.EXACT_OPTIONS, "fp32"))


@pytest.mark.parametrize("dtype", share(["bf16", "fp16", "fp32"], 2))
def test_cost(dtype: str) -> None:
    from tokenred.kernels.triton import similarity
    from tokenred.kernels.triton.device.similarity import cosine_cost

    half = dtype != "fp32"
    height, width, depth = similarity.tile(126, half)
    constants = {
        "INDEXED": True,
        "PRECISION": "tf32" if half else "ieee",
        "BN": height,
        "BM": width,
        "BD": depth,
        "EMULATE": False,
    }
    options = similarity.HALF_OPTIONS if half else similarity.WIDE_OPTIONS
    built = build(cosine_cost, constants, options, dtype)
    fits(built)
    assert built.ops["LDGSTS"] > 0  # tiles arrive while others are multiplied
    assert (built.ops["HGMMA"] > 0) == half  # float32 is not rounded to tf32


@pytest.mark.parametrize("dtype", share(["bf16", "fp16", "fp32"], 2))
def test_merge(dtype: str) -> None:
    import torch

    from tokenred.kernels.triton import merge
    from tokenred.kernels.triton.device.merge import merge as kernel

    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    width, depth, height = merge.tile(126, torch_dtype)
    constants = {
        "INDEXED": True,
        "AVERAGE": True,
        "WEIGHED": False,
        "MODE": merge.MODES[torch_dtype],
        "BM": width,
        "BD": depth,
        "BN": height,
    }
    built = build(kernel, constants, merge.OPTIONS, dtype)
    fits(built)
    assert (built.ops["HGMMA"] > 0) == (dtype != "fp32")

"""The compiled library: where it lies, how it is called, and when it may be loaded."""

import ctypes
import hashlib
import json
import math
import os
import platform
import stat
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

SOURCE = Path(__file__).with_name("sinkhorn.c")
FOLDER = Path("~/.cache/tokenred/native")
"""Where libraries are kept, for each user."""
CPUINFO = Path("/proc/cpuinfo")
BASE_FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-fPIC", "-shared")
FLAGS = (
    (*BASE_FLAGS, "-march=native", "-fopenmp"),
    (*BASE_FLAGS, "-march=native"),
    (*BASE_FLAGS, "-mcpu=native"),
    BASE_FLAGS,
)
"""What is asked of the compiler; the first that it takes."""
CODES = ("none", "residual", "scaling")
"""Stop rules in the order of the enum in sinkhorn.c."""
STOPS = (*CODES, "scaling-batch")
FIRST_LOOK = 4
"""Sweeps after which a batch is asked for the first time whether it has stopped, then doubled."""


@dataclass(frozen=True)
class BackendSolution:
    """What a solver in the kernel domain hands back, for each problem.

    Attributes
    ----------
    n_iter : sweeps made, until the problem stopped
    done : whether its stop rule fired; never with stop ``none``
    fell : the sweep after which it went on without acceleration; 0, or None for all: never
    restarted : whether it began anew there
    """

    plan: Float[Tensor, "batch sources anchors"]
    source_scaling: Float[Tensor, "batch sources"]
    anchor_scaling: Float[Tensor, "batch anchors"]
    n_iter: Int64[Tensor, "batch"]
    done: Bool[Tensor, "batch"]
    fell: Int64[Tensor, "batch"] | None = None
    restarted: Bool[Tensor, "batch"] | None = None


class _Order(ctypes.Structure):
    """``Order`` of sinkhorn.c, field by field."""

    _fields_ = [
        ("problems", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("m", ctypes.c_int64),
        ("problem_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("column_stride", ctypes.c_int64),
        ("max_iter", ctypes.c_int64),
        ("stop", ctypes.c_int64),
        ("source_last", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("epsilon", ctypes.c_float),
        ("tolerance", ctypes.c_float),
        ("defect_tolerance", ctypes.c_float),
        ("rho", ctypes.c_float),
    ]


class Library:
    """A loaded library.

    Raises
    ------
    OSError
        If the file is no library for this machine.
    AttributeError
        If it lacks a function.
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._sinkhorn = self._library.tokenred_sinkhorn
        self._sinkhorn.argtypes = [ctypes.POINTER(_Order), *[ctypes.c_void_p] * 8]
        self._exponential = self._library.tokenred_exponential
        self._exponential.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        self._exponential.restype = None

    def solve(
        self,
        cost: Float[Tensor, "batch sources anchors"],
        source: Float[Tensor, "batch sources"],
        anchor: Float[Tensor, "batch anchors"],
        *,
        epsilon: float,
        max_iter: int,
        stop: str,
        tolerance: float,
        last: str,
        rho: float | None,
    ) -> BackendSolution:
        """Solve; see ``tokenred.kernels.native.solve``, which looks at the tensors first.

        Raises
        ------
        MemoryError
            If there is no room for one kernel matrix for each thread.
        """
        tensors = cost, source, anchor
        options: dict[str, Any] = {
            "epsilon": epsilon,
            "tolerance": tolerance,
            "last": last,
            "rho": rho,
        }
        if stop != "scaling-batch":
            return self._call(*tensors, max_iter, stop, **options)
        # The batch stops as one: first look for the sweep that it stops at, then go there.
        real = (source > 0) & (anchor > 0).any(-1, keepdim=True)
        limit = tolerance * int(real.sum().clamp_min(1))
        sweeps = 0
        while sweeps < max_iter:
            sweeps = min(max_iter, max(FIRST_LOOK, 2 * sweeps))
            changes = cost.new_empty(cost.shape[0], sweeps)
            solved = self._call(*tensors, sweeps, "none", changes=changes, **options)
            below = (changes.sum(0) < limit).nonzero()
            if below.numel():
                solved = self._call(*tensors, int(below[0]) + 1, "none", **options)
                return replace(solved, done=torch.ones_like(solved.done))
        return solved

    def _call(
        self,
        cost: Float[Tensor, "batch sources anchors"],
        source: Float[Tensor, "batch sources"],
        anchor: Float[Tensor, "batch anchors"],
        max_iter: int,
        stop: str,
        *,
        epsilon: float,
        tolerance: float,
        last: str,
        rho: float | None,
        changes: Float[Tensor, "batch sweeps"] | None = None,
    ) -> BackendSolution:
        batch, sources, anchors = cost.shape
        source, anchor = source.contiguous(), anchor.contiguous()
        plan = cost.new_empty(cost.shape)
        scalings = cost.new_empty(batch, sources), cost.new_empty(batch, anchors)
        outcomes = torch.empty(batch, 4, dtype=torch.int64)
        order = _Order(
            *(batch, sources, anchors, *cost.stride(), max_iter, CODES.index(stop)),
            *(last == "source", torch.get_num_threads()),
            *(epsilon, tolerance, math.log1p(tolerance), rho or 0.0),
        )
        failed = self._sinkhorn(
            order,
            *(tensor.data_ptr() for tensor in (cost, source, anchor, plan, *scalings)),
            None if changes is None else changes.data_ptr(),
            outcomes.data_ptr(),
        )
        if failed:
            raise MemoryError(f"no memory for a kernel matrix of {sources} x {anchors}")
        n_iter, done, fell, restarted = outcomes.unbind(-1)
        return BackendSolution(plan, *scalings, n_iter, done > 0, fell, restarted > 0)

    def exponential(self, x: Float[Tensor, "count"]) -> Float[Tensor, "count"]:
        """Return e^x as the kernel matrix is made with it; for tests of its accuracy."""
        x = x.contiguous()
        y = torch.empty_like(x)
        self._exponential(x.data_ptr(), y.data_ptr(), x.numel())
        return y


@dataclass(frozen=True)
class Built:
    """What is known of a library that was built and checked; kept beside it as JSON."""

    compiler: str
    flags: tuple[str, ...]
    checksum: str

    @property
    def threads(self) -> bool:
        """Whether it runs problems side by side."""
        return "-fopenmp" in self.flags

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Built":
        """Read what ``write`` wrote.

        Raises
        ------
        ValueError
            If the file holds anything else.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(data["compiler"]), tuple(data["flags"]), str(data["checksum"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path.name} is damaged") from error


@cache
def library_key() -> str:
    """Return 16 hex digits over all that a library depends on: source, flags and processor.

    It is part of the name of the file, so that no other one is ever loaded.
    """
    digest = hashlib.sha256(SOURCE.read_bytes())
    digest.update(repr((FLAGS, platform.system(), _processor())).encode())
    return digest.hexdigest()[:16]


def library_path(folder: Path) -> Path:
    """Return where the library for this machine lies, or would."""
    # Unlike Path.expanduser, this leaves a home that nobody knows alone.
    return Path(os.path.expanduser(folder)) / f"sinkhorn-{library_key()}.so"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def library_checksum() -> str:
    """Return the checksum of the library in ``FOLDER``: compilers differ under the same key."""
    return checksum(library_path(FOLDER))


def check_trust(path: Path) -> None:
    """Make sure that nobody else can have put a library there.

    Raises
    ------
    ValueError
        If the file, what was written down of it, or a folder above them belongs to somebody else
        than the user and root, or others may write to it. Folders with a sticky bit, such as /tmp,
        keep what is in them.
    """
    if not hasattr(os, "getuid"):
        return
    above = {*path.absolute().parents, *path.resolve().parents}
    for each in (path, path.with_suffix(".json"), *sorted(above)):
        found = each.stat()
        shared = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
            shared = 0
        if found.st_uid not in (os.getuid(), 0) or shared:
            raise ValueError(f"{each} is not trusted: others may write to it, or own it")


def load_library(folder: Path) -> tuple[Library, Built] | None:
    """Load the library for this machine; None if there is none.

    Raises
    ------
    ValueError
        If there is one that does not work, or is not as it was built; the message says what to do.
    """
    path = library_path(folder)
    if not all(map(os.path.isfile, (path, path.with_suffix(".json")))):  # False if unreadable
        return None
    try:
        check_trust(path)
        built = Built.read(path.with_suffix(".json"))
        if checksum(path) != built.checksum:
            raise ValueError(f"{path.name} is not as it was built")
        return Library(path), built
    except (OSError, AttributeError, ValueError) as error:
        raise ValueError(f"{error}: run `tokenred native build` again") from error


def find_library() -> Library | None:
    """Return the library in ``FOLDER`` if there is one that works; looked for once a process."""
    return _found(FOLDER)


@cache
def _found(folder: Path) -> Library | None:
    try:
        loaded = load_library(folder)
    except ValueError:
        return None  # `tokenred doctor` and `tokenred native` say why
    return loaded and loaded[0]


def forget_library() -> None:
    """Look for the library again the next time; what is loaded stays in memory."""
    _found.cache_clear()
    library_checksum.cache_clear()


def _processor() -> str:
    """Return the model of the processor and what it can do, as far as the system tells."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.is_file() else []
    told = {line.partition(":")[0].strip(): line for line in lines}
    names = ("model name", "flags", "CPU implementer", "CPU part", "Features")
    found = [told[name] for name in names if name in told]
    return "\n".join(found) or f"{platform.machine()} {platform.processor()}"

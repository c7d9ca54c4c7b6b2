"""Compiles the library, tries it, and puts it where it is looked for; or takes it away."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from tokenred.errors import TokenredError
from tokenred.kernels.native import library as libraries
from tokenred.kernels.native.library import (
    FLAGS,
    SOURCE,
    Built,
    Library,
    checksum,
    forget_library,
    library_path,
)

COMPILERS = ("cc", "gcc", "clang")
TIMEOUT_S = 120


def find_compiler(wanted: str | None = None) -> str:
    """Return the path of the compiler.

    Raises
    ------
    TokenredError
        If there is none, or not the one that is wanted.
    """
    names = (wanted,) if wanted else COMPILERS
    found = next((path for path in map(shutil.which, names) if path), None)
    if found is None:
        raise TokenredError(f"no C compiler: looked for {', '.join(names)}")
    return found


def build_library(folder: Path | None = None, compiler: str | None = None) -> tuple[Path, Built]:
    """Compile the library for this machine, compare it with torch, and keep it.

    Parameters
    ----------
    folder : where to; ``FOLDER``, for this user, if None
    compiler : name or path; the first of ``COMPILERS`` if None

    Raises
    ------
    TokenredError
        If there is no compiler, it fails, its library is wrong, or the folder cannot be written.
    """
    path = library_path(libraries.FOLDER if folder is None else folder)
    program = find_compiler(compiler)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as place:
            made = Path(place, path.name)
            flags = compile_source(program, SOURCE, made, FLAGS)
            check_library(Library(made))
            built = Built(_version(program), flags, checksum(made))
            built.write(made.with_suffix(".json"))
            # The record goes last: a library without one, or with another's, is not loaded.
            made.replace(path)
            made.with_suffix(".json").replace(path.with_suffix(".json"))
    except (OSError, AttributeError) as error:
        raise TokenredError(f"the native library cannot be built: {error}") from error
    forget_library()
    return path, built


def compile_source(
    compiler: str, source: Path, target: Path, flags: tuple[tuple[str, ...], ...]
) -> tuple[str, ...]:
    """Compile a C file with the first flags that the compiler takes; return them.

    Raises
    ------
    TokenredError
        If it takes none; the message is the first complaint about the last of them.
    """
    said = ""
    for each in flags:
        command = [compiler, *each, str(source), "-o", str(target)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise TokenredError(f"{compiler} failed: {error}") from error
        if done.returncode == 0 and target.is_file():
            return each
        said = done.stderr or done.stdout
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = next(
        (line for line in lines if "error" in line), lines[0] if lines else "it does not say why"
    )
    raise TokenredError(f"{compiler} failed: {reason}")


def remove_libraries(folder: Path | None = None) -> list[Path]:
    """Delete the libraries of the folder, old ones too; return what was deleted.

    Raises
    ------
    TokenredError
        If one cannot be deleted.
    """
    place = (libraries.FOLDER if folder is None else folder).expanduser()
    found = sorted(place.glob("sinkhorn-*.so"))
    try:
        for path in (*found, *place.glob("sinkhorn-*.json")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise TokenredError(f"the native library cannot be removed: {error}") from error
    forget_library()
    return found


def check_library(library: Library) -> None:
    """Compare a library with float64 torch on problems that reach all of its code.

    Raises
    ------
    TokenredError
        If it is wrong.
    """
    for sources, anchors, column_major in ((37, 19, False), (70, 33, True), (3, 5, False)):
        scaled, source, anchor = _problems(sources, anchors)
        if column_major:
            scaled = scaled.mT.contiguous().mT
        for last in ("anchor", "source"):
            for rho in (None, 0.5):
                solved = library.solve(
                    scaled,
                    source,
                    anchor,
                    epsilon=1.0,
                    max_iter=40,
                    stop="none",
                    tolerance=0.0,
                    last=last,
                    rho=rho,
                )
                wanted = _reference(scaled, source, anchor, last)
                worst = (solved.plan - wanted).abs().amax() / wanted.amax()
                if not worst < 1e-5:
                    raise TokenredError(
                        "the native library was built but is wrong: it differs from torch by "
                        f"{worst:.1e} of the largest entry, so it was not kept"
                    )


def _problems(sources: int, anchors: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scaled = 3 * torch.rand(3, sources, anchors, generator=generator)
    source = torch.rand(3, sources, generator=generator) + 0.5
    anchor = torch.rand(3, anchors, generator=generator) + 0.5
    source[1, -1] = 0
    anchor[1, 0] = 0
    return scaled, source / source.sum(-1, True), anchor / anchor.sum(-1, True)


def _reference(scaled: Tensor, source: Tensor, anchor: Tensor, last: str) -> Tensor:
    kernel, u, v = (-scaled.double()).exp(), source.double(), anchor.double()
    r, c = torch.ones_like(u), torch.ones_like(v)
    for _ in range(60):
        if last == "anchor":
            r = u / (kernel @ c[..., None])[..., 0]
        c = v / (kernel.mT @ r[..., None])[..., 0]
        if last == "source":
            r = u / (kernel @ c[..., None])[..., 0]
    return r[..., :, None] * kernel * c[..., None, :]


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    first = done.stdout.splitlines()[:1]
    return f"{compiler} ({first[0]})" if first else os.fspath(compiler)

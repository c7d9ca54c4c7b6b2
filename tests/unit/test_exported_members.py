import importlib

import pytest

PUBLIC = [
    "tokenred",
    "tokenred.accounting",
    "tokenred.pipeline",
    "tokenred.models",
    "tokenred.embedded",
    "tokenred.testing",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_exported_name_exists_once(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(getattr(module, member, None) is not None for member in module.__all__)


def test_every_public_name_of_the_package_is_exported():
    module = importlib.import_module("tokenred")
    ours = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("tokenred.")
    }
    assert ours <= set(module.__all__)

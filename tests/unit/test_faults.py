"""The list of seeded faults fits the code; ``make faults`` says whether tests catch them."""

import ast
from collections import Counter

import pytest

from faults import HERE, ROOT, Fault, load

FAULTS = load()


def test_faults_have_names_of_their_own() -> None:
    lines = [line for path in HERE.glob("*.yaml") for line in path.read_text().splitlines()]
    names = Counter(line for line in lines if line and line[0] not in "# ")
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_applies_and_has_tests(fault: Fault) -> None:
    text = fault.text()
    assert fault.old != fault.new
    if fault.file.endswith(".py"):
        ast.parse(text)
    named = [name for name in fault.arguments if name.startswith(("tests/", "plugins/"))]
    assert named
    for name in named:
        path, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}" in (ROOT / path).read_text(), name

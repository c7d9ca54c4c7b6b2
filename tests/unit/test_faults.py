"""The list of seeded faults fits the code; ``make faults`` says whether tests catch them."""

import ast
from collections import Counter
from collections.abc import Iterator

from faults import HERE, ROOT, Fault, load


def test_every_fault_has_a_name_of_its_own() -> None:
    lines = [line for path in HERE.glob("*.yaml") for line in path.read_text().splitlines()]
    names = Counter(line for line in lines if line and line[0] not in "# ")
    assert [name for name, count in names.items() if count > 1] == []
    assert len(names) == len(load())


def test_every_fault_applies_and_has_tests() -> None:
    assert [misfit for fault in load() for misfit in misfits(fault)] == []


def misfits(fault: Fault) -> Iterator[str]:
    """Yield what is wrong with an entry of the list."""
    try:
        text = fault.text()
        if fault.file.endswith(".py"):
            ast.parse(text)
    except (ValueError, SyntaxError) as error:
        yield f"{fault.id}: {error}"
    named = [name for name in fault.arguments if name.startswith(("tests/", "plugins/"))]
    if not named or fault.old == fault.new:
        yield f"{fault.id} has no tests, or changes nothing"
    for name in named:
        path, _, test = name.partition("::")
        code = (ROOT / path).read_text() if (ROOT / path).is_file() else ""
        if f"def {test.partition('[')[0]}" not in code:
            yield f"{fault.id}: there is no {name}"

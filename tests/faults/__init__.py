"""Seeded faults: mistakes that a programmer may make, each of which some test must catch.

The list is data, one YAML file an area. An entry names a file, a text that stands there exactly
once, what takes its place, and the tests that belong to that code: all of the area, not the one
that is known to fail. ``python -m faults`` (``make faults``) applies each in a copy and runs them.

mutmut and cosmic-ray make their mutants themselves, by operators on the syntax tree, and run one
command for all: neither takes a list, nor mistakes of more than one token, nor tests for each.
"""

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes
    ----------
    area : name of the YAML file
    file : relative to the root of the repository
    old, new : texts; ``old`` stands in the file once
    tests : what pytest is given, as on a command line
    """

    area: str
    id: str
    file: str
    old: str
    new: str
    tests: str

    @cached_property
    def arguments(self) -> list[str]:
        """Arguments of pytest."""
        return shlex.split(self.tests)

    def text(self, root: Path = ROOT) -> str:
        """Return the file with the fault in it.

        Raises
        ------
        ValueError
            If the text to be replaced does not stand there exactly once.
        """
        path = root / self.file
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        if before.count(self.old) != 1:
            raise ValueError(
                f"{self.id} no longer applies: its text stands {before.count(self.old)} times in "
                f"{self.file}"
            )
        return before.replace(self.old, self.new)


def load() -> list[Fault]:
    """Return all faults, area by area."""
    return list(_read())


def chosen(faults: Sequence[Fault], words: Collection[str]) -> list[Fault]:
    """Return the faults that words mean: ids, areas, or else parts of paths of code or tests."""
    names = {name for fault in faults for name in (fault.id, fault.area)}

    def means(word: str, fault: Fault) -> bool:
        if word in names:
            return word in (fault.id, fault.area)
        return word in fault.file or word in fault.tests

    return [fault for fault in faults if any(means(word, fault) for word in words)]


def _read() -> Iterator[Fault]:
    for path in sorted(HERE.glob("*.yaml")):
        for id_, entry in yaml.safe_load(path.read_text(encoding="utf-8")).items():
            yield Fault(area=path.stem, id=id_, **entry)

"""What the workers of ``tests/integration/test_ray.py`` hold; they import it by name."""

import os
import signal
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.evaluation_toys import ToyEncoded, ToyModel
from tokenred.errors import InputError
from tokenred.evaluation.model import Answer
from tokenred.evaluation.task import Sample

VERSION = "0.1.0+toys"


def fix_versions() -> None:
    """Let workers say the version that the tests say, whoever saves a source file meanwhile."""
    from tokenred.evaluation.executors import ray_worker

    ray_worker.versions = lambda: {"tokenred": VERSION}


@dataclass(frozen=True)
class Trouble:
    """What befalls workers, and where.

    Attributes
    ----------
    folder : each worker leaves its process id in it, and what happened once
    dies_on, dies_always_on : samples on which the process is killed, once or every time
    fails_on : samples that cannot be encoded
    seconds : that a sample takes
    """

    folder: Path
    dies_on: tuple[str, ...] = ()
    dies_always_on: tuple[str, ...] = ()
    fails_on: tuple[str, ...] = ()
    seconds: float = 0.0

    def model(self) -> "TroubledModel":
        """Return a model that these things happen to."""
        (self.folder / f"pid-{os.getpid()}").touch()
        return TroubledModel(self)

    def first(self, what: str) -> bool:
        """Return whether this did not happen before, in any process."""
        try:
            (self.folder / what.replace("/", "-")).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class TroubledModel(ToyModel):
    """A toy model in a process to which bad things happen."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.seconds)
        self.trouble = trouble
        self.n_answers: Counter[str] = Counter()

    def encode(self, sample: Sample, needs: Collection[str]) -> ToyEncoded:
        trouble = self.trouble
        if sample.id in trouble.dies_always_on:
            os.kill(os.getpid(), signal.SIGKILL)
        if sample.id in trouble.fails_on:
            raise InputError("the video is corrupt")
        return super().encode(sample, needs)

    def answers(self, encoded: Any, reduced: Any, sample: Sample, *rest: Any) -> list[Answer]:
        self.n_answers[sample.id] += 1
        third = self.n_answers[sample.id] == 3  # some rows are answered, others not
        if third and sample.id in self.trouble.dies_on and self.trouble.first(f"died {sample.id}"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().answers(encoded, reduced, sample, *rest)

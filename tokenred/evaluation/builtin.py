"""The tasks and scorers of this package, registered through the same hooks as everybody else's."""

from tokenred.evaluation.scorers import Contains, ExactMatch, ScorerConfig, TokenF1
from tokenred.evaluation.tasks.embedded import EmbeddedTask, EmbeddedTaskConfig
from tokenred.evaluation.tasks.local import LocalTask, LocalTaskConfig
from tokenred.hookspecs import Register, hookimpl


@hookimpl
def register_tasks(register: Register) -> None:
    """Register the built-in tasks."""
    register("embedded", EmbeddedTask, EmbeddedTaskConfig)
    register("local", LocalTask, LocalTaskConfig)


@hookimpl
def register_scorers(register: Register) -> None:
    """Register the built-in scorers of free text."""
    register("exact-match", ExactMatch, ScorerConfig)
    register("contains", Contains, ScorerConfig)
    register("token-f1", TokenF1, ScorerConfig)

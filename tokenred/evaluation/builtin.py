"""The tasks and scorers of this package, registered through the same hooks as everybody else's."""

from tokenred.hookspecs import Register, hookimpl


@hookimpl
def register_tasks(register: Register) -> None:
    """Register the built-in tasks."""
    register("embedded", ".tasks.embedded:EmbeddedTask", "EmbeddedTaskConfig")
    register("local", ".tasks.local:LocalTask", "LocalTaskConfig")


@hookimpl
def register_scorers(register: Register) -> None:
    """Register the built-in scorers of free text."""
    register("exact-match", ".scorers:ExactMatch", "ScorerConfig")
    register("contains", ".scorers:Contains", "ScorerConfig")
    register("token-f1", ".scorers:TokenF1", "ScorerConfig")

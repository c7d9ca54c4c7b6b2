"""Built-in tasks, scorers, ablations and executors, registered through the public hooks."""

from tokenred.files import shipped_files
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


@hookimpl
def register_ablations(register: Register) -> None:
    """Register the ablation files that ship with the package."""
    for name, path in shipped_files("ablations").items():
        register(name, path)


@hookimpl
def register_executors(register: Register) -> None:
    """Register the built-in executors."""
    register("local", ".worker:in_process")
    register("ray", ".executors.ray:with_ray")

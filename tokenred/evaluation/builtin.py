"""Built-in tasks, scorers, ablations and executors, registered through the public hooks."""

from tokenred.files import shipped_files
from tokenred.hookspecs import Register, hookimpl


@hookimpl
def register_strategies(register: Register) -> None:
    """Register the built-in tasks, and the scorers of free text."""
    register("embedded", ".tasks.embedded:EmbeddedTask", "task")
    register("local", ".tasks.local:LocalTask", "task")
    register("exact-match", ".scorers:ExactMatch", "scorer")
    register("contains", ".scorers:Contains", "scorer")
    register("token-f1", ".scorers:TokenF1", "scorer")


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

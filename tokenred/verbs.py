"""The verbs of the command line, registered through the same hook as everybody else's."""

from tokenred.hookspecs import Register, hookimpl

VERBS = {
    "ablate": "ablate:ablate",
    "bench": "bench:bench",
    "overlap": "overlap:overlap",
    "export": "export:export",
    "report": "report:report",
    "run": "run:run",
    "viz": "viz:viz",
    "flops": "flops:flops",
    "list": "listing:list_",
    "plugins": "plugins:plugins",
    "conformance": "conformance:conformance",
    "doctor": "doctor:doctor",
    "config": "config:app",
    "native": "native:app",
}


@hookimpl
def register_verbs(register: Register) -> None:
    """Register the verbs of this package."""
    for name, target in VERBS.items():
        register(name, f"tokenred.cli.{target}")

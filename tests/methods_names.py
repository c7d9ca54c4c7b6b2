"""The names that tokenred-methods brings: ``python -m methods_names`` writes ``methods.json``."""

import json

from tokenred import registry
from tokenred.registry import METHODS

OWNER = "tokenred-methods"


def names() -> dict[str, list[str]]:
    """Return role, ``pipeline`` or ``ablation`` -> names, as the distribution registers them."""
    presets = registry().presets().items()
    found = {"pipeline": [name for name, (_, owner) in presets if owner == OWNER]}
    found["ablation"] = [n for n, (_, owner) in registry().ablations().items() if owner == OWNER]
    for entry in registry().entries():
        if entry.owner == OWNER:
            found.setdefault(entry.role, []).append(entry.name)
    return found


if __name__ == "__main__":
    METHODS.write_text(json.dumps(names(), indent=1) + "\n", encoding="utf-8")

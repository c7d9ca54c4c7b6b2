"""``tokenred plugins``: every installed plugin, what it brings, and why it failed if it did."""

from dataclasses import asdict

from tokenred.cli._common import Json, columns, emit, say
from tokenred.registry import registry


def plugins(json: Json = False) -> None:
    """Show the status of every third-party plugin; a broken one never stops the others."""
    from tokenred.plugins import plugin_statuses

    rows = [
        {**asdict(status), "brings": _brings(status.distribution)} for status in plugin_statuses()
    ]
    if json:
        emit(rows)
        return
    if not rows:
        say("no third-party plugin is installed, or they are switched off")
        return
    for row in rows:
        row["state"] = f"failed: {row['error']}" if row["error"] else ", ".join(row["brings"])
    print(columns([[r["name"], r["distribution"], r["version"], r["state"]] for r in rows]))


def _brings(owner: str) -> list[str]:
    names = [f"{entry.role} {entry.name}" for entry in registry().entries() if entry.owner == owner]
    names += [
        f"preset {name}" for name, (_, whose) in registry().presets().items() if whose == owner
    ]
    names += [
        f"model class {name}"
        for name, (_, whose) in registry().adapters().items()
        if whose == owner
    ]
    return names

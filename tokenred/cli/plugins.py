"""``tokenred plugins``: installed plugins, what they register, and load errors."""

from dataclasses import asdict

from tokenred.cli._common import Json, PluginFiles, align_columns, emit, say
from tokenred.plugins import registry

EXAMPLES = ("tokenred plugins",)
"""What its help shows."""


def plugins(plugin: PluginFiles = None, json: Json = False) -> None:
    """Show the status of every third-party plugin; one that fails does not stop the others."""
    from tokenred.plugins import plugin_statuses

    rows = [
        {**asdict(status), "brings": registry().owned(status.distribution)}
        for status in plugin_statuses()
    ]
    if json:
        emit(rows)
        return
    if not rows:
        say("no third-party plugin is installed, or they are switched off")
        return
    for row in rows:
        row["state"] = f"failed: {row['error']}" if row["error"] else ", ".join(row["brings"])
    print(align_columns([[r["name"], r["distribution"], r["version"], r["state"]] for r in rows]))

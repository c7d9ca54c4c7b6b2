"""``tokenred config``: show, hash and describe pipelines."""

from importlib import import_module
from typing import Annotated

import typer

from tokenred.cli._common import Json, Overrides, PluginFiles, emit, parse_overrides
from tokenred.errors import ConfigError, nearest, shown

EXAMPLES = (
    "tokenred config show aot --set budget.retention_ratio=0.2",
    "tokenred config hash mine.yaml",
    "tokenred config schema ablation > ablation.schema.json",
)
"""What its help shows."""

SCHEMAS = {
    "pipeline": ("tokenred.pipeline.config", "pipeline_schema"),
    "ablation": ("tokenred.evaluation.ablation", "ablation_schema"),
    "task": ("tokenred.evaluation.task", "task_schema"),
}
"""Kind of file -> what makes its schema."""

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show, describe and hash pipelines."
)
Name = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="Name of a preset, or path of a YAML file.")
]


@app.command()
def show(
    pipeline: Name, set_: Overrides = None, plugin: PluginFiles = None, json: Json = False
) -> None:
    """Print a pipeline with every default filled in, as a pipeline file."""
    import yaml

    from tokenred.pipeline.config import load_config

    data = load_config(pipeline, parse_overrides(set_)).to_dict()
    if json:
        emit(data)
    else:
        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100), end="")


@app.command(name="hash")
def hash_(
    pipeline: Name, set_: Overrides = None, plugin: PluginFiles = None, json: Json = False
) -> None:
    """Print the config_id: equal for equal pipelines, whatever their names."""
    from tokenred.pipeline.config import load_config

    config = load_config(pipeline, parse_overrides(set_))
    if json:
        emit({"name": config.name, "config_id": config.config_id, "canonical": config.canonical()})
    else:
        print(config.config_id)


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(metavar="[KIND]", help="pipeline, ablation or task.")
    ] = "pipeline",
    plugin: PluginFiles = None,
) -> None:
    """Print the JSON schema of a kind of file, with all that is registered, for editors."""
    if kind not in SCHEMAS:
        raise ConfigError(f"there is no schema of '{shown(kind)}'{nearest(kind, SCHEMAS)}")
    module, name = SCHEMAS[kind]
    emit(getattr(import_module(module), name)())

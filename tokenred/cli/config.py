"""``tokenred config``: show, hash and describe pipelines."""

from typing import Annotated

import typer

from tokenred.cli._common import Json, Overrides, PluginFiles, emit, parse_overrides

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
def schema(plugin: PluginFiles = None) -> None:
    """Print the JSON schema of pipeline files, with all registered strategies, for editors."""
    from tokenred.pipeline.config import pipeline_schema

    emit(pipeline_schema())

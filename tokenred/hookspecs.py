"""The doors through which strategies come in, ours and everybody else's.

A plugin implements any of these hooks with :data:`tokenred.hookimpl` and calls ``register`` once
for each thing it brings::

    @hookimpl
    def register_strategies(register):
        register("nearest", NearestCoupler)

Classes may be given by name, ``register("nearest", ".couplers:NearestCoupler", "coupler")``, with
their role, and are then imported when they are first used. Dots in front stand for the package of
the plugin, as in imports. A plugin in several packages names those with hooks in
``tokenred_plugins = (".one", ".two")``.
"""

from collections.abc import Callable

import pluggy

PROJECT = "tokenred"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[..., None]


@hookspec
def register_strategies(register: Register) -> None:
    """Call ``register(name, Class)`` for every strategy, of any role, and every task and scorer.

    A class derives from the base of its role; one that is given by name says it, too:
    ``register(name, "module:Class", "cost term")``.
    """


@hookspec
def register_model_adapters(register: Register) -> None:
    """Call ``register(model_class_name, "module:AdapterClass")`` for every model family.

    Subclasses of the model class are served too. The module is imported when such a model turns up.
    """


@hookspec
def register_presets(register: Register) -> None:
    """Call ``register(name, path_to_yaml)`` for every pipeline file that the plugin ships."""


@hookspec
def register_ablations(register: Register) -> None:
    """Call ``register(name, path_to_yaml)`` for every ablation file that the plugin ships."""


@hookspec
def register_verbs(register: Register) -> None:
    """Call ``register(name, "module:function")`` for every verb of the command line.

    Instead of a function it may be a ``typer.Typer``. The module is imported when it is needed.
    """


@hookspec
def register_executors(register: Register) -> None:
    """Call ``register(name, "module:function")`` for every executor that ``ablate`` may use.

    The function is called with an ``ExecutorRequest`` and returns the executor.
    """

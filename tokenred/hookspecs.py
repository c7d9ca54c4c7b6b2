"""The doors through which strategies come in, ours and everybody else's.

A plugin implements any of these hooks with :data:`tokenred.hookimpl` and calls ``register`` once
for each thing it brings::

    @hookimpl
    def register_couplers(register):
        register("nearest", NearestCoupler, NearestConfig)

Classes may be given by name, ``register("nearest", ".couplers:NearestCoupler", "NearestConfig")``,
and are then imported when they are first used. Dots in front stand for the package of the plugin,
as in imports; a name alone is one of the same module. A plugin in several packages names those with
hooks in ``tokenred_plugins = (".one", ".two")``.
"""

from collections.abc import Callable

import pluggy

PROJECT = "tokenred"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Register = Callable[..., None]


@hookspec
def register_selectors(register: Register) -> None:
    """Call ``register(name, SelectorClass, ConfigClass)`` for every anchor selector."""


@hookspec
def register_couplers(register: Register) -> None:
    """Call ``register(name, CouplerClass, ConfigClass)`` for every coupler."""


@hookspec
def register_aggregators(register: Register) -> None:
    """Call ``register(name, AggregatorClass, ConfigClass)`` for every aggregator."""


@hookspec
def register_segmenters(register: Register) -> None:
    """Call ``register(name, SegmenterClass, ConfigClass)`` for every temporal segmenter."""


@hookspec
def register_cost_terms(register: Register) -> None:
    """Call ``register(name, CostTermClass, ConfigClass)`` for every cost term."""


@hookspec
def register_keep_scores(register: Register) -> None:
    """Call ``register(name, KeepScoreClass, ConfigClass)`` for every keep score."""


@hookspec
def register_keep_decisions(register: Register) -> None:
    """Call ``register(name, KeepDecisionClass, ConfigClass)`` for every keep decision."""


@hookspec
def register_frame_references(register: Register) -> None:
    """Call ``register(name, ReferenceClass, ConfigClass)`` for every frame reference."""


@hookspec
def register_static_rules(register: Register) -> None:
    """Call ``register(name, RuleClass, ConfigClass)`` for every static rule."""


@hookspec
def register_budget_allocators(register: Register) -> None:
    """Call ``register(name, AllocatorClass, ConfigClass)`` for every budget allocator."""


@hookspec
def register_token_groupers(register: Register) -> None:
    """Call ``register(name, GrouperClass, ConfigClass)`` for every token grouper."""


@hookspec
def register_token_rankers(register: Register) -> None:
    """Call ``register(name, RankerClass, ConfigClass)`` for every token ranker inside the LLM."""


@hookspec
def register_layer_mergers(register: Register) -> None:
    """Call ``register(name, MergerClass, ConfigClass)`` for every merger inside the LLM."""


@hookspec
def register_layer_reducers(register: Register) -> None:
    """Call ``register(name, ReducerClass, ConfigClass)`` for every reducer inside the LLM."""


@hookspec
def register_cache_pruners(register: Register) -> None:
    """Call ``register(name, PrunerClass, ConfigClass)`` for every pruner of the cache."""


@hookspec
def register_model_adapters(register: Register) -> None:
    """Call ``register(model_class_name, "module:AdapterClass")`` for every model family.

    Subclasses of the model class are served too. The module is imported when such a model turns up.
    """


@hookspec
def register_tasks(register: Register) -> None:
    """Call ``register(name, TaskClass, ConfigClass)`` for every task that methods are judged on."""


@hookspec
def register_scorers(register: Register) -> None:
    """Call ``register(name, ScorerClass, ConfigClass)`` for every scorer of free text."""


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

"""From a name to a model that runs: its files, its class, its weights, its tokenizer."""

from tokenred.models.loading.model import LoadedModel, LoadPlan, load_model
from tokenred.models.loading.recipe import Recipe

__all__ = ["LoadPlan", "LoadedModel", "Recipe", "load_model"]

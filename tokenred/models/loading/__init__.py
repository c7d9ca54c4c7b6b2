"""Load a model by name: files, class, weights, tokenizer."""

from tokenred.models.loading.model import LoadedModel, LoadPlan, load_model
from tokenred.models.loading.recipe import Recipe

__all__ = ["LoadPlan", "LoadedModel", "Recipe", "load_model"]

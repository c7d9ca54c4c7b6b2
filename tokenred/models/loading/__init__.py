"""From a name to a model that runs: its files, its class, its weights, its tokenizer."""

from tokenred.models.loading.model import LoadedModel, LoadPlan, load_model

__all__ = ["LoadPlan", "LoadedModel", "load_model"]

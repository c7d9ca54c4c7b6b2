"""VTW, arXiv 2405.05803: a preset of tokenred's own parts, and the search of its layer."""

from tokenred_methods.vtw.search import Withdrawal, find_layer, withdrawal_layer

__all__ = ["Withdrawal", "find_layer", "withdrawal_layer"]

"""Mergers inside the LLM: what becomes of the tokens that a ranking drops."""

"""Reduction inside the LLM: layer reducers, cache pruners, and a consistent KV cache."""

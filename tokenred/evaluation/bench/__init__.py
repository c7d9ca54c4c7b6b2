"""Measure what pipelines cost on a model: time to first token, memory, and their parts."""

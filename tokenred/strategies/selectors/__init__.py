"""Anchor selectors: which tokens of a frame stay."""

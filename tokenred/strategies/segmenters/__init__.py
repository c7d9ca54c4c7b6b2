"""Temporal segmenters: which runs of frames are treated together."""

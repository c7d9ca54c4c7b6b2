"""Prepare model inputs from pixels and questions."""

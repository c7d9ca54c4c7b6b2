"""Rankers: which visual tokens stay, seen from between two layers of the LLM."""

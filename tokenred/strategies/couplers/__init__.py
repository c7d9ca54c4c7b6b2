"""Couplers: how much of every source goes to every anchor."""

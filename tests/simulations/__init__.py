"""Simulations that are too long for a test; tests run small parts of them."""

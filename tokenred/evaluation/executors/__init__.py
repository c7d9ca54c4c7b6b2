"""Executors that run workers in other processes, one a file."""

"""Stages own the invariants - sorting, budget, dtype, tracing; strategies own the maths."""

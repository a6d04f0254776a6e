"""Arithmetic that two packages need. Pure functions on arrays."""

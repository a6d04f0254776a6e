"""The base model: resolving and loading it, its hook points, its attention, its chat template."""

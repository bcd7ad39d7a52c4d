"""Compositional benchmarks of others, read from local copies, each with its published figure and rules."""

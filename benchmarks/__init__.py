"""Ours beside what a reader would otherwise use: ``python -m benchmarks``."""

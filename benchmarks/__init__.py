"""Measured comparisons: `python -m benchmarks NAME …` measures and rewrites docs/benchmarks.md."""

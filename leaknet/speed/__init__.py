"""Benchmarks behind docs/PERFORMANCE.md."""

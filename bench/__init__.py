"""Benchmarks: one module per question, each a command of its own (`python -m bench.throughput`)."""

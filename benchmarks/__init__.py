"""Benchmarks: one question per module of `benchmarks.questions`; `python -m benchmarks --help`."""

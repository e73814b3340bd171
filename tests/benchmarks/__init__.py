"""Benchmarks, started by hand with make. Every claim about speed is a ratio within one run."""

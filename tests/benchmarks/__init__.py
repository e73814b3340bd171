"""Measurements, run by hand through make; every claim about speed is a ratio taken within one run."""

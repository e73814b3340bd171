"""Servers that users would otherwise pick, each run by the Python of its own virtual environment."""

"""Alternative servers for `make bench-peers`, each run by the Python of its own virtual environment."""

"""The HTTP endpoints for operators.

    monitoring.py   /metrics, /livez and /readyz

Not here: what the metrics are (telemetry/).
"""

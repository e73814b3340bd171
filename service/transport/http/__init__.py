"""HTTP.

monitoring.py   /metrics, /livez and /readyz
"""

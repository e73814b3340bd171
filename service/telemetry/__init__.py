"""Metrics for operators.

    collector.py   the service's metrics: names, labels, help texts
    gpu.py         memory and utilisation of GPUs, through NVML
    merge.py       merges the metrics of several workers into one service's
    workers.py     what workers report, and how they fare

Not here: counting (batching/statistics.py, batching/predictions.py) and the HTTP endpoint (transport/http).
"""

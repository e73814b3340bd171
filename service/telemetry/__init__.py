"""What operators read.

    collector.py   the service's metrics: names, labels, help texts
    gpu.py         memory and utilisation of GPUs, through NVML
    merge.py       the metrics of several workers as one

Not here: counting (batching/statistics.py, batching/predictions.py) and the HTTP endpoint (transport/http).
"""

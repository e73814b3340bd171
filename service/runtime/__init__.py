"""ONNX Runtime: sessions, devices and GPU memory.

    session.py      an engine: one session on one device
    devices.py      the devices that engines run on
    reshape.py      shapes that config.pbtxt gives callers instead of the graph's
    io_binding.py   fixed batch sizes, each with memory that is bound once
    cuda.py         everything specific to NVIDIA GPUs

Not here: forming batches (batching/), verifying answers (models/verification/).
"""

"""ONNX Runtime.

    session.py      one session on one device: an engine
    devices.py      which devices engines run on
    io_binding.py   fixed batch sizes with memory that is bound once
    cuda.py         everything that holds for NVIDIA GPUs alone

Not here: batches (batching/) and whether answers are right (models/verification.py).
"""

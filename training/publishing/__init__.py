"""From a trained classifier to a version that the service serves.

    export.py       the ONNX graph, and the parity check against PyTorch
    quantize.py     the 8-bit graph
    golden.py       the answers that every server must reproduce
    file_check.py   the check that a user's own files are answered as their images were
    description.py  what the graph's file says of itself
    card.py         the model card, README.md (card.md.j2)
    acceptance.py   whether the service would take the version, and its model's folder its classes
    publish.py      the model repository, written atomically

Not here: the order of these stages (pipeline.py), what a version says about itself (manifest.py).
"""

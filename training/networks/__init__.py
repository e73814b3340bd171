"""Networks: raw pixels in, probabilities out.

    registry.py       every network, its input and its hyperparameters
    architectures.py  the networks, layer for layer
    pooling.py        the kinds of pooling
    reordered.py      the order in which layers run in training
    classifier.py     normalization before a network, softmax after it
    layers.py         the layers of any network with their outputs, as a table

Not here: training (trainer/), export to ONNX (publishing/).
"""

"""Networks: raw pixels in, probabilities out.

    registry.py         every network, its input and its hyperparameters
    architectures.py    the networks, layer for layer
    teachers.py         larger networks, whose answers others learn
    pooling.py          the kinds of pooling
    sizes.py            the formula of a layer's output size
    reordered.py        the order in which layers run in training
    classifier.py       normalization before a network, softmax after it
    layers.py           the layers of any network with their outputs and geometry, as a table
    receptive_field.py  the part of the image that a value of a layer depends on
    hooks.py            how the layers of any network are watched while it runs

Not here: training (trainer/), export to ONNX (publishing/).
"""

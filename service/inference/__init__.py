"""One request, whatever the wire.

    handler.py          ModelInfer: decode, find the model, queue; answer, fail, cancel
    decode.py           ModelInferRequest bytes to checked arrays
    decode_cache.py     the same for requests with a known layout, without parsing
    encode.py           outputs to ModelInferResponse bytes
    classification.py   pictures to labels, and the classification extension
    images.py           picture files to pixels of a model's size

Not here: the wire (transport/), which versions there are (models/), queues (batching/).
"""

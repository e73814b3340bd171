"""The handling of one request, independent of the wire.

    handler.py          ModelInfer: decode, find the model, queue; respond, fail, cancel
    decode.py           ModelInferRequest bytes to validated arrays
    decode_cache.py     the same for requests with a known layout, without parsing
    encode.py           outputs to ModelInferResponse bytes
    top_classes.py      the classification extension
    classification.py   pictures to labels
    image_models.py     which models take pictures
    picture_work.py     one picture to one row of the model's input
    picture_queue.py    whose picture is decoded next, in which memory, and which deadlines cannot be met
    picture_decoder.py  the threads that decode

Not here: the wire (transport/), models and versions (models/), queues (batching/).
"""

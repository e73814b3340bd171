"""The inference service: ModelInferRequest bytes in, probabilities out, in batches.

A request passes these stops, in reading order, which is also the order of imports:

    fronts/         the wire: HTTP/2, deadlines, cancellation (`native` or `grpcio`)
    servicers.py    every method but inference: convert, ask, convert
    classifier.py   pictures in, labels out: images.py makes them fit, then they go the way of all requests
    protocol.py     one call: read it, find its model, queue it, answer it
    codec.py        ModelInferRequest bytes → checked rows
    templates.py    the same, for requests that differ from an earlier one in id and contents only
    response.py     outputs → ModelInferResponse bytes
    registry.py     what is loaded, by name and version; reload
    routing.py      which version answers: labels, and the canary's share
    loader.py       a version on disk → engines behind a batcher
    verifier.py        golden answers, before an engine gets traffic and after it failed
    spec.py         configuration and graph, made one
    batcher.py      requests → batches → answers, bounded in every way
    queue.py        who waits, and who rides together
    execution.py    a batch run, divided and counted, or run again in parts
    engine.py       one ONNX Runtime session on one device
    buffers.py      a GPU's batch sizes, each with memory bound to the graph once
    cuda.py         all that is only true of NVIDIA's GPUs

Beside them: repository.py (what is on disk), model.py and tensors.py (what a model takes and gives), statistics.py,
predictions.py, metrics.py and nvml.py (what happened, what was said, and GPUs), health.py, credentials.py (who may
call), errors.py, settings.py, logs.py; server.py runs the whole and ends it, workers.py runs many of them on one port,
check.py tries a model without serving it. client.py is the command-line client; pb/ holds the stubs made from ../proto.

It imports nothing of the training job and runs without torch; a model repository is all that the two share.
"""

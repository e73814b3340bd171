"""The inference service: ModelInferRequest bytes in, probabilities out, in batches.

A request passes these packages from top to bottom and its answer returns; each imports only packages below it:

    __main__.py   the command
    app/          composition and process life: settings, start, stop, workers, `check`
    telemetry/    what operators read: metrics of models, GPUs and workers
    transport/    the wire: two gRPC servers and their servicers, and HTTP
    inference/    one request, independent of the wire: decode, submit, encode; classify images
    models/       what is on disk, what is loaded, and which version answers
    batching/     requests to batches to answers
    runtime/      ONNX Runtime: sessions, devices, GPU memory
    core/         what all layers share: tensors, errors, tokens, logs

batching/ and runtime/ do not import each other: models/ joins them. Beside the layers, client/ is the client library
and its command, and pb/ holds the stubs generated from ../proto; neither imports a layer.

The service imports nothing from the training job and runs without torch: the two share only the model repository.
"""

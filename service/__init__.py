"""The inference service: ModelInferRequest bytes in, probabilities out, in batches.

A request passes these packages from top to bottom and its answer returns; each imports only what stands below it:

    __main__.py   the command
    app/          composition and process life: settings, start, stop, workers, `check`
    telemetry/    what operators read: metrics of models, GPUs and workers
    transport/    the wire: two gRPC servers and their servicers, and HTTP
    inference/    one request, whatever the wire: decode, submit, encode; pictures to labels
    models/       what is on disk, what is loaded, and which version answers
    batching/     requests to batches to answers
    runtime/      ONNX Runtime: sessions, devices, GPU memory
    core/         the words that all layers share: tensors, errors, tokens, logs

batching/ and runtime/ do not see each other: models/ joins them. Beside them, client/ is the client library and its
command, and pb/ holds the stubs made from ../proto; both import nothing else of the service.

The service imports nothing of the training job and runs without torch: they share the model repository alone.
"""

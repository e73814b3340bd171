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

batching/ and runtime/ do not import each other: models/ joins them. Beside the layers, none of which they import:

    pictures/     from a picture, as a person has it, to an image, as a network takes it
    client/       the client library and its command
    pb/           the stubs generated from ../proto

The service imports nothing from the training job and runs without torch. The two share the model repository and, of
code, pictures/, because a picture must reach the network as the network's training images did, and models/repository/,
because the job publishes only what the service takes.
"""

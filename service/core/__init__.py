"""What all layers share: plain data and helpers.

    spec.py          what a model takes and returns; outputs; the Backend protocol
    signature.py     the inputs, outputs and metadata that a graph declares
    datatypes.py     element types and their names on the wire, in config.pbtxt and in ONNX Runtime
    batch_sizes.py   the sizes that batches are padded to
    errors.py        the errors of requests, with their gRPC status
    load_errors.py   the errors of loading: why a model or a version cannot be served
    texts.py         names and values in the texts of errors: few, short and printable
    wire.py          the fields of a serialised protobuf message, without copies
    lifecycle.py     the state of the process, from starting to stopped
    auth.py          tokens and their rights, read from the tokens file
    logs.py          structured logs
    version.py       version and commit

Not here: anything that handles a request or loads a model.
"""

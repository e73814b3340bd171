"""gRPC, two ways, over one InferenceHandler.

    native_server.py         ModelInfer at speed: pygrpc-native, HTTP/2 and gRPC in Rust, outside Python's lock
    aio_server.py            every method: grpc.aio
    streaming.py             one ModelStreamInfer call
    inference_servicer.py    inference.GRPCInferenceService but for inference
    classifier_servicer.py   simplecnn.v1.ImageClassifier
    health_servicer.py       grpc.health.v1.Health
    listeners.py             listening sockets: bind, reserve, close

The native server passes every method but ModelInfer through to an aio server on a Unix socket, so that each method has
one implementation.
"""

"""The two gRPC servers, over one InferenceHandler.

    native_server.py         the native server: ModelInfer on pygrpc-native, HTTP/2 and gRPC in Rust, outside the GIL
    aio_server.py            the aio server: every method on grpc.aio
    limits.py                the aio server's limits on messages, connections and calls
    receiving.py             request messages of the aio server while they arrive
    memory.py                whether memory is short
    response_sink.py         responses on their way to the aio server's event loop
    hang_ups.py              clients that hang up before they have their response
    streaming.py             one ModelStreamInfer call
    inference_servicer.py    inference.GRPCInferenceService, except inference
    classifier_servicer.py   simplecnn.v1.ImageClassifier
    rights.py                which right a method needs, and for which model
    health_servicer.py       grpc.health.v1.Health
    timeouts.py              a call's deadline from its grpc-timeout
    listeners.py             listening sockets: check, reserve, close

The native server passes every method except ModelInfer on to an aio server on a Unix socket, so that those methods have
one implementation.
"""

"""The Python client: `Client`, its `Tls` and gRPC's SERVICE_CONFIG.

    address.py      hosts and ports of an address
    tls.py          certificates and keys
    proxies.py      which calls go through an HTTP proxy
    hints.py        what to try when no connection comes about
    retries.py      calls that a full queue refused
    command.py      the command `python -m service.client`
    connection.py   its flags for the server, TLS and tokens

Imports the stubs (service.pb) and gRPC; NumPy only when a method needs it. Not here: the server.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import Message

from service.client.address import check, on_this_machine
from service.client.hints import hint_of
from service.client.proxies import proxy_options
from service.client.retries import Retries
from service.client.tls import Tls as Tls
from service.pb import (
    classifier_pb2,
    classifier_pb2_grpc,
    health_pb2,
    health_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# gRPC retries a call that a stopping or missing replica answered with UNAVAILABLE (https://grpc.io/docs/guides/retry/).
# round_robin balances calls over all addresses of a name; gRPC's default sends all calls to the first.
SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "inference.GRPCInferenceService"}, {"service": "simplecnn.v1.ImageClassifier"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


class Client:
    """Calls one server, or the replicas behind one name. Use it as a context manager, or close it.

    `url` is HOST:PORT, or another address that gRPC knows. `timeout` limits each call with its retries, in seconds.
    `token` is the bearer token, if the server requires one; a warning is given if it leaves this machine unencrypted.
    `tls` encrypts. `retries` are those of `classify` and `predict` when the queue is full.

    Raises:
        OSError: a file of `tls` cannot be read.
        ValueError: `url`, `token` or a file of `tls` cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 10.0,
        token: str = "",
        tls: Tls | None = None,
        retries: Retries | None = None,
    ) -> None:
        check(url)
        self._url, self._tls = url, tls
        self._metadata = _metadata(token)
        if token and tls is None and not on_this_machine(url):
            warnings.warn(f"the token goes to {url} unencrypted, because TLS is off", stacklevel=2)
        self._channel = _channel(url, tls)
        self._inference = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._classifier = classifier_pb2_grpc.ImageClassifierStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._timeout = timeout
        self._retries = retries or Retries()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections; calls in progress are cancelled."""
        self._channel.close()

    def classify(
        self, model: str, images: Sequence[bytes], version: str = "", *, top_k: int = 1, fit: str = "auto"
    ) -> list[classifier_pb2.Result]:
        """Classify picture files: per file the `top_k` most probable classes or an error, in order.

        The server reads PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF and HEIC. `fit` says how it fits a picture to the model's
        input: `auto` (as the model was trained), `drawing`, `resize` or `none`.

        Raises:
            grpc.RpcError: the call failed; its code and details say why.
        """
        request = classifier_pb2.ClassifyRequest(
            model_name=model,
            model_version=version,
            images=[classifier_pb2.Image(encoded=image) for image in images],
            top_k=top_k,
            fit=f"FIT_{fit.upper()}",
        )
        return list(self._call_again(self._classifier.Classify, request).results)

    def predict(self, model: str, images: NDArray[np.uint8], version: str = "") -> NDArray[np.float32]:
        """Probabilities (N, classes) of raw images (N, H, W, C), with N at most the model's max_batch_size.

        Raises:
            grpc.RpcError: the call failed; its code and details say why.
        """
        import numpy as np

        request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
        request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
        request.raw_input_contents.append(np.ascontiguousarray(images).tobytes())
        response = self._call_again(self._inference.ModelInfer, request)
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)

    def models(self) -> list[inference_pb2.RepositoryIndexResponse.ModelIndex]:
        """List every model version with its state and, if it is not ready, the reason. Raises grpc.RpcError."""
        request = inference_pb2.RepositoryIndexRequest()
        return list(self._call(self._inference.RepositoryIndex, request, self._timeout).models)

    def serving(self, service: str = "") -> bool:
        """Whether the server, or the model named `service`, reports SERVING. Raises grpc.RpcError."""
        request = health_pb2.HealthCheckRequest(service=service)
        status = self._call(self._health.Check, request, self._timeout).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    def _call_again(self, method: Any, request: Message) -> Any:
        """Call the method, again while the queue is full."""
        return self._retries.call(lambda seconds_left: self._call(method, request, seconds_left), self._timeout)

    def _call(self, method: Any, request: Message, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            if hint := hint_of(error, self._url, self._tls):
                error.add_note(hint)
            raise


def _metadata(token: str) -> list[tuple[str, str]] | None:
    """The header with the token. gRPC's own error about characters that it cannot send would print the token."""
    if not (token.isascii() and token.isprintable()):
        raise ValueError("the token has characters that a header cannot have: expected printable ASCII")
    return [("authorization", f"Bearer {token}")] if token else None


def _channel(url: str, tls: Tls | None) -> grpc.Channel:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        *proxy_options(url, os.environ),
    ]
    if tls is None:
        return grpc.insecure_channel(url, options)
    return grpc.secure_channel(url, tls.credentials(), options + tls.options())

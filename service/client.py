"""`python -m service.client`: classify images, list models, check health; and `Client`, the same from Python.

Exit status: 0 done, and for `health` serving; 1 not serving, or a file or call failed, with the reason; 2 wrong usage.
Imports are late where they are slow: `health` runs every few seconds in a container.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

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

# gRPC's own retries (https://grpc.io/docs/guides/retry/): a replica that drains or is gone costs a moment, no call. And
# of a name with several addresses each gets its turn; gRPC would stay with the first.
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
# Files of one call: so many, and so many bytes together unless one alone has more.
FILES_A_CALL, BYTES_A_CALL = 64, 16 * 2**20


class Client:
    """Calls one server, or the replicas behind one name. Use as a context manager.

    `timeout` is in seconds, for each call with its retries; `token` is the credential where the server asks for one.
    """

    def __init__(self, url: str, *, timeout: float = 10.0, token: str = "") -> None:
        self._metadata = [("authorization", f"Bearer {token}")] if token else None
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ]
        self._channel = grpc.insecure_channel(url, options)
        self._inference = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._classifier = classifier_pb2_grpc.ImageClassifierStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._timeout = timeout

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def classify(
        self, model: str, images: Sequence[bytes], version: str = "", *, top_k: int = 1, fit: str = "auto"
    ) -> list[classifier_pb2.Result]:
        """The `top_k` classes of each PNG, JPEG, WebP or BMP file, or its error, in their order.

        `fit` is `auto`, `resize` or `none`: how a picture of another size or colour is made to fit.

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
        return list(self._classifier.Classify(request, timeout=self._timeout, metadata=self._metadata).results)

    def predict(self, model: str, images: NDArray[np.uint8], version: str = "") -> NDArray[np.float32]:
        """Probabilities (N, classes) of raw images (N, H, W, C), N being at most the model's max_batch_size.

        Raises:
            grpc.RpcError: the call failed; its code and details say why.
        """
        import numpy as np

        request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
        request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
        request.raw_input_contents.append(np.ascontiguousarray(images).tobytes())
        response = self._inference.ModelInfer(request, timeout=self._timeout, metadata=self._metadata)
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)

    def models(self) -> list[inference_pb2.RepositoryIndexResponse.ModelIndex]:
        """Every model version, its state and, where it is not ready, why. Raises grpc.RpcError."""
        request = inference_pb2.RepositoryIndexRequest()
        return list(self._inference.RepositoryIndex(request, timeout=self._timeout, metadata=self._metadata).models)

    def serving(self, service: str = "") -> bool:
        """Whether the server, or the model of that name, takes requests. Raises grpc.RpcError."""
        request = health_pb2.HealthCheckRequest(service=service)
        status = self._health.Check(request, timeout=self._timeout, metadata=self._metadata).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)


def classify(client: Client, arguments: argparse.Namespace) -> int:
    """Print the most probable classes of each file."""
    status = 0
    width = max(len(str(path)) for path in arguments.files)
    unreadable: list[Path] = []
    for files in _calls(arguments.files, unreadable):
        results = client.classify(
            arguments.model, [data for _, data in files], arguments.version, top_k=arguments.top, fit=arguments.fit
        )
        for (path, _), result in zip(files, results, strict=True):
            if result.HasField("error"):
                print(f"{path}: {result.error.message}", file=sys.stderr)
                status = 1
                continue
            classes = [f"{found.label or found.class_id}  {found.probability:.1%}" for found in result.classes]
            print(f"{path!s:{width}}  {'  '.join(classes)}")
    return status or int(bool(unreadable))


def _calls(paths: Sequence[Path], unreadable: list[Path]) -> Iterator[list[tuple[Path, bytes]]]:
    """The files that can be read, in groups of a sensible size; the others are named on standard error and added."""
    group: list[tuple[Path, bytes]] = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            unreadable.append(path)
            continue
        if group and (len(group) == FILES_A_CALL or sum(len(other) for _, other in group) + len(data) > BYTES_A_CALL):
            yield group
            group = []
        group.append((path, data))
    if group:
        yield group


def models(client: Client, _: argparse.Namespace) -> int:
    """Print every model version and its state."""
    for model in client.models():
        reason = f"  {model.reason}" if model.reason else ""
        print(f"{model.name}  {model.version or '-'}  {model.state}{reason}")
    return 0


def health(client: Client, arguments: argparse.Namespace) -> int:
    """Print whether the server, or one model, takes requests; the exit status says the same."""
    serving = client.serving(arguments.model)
    print("SERVING" if serving else "NOT_SERVING")
    return 0 if serving else 1


def main() -> None:
    """Run the command and exit."""
    parser = argparse.ArgumentParser(prog="python -m service.client", description="Call a running service.")
    parser.add_argument("--url", default="127.0.0.1:8001", help="host and port of the gRPC services (%(default)s)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that a call may take (%(default)s)")
    parser.add_argument(
        "--token", default=os.environ.get("CNN_TOKEN", ""), help="credential, if the server wants one (CNN_TOKEN)"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("classify", help="say what each picture shows")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="PNG, JPEG, WebP or BMP of any size")
    command.add_argument("--model", default="mnist-simplecnn", help="model to ask (%(default)s)")
    command.add_argument("--version", default="", help="version or label to ask (as the server routes)")
    command.add_argument("--top", type=int, default=1, help="classes to print for each (%(default)s)")
    command.add_argument(
        "--fit",
        choices=("auto", "resize", "none"),
        default="auto",
        help="how a picture is made to fit: auto takes it for a drawing if the model's images are grey (%(default)s)",
    )
    command.set_defaults(run=classify)

    command = commands.add_parser("models", help="list the models, their versions and states")
    command.set_defaults(run=models)

    command = commands.add_parser("health", help="exit with 0 if the server takes requests, else with 1")
    command.add_argument("--model", default="", help="ask about one model instead of the server")
    command.set_defaults(run=health)

    arguments = parser.parse_args()
    try:
        with Client(arguments.url, timeout=arguments.timeout, token=arguments.token) as client:
            status = arguments.run(client, arguments)
    except grpc.RpcError as error:
        print(f"error: {arguments.url}: {error.code().name}: {error.details()}", file=sys.stderr)
        status = 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()

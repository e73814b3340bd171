"""`python -m service.client`: classify images, list models, check health; and `Client`, the same from Python.

Exit status: 0 done, and for `health` serving; 1 not serving, or a file or call failed, with the reason; 2 wrong usage.
Imports are late where they are slow: `health` runs every few seconds in a container.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from service.pb import health_pb2, health_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

# MNIST's own proportions: the digit's longer side in a field, centred by its mass.
DIGIT_SHARE = 20 / 28


class Client:
    """Calls one server. `timeout` is in seconds, for each call. Use as a context manager."""

    def __init__(self, url: str, *, timeout: float = 10.0) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._channel = grpc.insecure_channel(url, options)
        self._inference = inference_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._timeout = timeout

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def image_shape(self, model: str, version: str = "") -> tuple[int, int, int]:
        """(H, W, C) of the images that the model takes.

        Raises:
            grpc.RpcError: the call failed.
            ValueError: the model does not take one uint8 image a row.
        """
        request = inference_pb2.ModelMetadataRequest(name=model, version=version)
        metadata = self._inference.ModelMetadata(request, timeout=self._timeout)
        if len(metadata.inputs) != 1 or metadata.inputs[0].datatype != "UINT8" or len(metadata.inputs[0].shape) != 4:
            found = ", ".join(f"{tensor.datatype} {list(tensor.shape)}" for tensor in metadata.inputs)
            raise ValueError(f"{model} does not take images UINT8 [N, H, W, C], but {found}")
        _, height, width, channels = metadata.inputs[0].shape
        return height, width, channels

    def predict(self, model: str, images: NDArray[np.uint8], version: str = "") -> NDArray[np.float32]:
        """Probabilities (N, classes) of raw images (N, H, W, C), N being at most the model's max_batch_size.

        Raises:
            grpc.RpcError: the call failed; its code and details say why.
        """
        import numpy as np

        request = inference_pb2.ModelInferRequest(model_name=model, model_version=version)
        request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
        request.raw_input_contents.append(np.ascontiguousarray(images).tobytes())
        response = self._inference.ModelInfer(request, timeout=self._timeout)
        return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(response.outputs[0].shape)

    def models(self) -> list[inference_pb2.RepositoryIndexResponse.ModelIndex]:
        """Every model version, its state and, where it is not ready, why. Raises grpc.RpcError."""
        request = inference_pb2.RepositoryIndexRequest()
        return list(self._inference.RepositoryIndex(request, timeout=self._timeout).models)

    def serving(self, service: str = "") -> bool:
        """Whether the server, or the model of that name, takes requests. Raises grpc.RpcError."""
        request = health_pb2.HealthCheckRequest(service=service)
        status = self._health.Check(request, timeout=self._timeout).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)


def digit_image(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Any picture of one digit as MNIST draws it: white on black, (height, width, 1), uint8.

    A picture that already has the size is only turned light on dark; any other is cropped to its ink, scaled and
    centred by its mass.
    """
    import numpy as np
    from PIL import Image

    if image.has_transparency_data:  # what is transparent is paper
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    grey = np.asarray(image.convert("L"))
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) > 127:  # dark on light
        grey = 255 - grey
    if grey.shape == (height, width):
        return grey[:, :, None]
    ink = np.argwhere(grey > 0.3 * grey.max())
    if not len(ink) or not grey.max():
        raise ValueError("the picture is empty")
    (top, left), (bottom, right) = ink.min(0), ink.max(0) + 1
    scale = DIGIT_SHARE * min(height / (bottom - top), width / (right - left))
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    digit = np.asarray(Image.fromarray(grey[top:bottom, left:right]).resize(size, Image.Resampling.BOX))
    field = np.zeros((height, width, 1), np.uint8)
    mass = digit.sum() or 1
    y = round(height / 2 - (digit.sum(1) * np.arange(digit.shape[0])).sum() / mass - 0.5)
    x = round(width / 2 - (digit.sum(0) * np.arange(digit.shape[1])).sum() / mass - 0.5)
    y, x = min(max(y, 0), height - digit.shape[0]), min(max(x, 0), width - digit.shape[1])
    field[y : y + digit.shape[0], x : x + digit.shape[1], 0] = digit
    return field


def read_image(path: Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture in the file as the model's input (H, W, C).

    Raises:
        ValueError: the file is no picture, is empty, or the model does not take grey images.
    """
    from PIL import Image, UnidentifiedImageError

    height, width, channels = shape
    if channels != 1:
        raise ValueError(f"the model takes {channels} channels; this command prepares grey digits")
    try:
        with Image.open(path) as image:
            return digit_image(image, height, width)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def classify(client: Client, arguments: argparse.Namespace) -> int:
    """Print class and probability of each file."""
    shape = client.image_shape(arguments.model, arguments.version)
    status = 0
    width = max(len(str(path)) for path in arguments.files)
    for path in arguments.files:
        try:
            probabilities = client.predict(arguments.model, read_image(path, shape)[None], arguments.version)[0]
        except ValueError as error:
            print(f"{path}: {error}", file=sys.stderr)
            status = 1
            continue
        print(f"{path!s:{width}}  {int(probabilities.argmax())}  {probabilities.max():.1%}")
    return status


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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("classify", help="say which digit each picture shows")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="PNG or JPEG, any size, one digit each")
    command.add_argument("--model", default="mnist-simplecnn", help="model to ask (%(default)s)")
    command.add_argument("--version", default="", help="version to ask (the newest that is ready)")
    command.set_defaults(run=classify)

    command = commands.add_parser("models", help="list the models, their versions and states")
    command.set_defaults(run=models)

    command = commands.add_parser("health", help="exit with 0 if the server takes requests, else with 1")
    command.add_argument("--model", default="", help="ask about one model instead of the server")
    command.set_defaults(run=health)

    arguments = parser.parse_args()
    try:
        with Client(arguments.url, timeout=arguments.timeout) as client:
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

"""`python -m service.client`, installed as `cnn-client`: classify image files, list models, check health.

Exit status: 0 done, and for `health` serving; 1 not serving, or a file or call failed, with the reason; 2 wrong usage.
Slow imports are late, because containers run `health` every few seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import grpc

from service.client import Client

# Limits of one Classify call. A single file may exceed MAX_BYTES_PER_CALL.
MAX_FILES_PER_CALL, MAX_BYTES_PER_CALL = 64, 16 * 2**20


def main() -> NoReturn:
    """Run the command and exit."""
    arguments = _parser().parse_args()
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


def classify(client: Client, arguments: argparse.Namespace) -> int:
    """Print the most probable classes of each file, and return the exit status."""
    status = 0
    width = max(len(str(path)) for path in arguments.files)
    unreadable: list[Path] = []
    for files in _file_groups(arguments.files, unreadable):
        results = client.classify(
            arguments.model,
            [data for _, data in files],
            arguments.model_version,
            top_k=arguments.top,
            fit=arguments.fit,
        )
        for (path, _), result in zip(files, results, strict=True):
            if result.HasField("error"):
                print(f"{path}: {result.error.message}", file=sys.stderr)
                status = 1
                continue
            classes = [f"{found.label or found.class_id}  {found.probability:.1%}" for found in result.classes]
            print(f"{path!s:{width}}  {'  '.join(classes)}")
    return status or int(bool(unreadable))


def models(client: Client, _: argparse.Namespace) -> int:
    """Print every model version and its state."""
    for model in client.models():
        reason = f"  {model.reason}" if model.reason else ""
        print(f"{model.name}  {model.version or '-'}  {model.state}{reason}")
    return 0


def health(client: Client, arguments: argparse.Namespace) -> int:
    """Print whether the server, or one model, is serving, and return the exit status."""
    serving = client.serving(arguments.model)
    print("SERVING" if serving else "NOT_SERVING")
    return 0 if serving else 1


def _file_groups(paths: Sequence[Path], unreadable: list[Path]) -> Iterator[list[tuple[Path, bytes]]]:
    """Yield the files' contents in groups of one call each; report and collect the files that cannot be read."""
    group: list[tuple[Path, bytes]] = []
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            unreadable.append(path)
            continue
        size = sum(len(other) for _, other in group) + len(data)
        if group and (len(group) == MAX_FILES_PER_CALL or size > MAX_BYTES_PER_CALL):
            yield group
            group = []
        group.append((path, data))
    if group:
        yield group


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.client", description="Call a running service.")
    parser.add_argument("--url", default="127.0.0.1:8001", help="host and port of the gRPC services (%(default)s)")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds that a call may take (%(default)s)")
    parser.add_argument(
        "--token", default=os.environ.get("CNN_TOKEN", ""), help="bearer token, if the server requires one (CNN_TOKEN)"
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help="print the version and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_classify(commands)
    _add_models(commands)
    _add_health(commands)
    return parser


def _add_classify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("classify", help="classify image files")
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="PNG, JPEG, WebP or BMP of any size")
    command.add_argument("--model", default="mnist-simplecnn", help="model name (%(default)s)")
    command.add_argument("--model-version", default="", help="model version or label (default: the server chooses)")
    command.add_argument("--top", type=int, default=1, help="classes to print per file (%(default)s)")
    command.add_argument(
        "--fit",
        choices=("auto", "resize", "none"),
        default="auto",
        help="how the server fits an image to the model's input; auto treats it as a drawing if the model takes grey "
        "images (%(default)s)",
    )
    command.set_defaults(run=classify)


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("models", help="list the models, their versions and states")
    command.set_defaults(run=models)


def _add_health(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("health", help="exit with status 0 if the server is serving, else 1")
    command.add_argument("--model", default="", help="check one model instead of the server")
    command.set_defaults(run=health)


class _Version(argparse.Action):
    """Prints the installed version; importlib.metadata is slow to import, so it is imported here."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import version

        print(f"simplecnn {version('simplecnn')}")
        parser.exit()

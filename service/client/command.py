"""`python -m service.client`, installed as `cnn-client`: classify picture files, list models, check health.

Exit status: 0 done, and for `health` serving; 1 not serving, or a file or call failed, with the reason; 2 wrong usage.
Slow imports are late, because containers run `health` every few seconds.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import grpc

from service.client import Client
from service.client.connection import add_connection_flags, connect
from service.client.retries import retry_delay
from service.pb.classifier_pb2 import Class, Result

# Limits of one Classify call: it must end within the timeout. A WebP file of 12 megapixels may have 0.4 MB, and takes
# the server 0.2 s. A single file may exceed MAX_BYTES_PER_CALL, and is then alone in its call.
MAX_FILES_PER_CALL, MAX_BYTES_PER_CALL = 64, 8 * 2**20
# Larger files are not read: gRPC sends no message of 2 GiB.
MAX_FILE_BYTES = 2**30
# Less probable answers are marked. With the model of `make demo`, on 1,000 held-out digits and 600 photographs of them,
# these are 15 of the 16 wrong answers and 4.7 % of the right ones, and 25 of 46 pictures of letters and signs.
UNSURE_BELOW = 0.8


def main() -> NoReturn:
    """Run the command and exit."""
    parser = _parser()
    arguments = parser.parse_args()
    try:
        client = connect(parser, arguments)
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        with client:
            status = arguments.run(client, arguments)
    except grpc.RpcError as error:
        # The client's hint comes first: gRPC's text is long, and names neither TLS nor a proxy.
        said = [*getattr(error, "__notes__", []), str(error.details())]
        print(f"error: {arguments.url}: {error.code().name}: {'; '.join(said)}", file=sys.stderr)
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
        results = _classify_group(client, files, arguments)
        label_width = max((len(_name(found)) for result in results for found in result.classes), default=0)
        for (path, _), result in zip(files, results, strict=True):
            if result.HasField("error"):
                print(f"{path}: {result.error.message}", file=sys.stderr)
                status = 1
                continue
            answer = _answer(result.classes, label_width, top=arguments.top, unsure_below=arguments.unsure_below)
            print(f"{path!s:{width}}  {answer}")
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


def _classify_group(
    client: Client, files: Sequence[tuple[Path, bytes]], arguments: argparse.Namespace
) -> Sequence[Result]:
    """The result of each file; a file that the server refuses as too large has an error, as a damaged one has."""
    try:
        return client.classify(
            arguments.model,
            [data for _, data in files],
            arguments.model_version,
            top_k=max(arguments.top, 2),  # the second choice, for an unsure answer
            fit=arguments.fit,
        )
    except grpc.RpcError as error:
        too_large = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_delay(error) is None
        if not too_large or len(files) > 1:
            raise
        result = Result()
        result.error.message = f"the server refuses {len(files[0][1]):,} bytes: {error.details()}"
        return [result]


def _answer(classes: Sequence[Class], label_width: int, *, top: int, unsure_below: float) -> str:
    """The `top` classes in columns, and, if the first is less probable than `unsure_below`, that and the second."""
    columns = [f"{_name(found):{label_width}}  {found.probability:>6.1%}" for found in classes]
    shown = "  ".join(columns[: max(top, 1)])
    if classes[0].probability >= unsure_below:
        return shown
    second = f": or {columns[1]}" if top < 2 and len(columns) > 1 else ""
    return f"{shown}  unsure{second}"


def _name(found: Class) -> str:
    return found.label or str(found.class_id)


def _file_groups(paths: Sequence[Path], unreadable: list[Path]) -> Iterator[list[tuple[Path, bytes]]]:
    """Yield the files' contents in groups of one call each; report and collect the files that cannot be read."""
    group: list[tuple[Path, bytes]] = []
    for path in paths:
        try:
            data = _read(path)
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


def _read(path: Path) -> bytes:
    """The contents of the file, or of standard input for `-`. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"a folder; name its files: {path}/*")
    if str(path) == "-":
        data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MAX_FILE_BYTES:,} bytes")
    return data


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service.client", description="Call a running service.")
    add_connection_flags(parser)
    parser.add_argument(
        "--version", action=_Version, nargs=0, dest=argparse.SUPPRESS, help="print the version and exit"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_classify(commands)
    _add_models(commands)
    _add_health(commands)
    return parser


def _add_classify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("classify", help="classify picture files")
    command.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a picture: PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF or HEIC; - for standard input",
    )
    command.add_argument("--model", default="mnist-simplecnn", help="model name (%(default)s)")
    command.add_argument("--model-version", default="", help="model version or label (default: the server chooses)")
    command.add_argument("--top", type=int, default=1, help="classes to print per file (%(default)s)")
    command.add_argument(
        "--unsure-below",
        type=float,
        default=UNSURE_BELOW,
        metavar="PROBABILITY",
        help="mark less probable answers as unsure and print the second choice; 0 marks none (%(default)s)",
    )
    command.add_argument(
        "--fit",
        choices=("auto", "drawing", "resize", "none"),
        default="auto",
        help="how the server fits a picture to the model's input: as the model was trained, as one drawing on a page, "
        "as a photograph that is scaled and cropped, or not at all (%(default)s)",
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

"""`python -m service check MODEL_DIR`: try a model as the service would, and say what it thinks of it.

Prints what was read and derived, runs the golden answers, times each batch size. Exit status: 0 it would be served;
1 it would not, with the reason in one line; 2 wrong usage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from pydantic import TypeAdapter, ValidationError

from service.app.settings import Device, Threads
from service.core import logs
from service.core.errors import LoadError
from service.core.spec import TensorSpec
from service.core.version import VERSION
from service.models.loader import EngineOptions, OpenedVersion, open_version
from service.models.repository import read_model_folder
from service.models.routing import read_routing
from service.models.verification import CannotRun
from service.runtime.devices import choose_devices


def check(path: Path, version: int | None, options: EngineOptions) -> None:
    """Print all there is to say of the model in that folder.

    Raises:
        LoadError, DeviceUnavailable: it would not be served.
    """
    folder = read_model_folder(path)
    if version is None and not folder.versions:
        raise LoadError(f"{path} holds no version, such as {path.name}/1/model.onnx; give the model's own folder")
    number = max(folder.versions) if version is None else version
    if number not in folder.versions:
        raise LoadError(f"{path} has no version {number}; there are {sorted(folder.versions)}")
    opened = open_version(folder, number, options)
    _print_facts(opened)
    gap = opened.verify()
    sizes = ", ".join(map(str, opened.verifier.sizes))
    if gap is None:
        print(f"golden     none: only warmed up, with zeros, in batches of {sizes}")
    else:
        company = f"differ by {gap:.1e} at most" if gap else "have the same bits"
        print(f"golden     hold in batches of {sizes}; alone and in company they {company}")
    try:
        times = {size: opened.verifier.seconds(opened.engines[0].run, size) for size in opened.verifier.sizes}
    except CannotRun as error:
        print(f"times      none: {error}")
    else:
        print("\n  rows      ms   µs a row   rows a second")
        for size, seconds in times.items():
            print(f"{size:6} {seconds * 1e3:7.2f} {seconds / size * 1e6:10.1f} {size / seconds:15,.0f}")
    print("\nconfig.pbtxt, complete:\n")
    print(text_format.MessageToString(opened.spec.config).rstrip())
    print(f"\n{folder.name} version {number} would be served")


def _print_facts(opened: OpenedVersion) -> None:
    spec, files, policy = opened.spec, opened.files, opened.policy
    routing = read_routing(spec.config)
    print(f"model      {spec.name} version {spec.version}")
    print(f"file       {files.name}, {len(files.model):,} bytes, SHA-256 {files.sha256}")
    print(f"manifest   {'matches the file' if files.manifest else 'none: it would be served unverified'}")
    for name, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            print(f"{name:10} {_show(tensor, batches=spec.batches)}")
    if policy.max_batch_size > 1:
        print(
            f"batches    up to {policy.max_batch_size} rows; the oldest request waits {policy.max_delay * 1e6:.0f} µs "
            f"for company; {policy.levels[0].max_rows} rows may queue"
        )
    else:
        print("batches    none: every request is computed alone (max_batch_size and dynamic_batching ask for more)")
    if routing.labels:
        labels = ", ".join(f"{label} is version {version}" for label, version in routing.labels.items())
        print(f"labels     {labels}; the canary gets {routing.percent:g} %")
    print(f"engines    {', '.join(f'{engine.device} ({engine.provider})' for engine in opened.engines)}")


def _show(tensor: TensorSpec, *, batches: bool) -> str:
    shape = [-1, *tensor.shape] if batches else list(tensor.shape)
    labels = f", {len(tensor.labels)} labels" if tensor.labels else ""
    return f"{tensor.name} {tensor.data_type.name} {shape}{labels}"


def main(arguments: Sequence[str]) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m service check", description="Try a model as the service would, without serving it."
    )
    parser.add_argument("folder", type=Path, metavar="MODEL_DIR", help="a model's folder: models/mnist-simplecnn")
    parser.add_argument("--model-version", type=int, help="the version to try (the newest)")
    parser.add_argument("--version", action="version", version=f"simplecnn {VERSION}")
    parser.add_argument("--device", default="auto", help="as of the service (%(default)s)")
    parser.add_argument("--intra-op-threads", type=int, default=1, help="as of the service (%(default)s)")
    options = parser.parse_args(arguments)
    try:  # the same checks as the service's settings
        TypeAdapter(Device).validate_python(options.device)
        TypeAdapter(Threads).validate_python(options.intra_op_threads)
    except ValidationError as error:
        parser.error(f"{error.errors()[0]['input']!r}: {error.errors()[0]['msg']}")
    logs.configure("text")
    try:
        engine_options = EngineOptions(choose_devices(options.device), options.intra_op_threads)
        check(options.folder, options.model_version, engine_options)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

"""`python -m service check MODEL_DIR`: verify a model as the service would, without serving it.

Prints the model's files, tensors, batching and engines, compares its answers with the golden answers, and times each
batch size. Exit status: 0 the version would be served; 1 it would be refused, with the reason in one line; 2 invalid
usage. Not here: loading (models/loader.py) and verification (models/verification/).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from pydantic import TypeAdapter, ValidationError

from service.app.settings import Device, Threads
from service.core import logs
from service.core.load_errors import LoadError
from service.core.spec import TensorSpec
from service.core.version import VERSION
from service.models.engine_settings import EngineOptions
from service.models.loader import open_version
from service.models.repository.routing import read_routing
from service.models.repository.scan import read_model_folder
from service.models.verification.opened_version import NOT_BATCHED, OpenedVersion
from service.models.verification.verifier import CannotRun
from service.runtime.devices import choose_devices


def check(path: Path, version: int | None, options: EngineOptions, *, require_manifest: bool = False) -> None:
    """Verify a version of the model in the folder, the newest if `version` is None, and print a report on it.

    Raises:
        LoadError: the version would be refused.
    """
    folder = read_model_folder(path)
    if version is None and not folder.versions:
        raise LoadError(
            f"{path} holds no version; expected a model's folder, with files such as {path.name}/1/model.onnx"
        )
    number = max(folder.versions) if version is None else version
    if number not in folder.versions:
        raise LoadError(f"{path} has no version {number}; its versions are {sorted(folder.versions)}")
    opened = open_version(folder, number, options, require_manifest=require_manifest)
    _print_facts(opened)
    verified = opened.verify()
    _print_batching(verified)
    _print_times(verified)
    print("\nconfig.pbtxt with every derived field:\n")
    print(text_format.MessageToString(verified.spec.config).rstrip())
    print(f"\n{folder.name} version {number} would be served")


def _print_facts(opened: OpenedVersion) -> None:
    spec, files = opened.spec, opened.files
    routing = read_routing(spec.config)
    print(f"model      {spec.name} version {spec.version}")
    print(f"file       {files.name}, {len(files.model):,} bytes, SHA-256 {files.sha256}")
    print(f"manifest   {'matches the file' if files.manifest else 'none: it would be served unverified'}")
    print(f"fit        {opened.fit or 'none recorded: drawing if pictures are grey, else resize'}")
    for name, tensors in (("input", spec.inputs), ("output", spec.outputs)):
        for tensor in tensors:
            print(f"{name:10} {_show(tensor, batches=spec.batches)}")
    if routing.labels:
        labels = ", ".join(f"{label} is version {version}" for label, version in routing.labels.items())
        print(f"labels     {labels}; the canary gets {routing.percent:g} % of the requests")
    print(f"engines    {', '.join(f'{engine.device} ({engine.provider})' for engine in opened.engines)}")


def _print_batching(verified: OpenedVersion) -> None:
    policy, max_abs_diff = verified.policy, verified.batch_max_abs_diff
    sizes = ", ".join(map(str, verified.verifier.sizes))
    if max_abs_diff is None:
        print(f"golden     none: only run on random values or zeros, in batches of {sizes}")
    else:
        difference = f"differ by at most {max_abs_diff:.1e}" if max_abs_diff else "are bit-identical"
        print(f"golden     answers hold in batches of {sizes}; computed alone and in a batch, they {difference}")
    if verified.pictures_verified:
        print(f"pictures   {verified.pictures_verified} golden pictures, decoded and fitted here, get their answers")
    if policy.max_batch_size > 1:
        print(
            f"batches    up to {policy.max_batch_size} rows; the oldest request waits up to "
            f"{policy.max_delay * 1e6:.0f} µs for the batch to fill; the queue holds {policy.levels[0].max_rows} rows"
        )
    else:
        can_batch = not any(warning.startswith(NOT_BATCHED) for warning in verified.warnings)
        advice = "; max_batch_size and dynamic_batching turn batching on" if can_batch else ""
        print(f"batches    none: every request is computed alone{advice}")
    for warning in verified.warnings:
        print(f"warning    {warning}")


def _print_times(verified: OpenedVersion) -> None:
    verifier = verified.verifier
    try:
        times = {size: verifier.time_run(verified.engines[0].run, size) for size in verifier.sizes}
    except CannotRun as error:
        print(f"times      none: {error}")
        return
    print("\n  rows      ms   µs a row   rows a second")
    for size, seconds in times.items():
        print(f"{size:6} {seconds * 1e3:7.2f} {seconds / size * 1e6:10.1f} {size / seconds:15,.0f}")


def _show(tensor: TensorSpec, *, batches: bool) -> str:
    shape = [-1, *tensor.shape] if batches else list(tensor.shape)
    labels = f", {len(tensor.labels)} labels" if tensor.labels else ""
    return f"{tensor.name} {tensor.data_type.name} {shape}{labels}"


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m service check", description="Verify a model as the service would, without serving it."
    )
    parser.add_argument(
        "folder", type=Path, metavar="MODEL_DIR", help="the model's folder, such as models/mnist-simplecnn"
    )
    parser.add_argument("--model-version", type=int, help="version to verify (default: the newest)")
    parser.add_argument("--version", action="version", version=f"simplecnn {VERSION}")
    parser.add_argument("--device", default="auto", help="as for the service (default: %(default)s)")
    parser.add_argument("--intra-op-threads", type=int, default=1, help="as for the service (default: %(default)s)")
    parser.add_argument("--require-manifest", action="store_true", help="as for the service: refuse without a manifest")
    options = parser.parse_args(arguments)
    try:  # as the service checks its settings
        TypeAdapter(Device).validate_python(options.device)
        TypeAdapter(Threads).validate_python(options.intra_op_threads)
    except ValidationError as error:
        parser.error(f"{error.errors()[0]['input']!r}: {error.errors()[0]['msg']}")
    logs.configure("text")
    try:
        engine_options = EngineOptions(choose_devices(options.device), options.intra_op_threads)
        check(options.folder, options.model_version, engine_options, require_manifest=options.require_manifest)
    except LoadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

"""Generate service/pb from the .proto files beside this file: `make stubs`.

protoc's Python output registers each file in protobuf's default descriptor pool, which accepts a name only once per
process. `tritonclient` registers the package `inference` there and `grpc_health.v1` the package `grpc.health.v1`. So
after protoc this script replaces, in what protoc wrote:

    the default pool                   by service.pb.POOL, so that a process can import their stubs and ours
    top-level imports of other stubs   by imports relative to the package
    the module name of the classes     by the module's own, which includes the package

It fails if protoc writes these lines in another form.

It also writes the descriptors with which the edge (deploy/edge/) turns JSON into messages, and error details into JSON.

Usage: python proto/generate.py [FOLDER [DESCRIPTORS]], with service/pb and deploy/edge/descriptors.pb as the defaults.
"""

import re
import sys
from importlib.resources import files
from pathlib import Path

import google
from grpc_tools import protoc

PROTO = Path(__file__).resolve().parent
PB = PROTO.parent / "service" / "pb"
DESCRIPTORS = PROTO.parent / "deploy" / "edge" / "descriptors.pb"
# The messages in grpc-status-details-bin, from googleapis-common-protos.
DETAILS = "google/rpc/error_details.proto"
ENDINGS = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
# A line that protoc writes, and its replacement.
DEFAULT_POOL_IMPORT = (
    r"^from google\.protobuf import descriptor_pool as _descriptor_pool$",
    "from . import POOL as _POOL",
)
DEFAULT_POOL = (r"^DESCRIPTOR = _descriptor_pool\.Default\(\)\.", "DESCRIPTOR = _POOL.")
STUB_IMPORT = (r"^import (\w+_pb2) as", r"from . import \1 as")
MODULE_NAME = (r"^(_builder\.BuildTopDescriptorsAndMessages\(DESCRIPTOR), '\w+', ", r"\1, __name__, ")


def generate(folder: Path) -> None:
    """Write the stubs of every .proto file into the folder.

    Raises:
        ValueError: protoc failed, or wrote something that this script does not know how to replace.
    """
    protos = sorted(PROTO.glob("*.proto"))
    outputs = [f"--{kind}_out={folder}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{PROTO}", *outputs, *map(str, protos)]):
        raise ValueError("protoc failed")
    for path in (folder / f"{proto.stem}{ending}" for proto in protos for ending in ENDINGS):
        path.write_text(packaged(path.name, path.read_text()))


def describe(path: Path) -> None:
    """Write the descriptors of every .proto file, and of all that they import, into one file.

    Raises:
        ValueError: protoc failed.
    """
    roots = [str(PROTO), *(str(Path(root).parent) for root in google.__path__), str(files("grpc_tools") / "_proto")]
    names = [proto.name for proto in sorted(PROTO.glob("*.proto"))]
    flags = [*(f"-I{root}" for root in roots), "--include_imports", f"--descriptor_set_out={path}"]
    if protoc.main(["protoc", *flags, *names, DETAILS]):
        raise ValueError("protoc failed")


def packaged(name: str, text: str) -> str:
    """The text of the stub file `name` with the package's pool, imports and module name."""
    text = re.sub(*STUB_IMPORT, text, flags=re.MULTILINE)
    if name.endswith("_pb2.py"):
        for pattern, replacement in (DEFAULT_POOL_IMPORT, DEFAULT_POOL, MODULE_NAME):
            text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
            if count != 1:
                raise ValueError(f"{name}: {count} lines match {pattern}, expected 1")
    if "_descriptor_pool" in text or re.search(r"^import \w+_pb2", text, re.MULTILINE):
        raise ValueError(f"{name}: still uses the default pool or imports a stub from outside the package")
    return text


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if sys.argv[1:] else PB)
    describe(Path(sys.argv[2]) if sys.argv[2:] else DESCRIPTORS)

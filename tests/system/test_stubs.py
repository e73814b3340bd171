"""The stubs are generated from proto/, which compiles as it is and has Triton's names and numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.pb import inference_pb2, model_config_pb2
from tests.conftest import outside
from tests.outside.fields_of import describe
from tests.support.paths import ROOT

PROTO, PB = ROOT / "proto", ROOT / "service" / "pb"
NAMES = sorted(path.name for path in PROTO.glob("*.proto"))


def test_every_field_value_and_method_is_tritonclients_and_none_is_missing() -> None:
    ours = describe([inference_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR])
    theirs = outside("fields.py")
    assert len(ours) > 300
    differ = {name: (fact, theirs.get(name)) for name, fact in ours.items() if theirs.get(name) != fact}
    assert not differ
    assert not theirs.keys() - ours.keys(), "Triton's protocol has grown: add these"


def test_the_stubs_and_the_edges_descriptors_are_what_make_stubs_generates(tmp_path: Path) -> None:
    descriptors = tmp_path / "made" / "descriptors.pb"
    descriptors.parent.mkdir()
    subprocess.run([sys.executable, str(PROTO / "generate.py"), str(tmp_path), str(descriptors)], check=True)
    assert descriptors.read_bytes() == (ROOT / "deploy/edge/descriptors.pb").read_bytes(), "run `make stubs`"
    made = {path.name: path.read_text() for path in tmp_path.glob("*_pb2*")}
    kept = {path.name: path.read_text() for path in PB.glob("*_pb2*.py*")}
    assert made == kept, "run `make stubs`"


@pytest.mark.parametrize("name", NAMES)
def test_protoc_compiles_each_file_with_its_folder_as_the_only_root(name: str, tmp_path: Path) -> None:
    """As other languages' tools do: an import of a path that exists only in this project would fail."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"--python_out={tmp_path}", name]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [name.replace(".proto", "_pb2.py")]


def test_the_stubs_leave_the_default_pool_to_others() -> None:
    code = (
        "import service.client, service.pb.health_pb2, service.pb.model_config_pb2\n"
        "from google.protobuf import descriptor_pool\n"
        f"for name in {NAMES}:\n"
        "    service.pb.POOL.FindFileByName(name)\n"
        "    try:\n"
        "        descriptor_pool.Default().FindFileByName(name)\n"
        "    except KeyError:\n"
        "        continue\n"
        "    raise SystemExit(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=dict(os.environ))

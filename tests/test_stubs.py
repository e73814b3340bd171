"""The stubs are made from proto/, and proto/ is Triton's wire."""

import subprocess
import sys
from pathlib import Path

from service.pb import inference_pb2, model_config_pb2
from tests.conftest import outside
from tests.outside.fields_of import describe
from tests.support.paths import ROOT


def test_every_field_has_the_number_and_type_that_tritonclient_has() -> None:
    ours = describe([inference_pb2.DESCRIPTOR, model_config_pb2.DESCRIPTOR])
    theirs = outside("fields.py")
    assert len(ours) > 300
    differ = {name: (fact, theirs.get(name)) for name, fact in ours.items() if theirs.get(name) != fact}
    assert not differ


def test_the_stubs_are_what_protoc_makes_of_proto(tmp_path: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").glob("*.proto"))
    flags = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-Iservice/pb=proto", *flags, *protos], cwd=ROOT, check=True
    )
    made = {path.name: path.read_text() for path in (tmp_path / "service" / "pb").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "service" / "pb").glob("*_pb2*.py*")}
    assert made == kept, "run `make stubs`"

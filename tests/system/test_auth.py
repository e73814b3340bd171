"""`--tokens-file`, as a user gives it."""

from pathlib import Path

import grpc
import numpy as np
import pytest

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.processes import ServiceProcess, run_command, service_process
from tests.support.requests import infer_request
from tests.support.tokens import CALLER, token_line
from tests.support.waiting import WAIT, wait_until

REQUEST = infer_request("double", x=np.ones((1, 4), np.float32))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_missing_tokens_file_is_one_line_and_status_2(toys: Path, tmp_path: Path, workers: str) -> None:
    flags = ["--tokens-file", str(tmp_path / "none"), "--workers", workers]
    result = run_command("service", "--model-repository", str(toys), *flags)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "--tokens-file" in line and "cannot be read" in line


def codes(service: ServiceProcess, token: str) -> set[grpc.StatusCode]:
    """The statuses of calls on new connections, to whichever worker."""
    found = set()
    for number in range(8):
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.insecure_channel(service.address, options=options) as channel:
            call = GRPCInferenceServiceStub(channel).ModelInfer
            metadata = [("authorization", f"Bearer {token}")]
            found.add(call.future(REQUEST, metadata=metadata, timeout=WAIT).code())
    return found


def test_every_worker_reads_the_tokens_again_and_keeps_them_if_the_file_is_invalid(
    toys: Path, tokens_file: Path, grpc_server: str
) -> None:
    flags = ["--tokens-file", str(tokens_file), "--workers", "2", "--grpc-server", grpc_server]
    with service_process(toys, *flags) as service:
        wait_until(lambda: service.count("listening") == 2, "both workers listen")
        tokens_file.write_text("nonsense\n")
        invalid = "tokens file invalid, keeping the old tokens"
        wait_until(lambda: service.count(invalid) == 2, "both workers say that it is invalid")
        assert f"{tokens_file}:1:" in service.event(invalid)["reason"]
        assert codes(service, CALLER) == {grpc.StatusCode.OK}
        tokens_file.write_text(token_line("new", "infer"))
        wait_until(lambda: service.count("tokens file read again") == 2, "both workers read it")
        assert codes(service, "new") == {grpc.StatusCode.OK}
        assert codes(service, CALLER) == {grpc.StatusCode.UNAUTHENTICATED}

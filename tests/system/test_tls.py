"""TLS as a user gives it: several workers, files that change, and files that cannot be used."""

import shutil
import ssl
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import pytest

from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.certificates import LOCAL, Authority
from tests.support.processes import ServiceProcess, run_command, service_process
from tests.support.requests import infer_request
from tests.support.waiting import WAIT, wait_until

REQUEST = infer_request("double", x=np.ones((1, 4), np.float32))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


def answers(service: ServiceProcess, ca: bytes) -> bool:
    """Whether a client that trusts this authority alone gets an answer on new connections, from whichever worker."""
    for number in range(8):
        options = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
        with grpc.secure_channel(service.address, grpc.ssl_channel_credentials(ca), options) as channel:
            try:
                GRPCInferenceServiceStub(channel).ModelInfer(REQUEST, timeout=WAIT)
            except grpc.RpcError:
                return False
    return True


def test_every_worker_and_the_supervisor_take_a_new_certificate(
    toys: Path, tmp_path: Path, authority: Authority
) -> None:
    certificate, key = authority.issue("server", *LOCAL)
    other = Authority(tmp_path / "other")
    new = other.issue("server", *LOCAL)
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(key), "--workers", "2"]
    with service_process(toys, *flags) as service:
        wait_until(lambda: service.count("listening") == 2, "both workers listen")
        assert answers(service, authority.ca.read_bytes())
        for source, target in zip(new, (certificate, key), strict=True):
            shutil.copy(source, target)
        wait_until(lambda: service.count("certificate read again") == 3, "two workers and the supervisor read it")
        assert answers(service, other.ca.read_bytes())
        trusting = ssl.create_default_context(cafile=str(other.ca))
        with urlopen(service.metrics.replace("metrics", "livez"), context=trusting, timeout=WAIT) as response:
            assert response.read() == b"live\n"
        assert service.count("aio server chosen") == 1
        assert service.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_file_of_tls_that_cannot_be_used_is_one_line_and_status_2(
    toys: Path, authority: Authority, workers: str
) -> None:
    certificate, _ = authority.issue("server")
    _, other = authority.issue("other")
    flags = ["--tls-certificate", str(certificate), "--tls-key", str(other), "--workers", workers]
    result = run_command("service", "--model-repository", str(toys), *flags)
    assert result.returncode == 2
    assert result.stderr == f"error: --tls-key {other} is not the key of the certificate {certificate}\n"

"""A caller's authority (HTTP's Host) cannot disturb the connection that callers share behind the edge."""

import urllib.request
from pathlib import Path

import grpc
import pytest

from service.pb import inference_pb2 as pb
from service.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.support.edge import EdgeProcess, edge_process
from tests.support.local_service import local_service


def counter(edge: EdgeProcess, name: str) -> float:
    """The edge's counter of the cluster `service`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{edge.operators_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.rsplit(" ", 1)[1] for line in lines if line.startswith(f'{name}{{envoy_cluster_name="service"}}')]
    return float(value)


@pytest.mark.parametrize("authority", ["[", "one.example:8001,two.example:8001"])
def test_an_authority_that_cannot_be_parsed_resets_no_stream_and_ejects_no_replica(
    toys: Path, tmp_path: Path, authority: str
) -> None:
    """The native server resets such a stream, and after 1,024 of them closes the connection, with all its calls."""
    with (
        local_service(toys, "native") as service,
        edge_process(service.ready().address, tmp_path) as edge,
        grpc.insecure_channel(edge.address, [("grpc.default_authority", authority)]) as channel,
    ):
        for _ in range(10):
            GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), timeout=10)
        assert counter(edge, "envoy_cluster_http2_rx_reset") == 0
        assert counter(edge, "envoy_cluster_outlier_detection_ejections_enforced_total") == 0

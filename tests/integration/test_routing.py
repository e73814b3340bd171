"""Routing by label and the canary's share, in calls to a running server."""

from collections import Counter
from pathlib import Path

import numpy as np

from service.pb import inference_pb2 as pb
from tests.support.local_service import local_service
from tests.support.models import routing_config
from tests.support.requests import infer_request

X = np.arange(4, dtype=np.float32).reshape(1, 4)
# Calls of one layout, so that the decode cache knows it.
CALLS = 2000


def test_calls_are_routed_by_label_key_and_percentage(three_versions: Path, grpc_server: str) -> None:
    (three_versions / "double" / "config.pbtxt").write_text(routing_config(stable=1, canary=2, canary_percent=30))
    with local_service(three_versions, grpc_server) as service:

        def version(request: pb.ModelInferRequest) -> str:
            return str(service.stub.ModelInfer(request).model_version)

        by_id = {str(user): version(infer_request("double", str(user), x=X)) for user in range(200)}
        assert 30 <= Counter(by_id.values())["2"] <= 90
        for user in range(20):
            assert version(infer_request("double", str(user), x=X)) == by_id[str(user)]
            keyed = infer_request("double", "another id", x=X)
            keyed.parameters["sticky_key"].string_param = str(user)
            assert version(keyed) == by_id[str(user)], "sticky_key must take precedence over the request id"
        for _ in range(20):
            metadata = service.stub.ModelMetadata(pb.ModelMetadataRequest(name="double"))
            assert metadata.versions == ["1", "2"]
            config = service.stub.ModelStatistics(pb.ModelStatisticsRequest(name="double", version="stable"))
            assert [model.version for model in config.model_stats] == ["1"]
        assert service.stub.ModelReady(pb.ModelReadyRequest(name="double", version="canary")).ready
        labelled = infer_request("double", x=X)
        labelled.model_version = "canary"
        assert version(labelled) == "2"


def test_equal_requests_without_an_id_go_to_the_canary_by_its_percentage(three_versions: Path) -> None:
    (three_versions / "double" / "config.pbtxt").write_text(routing_config(stable=1, canary=2, canary_percent=30))
    with local_service(three_versions, "native") as service:
        versions = Counter(service.stub.ModelInfer(infer_request("double", x=X)).model_version for _ in range(CALLS))
    assert abs(versions["2"] / CALLS - 0.3) < 0.06  # more than 5 standard deviations of a fair draw

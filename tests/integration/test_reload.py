"""Reload in a running server: no request is lost, and a refused version is reported."""

import re
import shutil
import threading
import urllib.request
from pathlib import Path

import numpy as np

from service.models.registry import Registry, State
from tests.support.local_service import Gate, LocalService, local_service
from tests.support.models import add_version, doubling_model
from tests.support.requests import infer_request, outputs_of
from tests.support.waiting import WAIT, wait_until

X = np.arange(4, dtype=np.float32).reshape(1, 4)


def states(registry: Registry) -> list[tuple[str, int, State]]:
    return [(status.name, status.version, status.state) for status in registry.index()]


def test_new_versions_replace_old_ones_under_load_without_a_failed_call(toys: Path, grpc_server: str) -> None:
    failures: list[str] = []
    versions: list[str] = []
    stop = threading.Event()

    def call(service: LocalService, seed: int) -> None:
        x = np.full((1, 4), seed, np.float32)
        while not stop.is_set():
            try:
                response = service.stub.ModelInfer(infer_request("double", x=x))
                versions.append(response.model_version)
                if not (outputs_of(response)["y"] == 2 * x).all():
                    failures.append("wrong answer")
            except Exception as error:  # noqa: BLE001 # every error is a failure
                failures.append(repr(error))

    with local_service(toys, grpc_server) as service:
        threads = [threading.Thread(target=call, args=(service, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for version in range(2, 7):
            add_version(toys, "double", doubling_model(), version=version)
            service.server.reconciler.reconcile()
            wait_until(lambda: str(version) in versions or bool(failures), f"version {version} answers")  # noqa: B023
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert len(set(versions)) > 1, "no version was replaced under load"


def test_a_version_that_is_deleted_while_it_serves_answers_its_pending_requests(
    toys: Path, grpc_server: str, gate: Gate
) -> None:
    add_version(toys, "double", doubling_model(), version=2)
    with (toys / "double" / "config.pbtxt").open("a") as config:
        config.write(" version_policy { all { } }")  # loads version 1 too, before the gate holds the engines
    with local_service(toys, grpc_server) as service:
        gate.hold()
        calls = [service.stub.ModelInfer.future(infer_request("double", str(index), x=X)) for index in range(5)]
        batcher = service.server.registry.get("double").batcher
        wait_until(lambda: batcher.pending_rows == 5, "the five requests are pending")
        shutil.rmtree(toys / "double" / "2")
        reconcile = threading.Thread(target=service.server.reconciler.reconcile)
        reconcile.start()
        wait_until(lambda: ("double", 2, State.UNLOADING) in states(service.server.registry), "version 2 is unloading")
        new = service.stub.ModelInfer.future(infer_request("double", x=X))
        gate.open()
        reconcile.join(WAIT)
        assert [call.result(WAIT).model_version for call in calls] == ["2"] * 5
        assert new.result(WAIT).model_version == "1"
        assert ("double", 2, State.UNLOADING) not in states(service.server.registry)


def test_a_refused_version_is_reported_as_a_metric_with_a_reason_code(toys: Path) -> None:
    add_version(toys, "double", b"no graph", version=9)
    with local_service(toys, "aio") as service, urllib.request.urlopen(service.server.metrics_url) as response:
        text = response.read().decode()
    assert re.search(r'inference_model_refused\{model="double",reason="graph",version="9"\} 1.0', text)
    assert 'inference_model_ready{model="double",version="9"} 0.0' in text

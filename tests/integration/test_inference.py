"""Inference with the published model: batching of mixed sizes, typed contents, and our own client."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from service.client import Client
from tests.support.local_service import local_service
from tests.support.requests import infer_request, outputs_of

TestImages = tuple[NDArray[np.uint8], NDArray[np.uint8]]
MODEL = "mnist-simplecnn"


def accuracy(answers: Any, labels: NDArray[np.uint8]) -> float:
    return float((np.array(answers).argmax(1) == labels).mean())


def test_concurrent_requests_of_mixed_sizes_get_the_same_answers_as_alone(
    published: Path, grpc_server: str, test_images: TestImages
) -> None:
    images, _ = test_images
    random = np.random.default_rng(0)
    requests = [random.integers(0, len(images), random.integers(1, 17)) for _ in range(300)]
    with local_service(published, grpc_server) as service:

        def infer(rows: NDArray[Any]) -> NDArray[Any]:
            return outputs_of(service.stub.ModelInfer(infer_request(MODEL, images=images[rows])))["probabilities"]

        alone = {row: infer(np.array([row]))[0] for row in sorted({*np.concatenate(requests).tolist()})}
        before = service.server.registry.get(MODEL).statistics.executions
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(infer, requests))
        statistics = service.server.registry.get(MODEL).statistics
        assert statistics.executions - before < len(requests), "no requests shared a batch"
    for rows, answer in zip(requests, answers, strict=True):
        expected = np.stack([alone[row] for row in rows.tolist()])
        np.testing.assert_allclose(answer, expected, atol=1e-5)
        np.testing.assert_array_equal(answer.argmax(1), expected.argmax(1))


def test_typed_contents_get_the_same_answer_as_raw_contents(
    published: Path, grpc_server: str, test_images: TestImages
) -> None:
    images = test_images[0][:3]
    with local_service(published, grpc_server) as service:
        raw = infer_request(MODEL, images=images)
        typed = infer_request(MODEL, images=images)
        del typed.raw_input_contents[:]
        typed.inputs[0].contents.uint_contents.extend(images.ravel().tolist())
        assert service.stub.ModelInfer(raw) == service.stub.ModelInfer(typed)
        typed.inputs[0].contents.uint_contents[5] = 256
        with pytest.raises(grpc.RpcError, match="expected values from 0 to 255, got 0 to 256"):
            service.stub.ModelInfer(typed)


def test_our_client_predicts_and_reads_health_and_models(
    published: Path, grpc_server: str, test_images: TestImages
) -> None:
    images, labels = test_images
    with local_service(published, grpc_server) as service, Client(service.address) as client:
        assert client.serving() and client.serving(MODEL)
        assert [(model.name, model.version, model.state) for model in client.models()] == [(MODEL, "1", "READY")]
        assert accuracy(client.predict(MODEL, images[:64]), labels[:64]) > 0.9

"""The policies that concern a batch as it runs: order of responses, padding, and engines that break."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from service.batching.batcher import Batcher
from service.batching.queue import QueuePolicy
from service.batching.scheduler import BatchingPolicy
from service.batching.statistics import Statistics
from service.core.errors import EngineFailed, NotReady
from service.core.load_errors import LoadError
from service.core.spec import Backend, Run
from tests.support.batching import BlockingEngine, FakeRequest, occupy
from tests.support.waiting import WAIT, wait_until


@pytest.fixture
def engine() -> BlockingEngine:
    return BlockingEngine()


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture
def make(engine: BlockingEngine, statistics: Statistics) -> Iterator[Callable[..., Batcher]]:
    """A factory of batchers; by default one level of 16 rows, batches of 8 rows and one engine that the test blocks."""
    made: list[Batcher] = []

    def factory(
        *levels: QueuePolicy,
        engines: Sequence[Backend] = (engine,),
        probe: Callable[[Run], None] = lambda _: None,
        **policy: Any,
    ) -> Batcher:
        made.append(
            Batcher(
                engines,
                BatchingPolicy(**{"max_batch_size": 8, "levels": levels or [QueuePolicy(16)]} | policy),
                statistics,
                name="made",
                probe=probe,
            )
        )
        return made[-1]

    yield factory
    for batcher in made:
        batcher.close()
        engine.release(1000)
        assert batcher.join(WAIT)


@pytest.mark.parametrize("ordered", [True, False])
def test_preserve_ordering_keeps_the_responses_of_two_engines_in_order(
    make: Callable[..., Batcher], statistics: Statistics, ordered: bool
) -> None:
    engines = [BlockingEngine(), BlockingEngine()]
    batcher = make(engines=engines, max_batch_size=1, preserve_ordering=ordered)
    requests = [FakeRequest(value) for value in (0, 1)]
    for request in requests:
        batcher.submit(request)
    for engine in engines:
        engine.wait_for_runs(1)
    second = engines[0] if engines[0].batches == [[1.0]] else engines[1]
    first = engines[1] if second is engines[0] else engines[0]
    second.release(1)
    assert requests[1].done.wait(0.2) is not ordered
    first.release(1)
    for request in requests:
        request.result()


def test_preserve_ordering_also_orders_failures(make: Callable[..., Batcher]) -> None:
    engines = [BlockingEngine(), BlockingEngine()]
    batcher = make(engines=engines, max_batch_size=1, preserve_ordering=True)
    requests = [FakeRequest(value) for value in (1, 666)]
    for request in requests:
        batcher.submit(request)
    for engine in engines:
        engine.wait_for_runs(1)
    failing = next(engine for engine in engines if engine.batches == [[666.0]])
    failing.release(1)
    assert not requests[1].done.wait(0.1)
    next(engine for engine in engines if engine is not failing).release(1)
    requests[0].result()
    assert isinstance(requests[1].failure(), EngineFailed)


def test_batches_are_padded_to_a_fixed_size_and_no_request_gets_the_padding(
    make: Callable[..., Batcher], engine: BlockingEngine, statistics: Statistics
) -> None:
    batcher = make(sizes=[8])
    occupy(batcher, engine)
    requests = [FakeRequest(1, 2), FakeRequest(2, 3)]
    for request in requests:
        batcher.submit(request)
    engine.release(2)
    assert [request.result().tolist() for request in requests] == [[[-1, -1]] * 2, [[-2, -2]] * 3]
    wait_until(lambda: batcher.pending_rows == 0, "the batches are counted")
    assert engine.batches == [[0] * 8, [1, 1, 2, 2, 2, 2, 2, 2]]
    assert (statistics.rows, statistics.padding_rows) == (6, 10)


def test_an_engine_that_fails_its_probe_is_broken_and_fails_all_requests(
    engine: BlockingEngine, statistics: Statistics
) -> None:
    def probe(_: Run) -> None:
        raise LoadError("no memory")

    calls: list[str] = []
    batcher = Batcher(
        [engine], BatchingPolicy(1, [QueuePolicy(16)]), statistics, name="breaking", probe=probe,
        on_broken=lambda: calls.append("broken"),
    )  # fmt: skip
    faulty, queued = FakeRequest(666), FakeRequest(1)
    batcher.submit(faulty)
    engine.wait_for_runs(1)
    batcher.submit(queued)
    engine.release(1)
    assert isinstance(faulty.failure(), EngineFailed)
    assert isinstance(queued.failure(), NotReady) and "no memory" in queued.failure().message
    assert batcher.join(WAIT)
    with pytest.raises(NotReady, match="the engine is broken"):
        batcher.submit(FakeRequest(2))
    assert calls == ["broken"] and engine.batches == [[666]]


def test_an_engine_that_passes_its_probe_serves_on_and_is_not_probed_after_every_failure(
    make: Callable[..., Batcher], engine: BlockingEngine
) -> None:
    probed: list[Run] = []
    batcher = make(probe=probed.append)
    engine.release(10)
    for _ in range(3):
        request = FakeRequest(666)
        batcher.submit(request)
        assert isinstance(request.failure(), EngineFailed)
    good = FakeRequest(1)
    batcher.submit(good)
    good.result()
    assert len(probed) == 1 and not batcher.broken

"""The batching policies that config.pbtxt can set, and the batcher when an engine breaks."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from service.batching.batcher import Batcher, BatchingPolicy
from service.batching.queue import PendingRequest, QueuePolicy, RequestQueue
from service.batching.statistics import Statistics
from service.core.errors import DeadlineExceeded, EngineFailed, InvalidArgument, LoadError, NotReady, QueueFull
from service.core.spec import Backend, Run
from tests.support.batching import BlockingEngine, FakeClock, FakeRequest, occupy
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


def test_higher_priorities_run_first_and_each_level_keeps_its_order(
    make: Callable[..., Batcher], engine: BlockingEngine
) -> None:
    batcher = make(*[QueuePolicy(16)] * 3, max_batch_size=2, default_level=1)
    occupy(batcher, engine)
    for value, priority in ((1, 3), (2, 0), (3, 1), (4, 2), (5, 1)):
        batcher.submit(FakeRequest(value, priority=priority))
    engine.release(10)
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert engine.batches == [[0], [3, 5], [2, 4], [1]]


def test_each_level_has_its_own_capacity(make: Callable[..., Batcher], engine: BlockingEngine) -> None:
    batcher = make(QueuePolicy(1), QueuePolicy(2))
    occupy(batcher, engine)
    batcher.submit(FakeRequest(1, priority=1))
    with pytest.raises(QueueFull, match="1 rows wait, the limit is 1"):
        batcher.submit(FakeRequest(2, priority=1))
    batcher.submit(FakeRequest(3, 2, priority=2))
    with pytest.raises(QueueFull, match="2 rows wait, the limit is 2"):
        batcher.submit(FakeRequest(4, priority=2))


def test_an_unknown_priority_is_refused_but_ignored_by_a_model_without_levels(
    make: Callable[..., Batcher], engine: BlockingEngine
) -> None:
    with pytest.raises(InvalidArgument, match="priority expected 1 to 2 or 0 for the default, got 3"):
        make(QueuePolicy(16), QueuePolicy(16)).submit(FakeRequest(1, priority=3))
    engine.release(1)
    request = FakeRequest(1, priority=3)
    make().submit(request)
    request.result()


def test_a_timed_out_request_fails_at_once_while_the_engine_is_busy(
    make: Callable[..., Batcher], engine: BlockingEngine
) -> None:
    batcher = make()
    occupy(batcher, engine)
    expiring, other = FakeRequest(1, arrived=time.monotonic(), timeout=0.05), FakeRequest(2)
    batcher.submit(expiring)
    batcher.submit(other)
    assert isinstance(expiring.failure(), DeadlineExceeded)
    assert batcher.queued_rows == 1, "the rows of the expired request still count"
    engine.release(2)
    other.result()
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert engine.batches == [[0], [2]]


def test_a_new_request_with_the_latest_timeout_does_not_trigger_a_scan_of_the_queue(
    make: Callable[..., Batcher], engine: BlockingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[float] = []
    drop_expired = RequestQueue.drop_expired

    def counted(queue: RequestQueue, now: float) -> list[PendingRequest]:
        scans.append(now)
        return drop_expired(queue, now)

    monkeypatch.setattr(RequestQueue, "drop_expired", counted)
    batcher = make(QueuePolicy(1000, timeout=60.0))
    for value in range(100):
        batcher.submit(FakeRequest(value, arrived=time.monotonic()))
        time.sleep(0.001)  # lets the timer thread run
    assert batcher.queued_rows >= 90 and len(scans) < 10


def test_a_timeout_or_delay_beyond_pythons_longest_wait_ends_no_thread(
    make: Callable[..., Batcher], engine: BlockingEngine
) -> None:
    batcher = make(max_delay=1e13)
    batcher.submit(first := FakeRequest(0, 8))
    engine.wait_for_runs(1)
    now = time.monotonic()
    waiting, short = FakeRequest(1, arrived=now, timeout=1e13), FakeRequest(2, arrived=now, timeout=0.05)
    batcher.submit(waiting)
    batcher.submit(short)
    assert isinstance(short.failure(), DeadlineExceeded), "the timer thread has ended"
    engine.release(2)
    first.result()
    wait_until(lambda: len(batcher._free_engines) == 1, "the engine thread waits for the delay")
    batcher.submit(FakeRequest(3, 7, arrived=now))
    waiting.result()
    assert engine.batches == [[0] * 8, [1] + [3] * 7]


@pytest.mark.parametrize(
    ("policy", "requested", "effective"),
    [
        (QueuePolicy(16), 5.0, 5.0),
        (QueuePolicy(16, timeout=7.0), 0.0, 7.0),
        (QueuePolicy(16, timeout=7.0), 5.0, 5.0),
        (QueuePolicy(16, timeout=7.0), 9.0, 7.0),  # a request may only shorten the timeout
        (QueuePolicy(16, timeout=7.0, timeout_override=False), 5.0, 7.0),
    ],
)
def test_a_request_may_shorten_the_timeout_of_the_model_if_the_model_allows_it(
    policy: QueuePolicy, requested: float, effective: float
) -> None:
    request = FakeRequest(1, arrived=100.0, deadline=1000.0, timeout=requested)
    RequestQueue([policy]).admit(request)
    assert request.deadline == 100.0 + effective
    RequestQueue([policy]).admit(sooner := FakeRequest(1, arrived=100.0, deadline=101.0, timeout=requested))
    assert sooner.deadline == 101.0, "a timeout extended the deadline of the caller"


def test_the_timeout_action_delay_moves_late_requests_behind_the_rest_of_their_level(
    engine: BlockingEngine, statistics: Statistics
) -> None:
    clock = FakeClock()
    levels = [QueuePolicy(16, timeout=1.0, delay_late=True), QueuePolicy(16)]
    batcher = Batcher([engine], BatchingPolicy(1, levels), statistics, name="delay", clock=clock)
    occupy(batcher, engine)
    requests = [FakeRequest(value, arrived=arrived, priority=level) for value, arrived, level in
                ((1, 0.0, 1), (2, 0.0, 2), (3, 5.0, 1))]  # fmt: skip
    clock.now = 5.0
    for request in requests:
        batcher.submit(request)
    engine.release(10)
    for request in requests:
        request.result()
    assert engine.batches == [[0], [3], [1], [2]], "a late request runs last in its level but before the next level"
    batcher.close()
    assert batcher.join(WAIT)


def test_the_largest_possible_preferred_size_is_formed(
    make: Callable[..., Batcher], engine: BlockingEngine, statistics: Statistics
) -> None:
    batcher = make(preferred=frozenset({2, 4}))
    occupy(batcher, engine)
    for value in range(1, 8):
        batcher.submit(FakeRequest(value))
    engine.release(10)
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6], [7]]
    assert statistics.closed_by == {"engine_free": 2, "preferred": 2}


def test_the_queue_delay_waits_for_a_preferred_size_and_then_takes_all_queued_requests(
    make: Callable[..., Batcher], engine: BlockingEngine, statistics: Statistics
) -> None:
    engine.release(10)
    batcher = make(preferred=frozenset({2}), max_delay=0.2)
    before = time.monotonic()
    pair = [FakeRequest(value, arrived=before) for value in (1, 2)]
    for request in pair:
        batcher.submit(request)
    pair[1].result()
    assert time.monotonic() - before < 0.2
    single = FakeRequest(3, 3, arrived=time.monotonic())
    batcher.submit(single)
    single.result()
    wait_until(lambda: statistics.executions == 2, "both batches are counted")
    assert engine.batches == [[1, 2], [3, 3, 3]]
    assert statistics.closed_by == {"preferred": 1, "delay": 1}


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


def test_a_request_that_would_miss_its_deadline_is_not_computed_unless_it_is_alone(
    engine: BlockingEngine, statistics: Statistics
) -> None:
    clock = FakeClock()
    batcher = Batcher([engine], BatchingPolicy(2, [QueuePolicy(16)]), statistics, name="late", clock=clock)
    first = occupy(batcher, engine)
    expiring, other = FakeRequest(1, deadline=6.0), FakeRequest(2)
    batcher.submit(expiring)
    batcher.submit(other)
    clock.now = 4.0  # the estimate is 4 s a row, two rows are queued, and 2 s are left
    engine.release(1)
    first.result()
    assert "can no longer be met after 4000 ms" in expiring.failure().message
    alone = FakeRequest(3, arrived=4.0, deadline=40.0)
    batcher.submit(alone)
    engine.wait_for_runs(2)
    clock.now = 39.0
    engine.release(2)
    alone.result()
    assert engine.batches == [[0], [2], [3]], "the request that was alone did not run"
    batcher.close()
    assert batcher.join(WAIT)

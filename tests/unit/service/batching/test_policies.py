"""What config.pbtxt can ask of the batcher, and what becomes of it when an engine breaks."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from service.batching.batcher import Batcher, BatchingPolicy
from service.batching.queue import PendingRequest, QueuePolicy, RequestQueue
from service.batching.statistics import Statistics
from service.core.errors import DeadlineExceeded, EngineFailed, InvalidArgument, LoadError, NotReady, QueueFull
from service.core.spec import Backend, Run
from tests.support.batching import Clock, FakeRequest, HeldEngine, busy
from tests.support.waiting import WAIT, wait_until


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture
def make(engine: HeldEngine, statistics: Statistics) -> Iterator[Callable[..., Batcher]]:
    """Makes batchers with one level of 16 rows, batches of 8 and an engine that the test holds, unless said."""
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
        engine.let(1000)
        assert batcher.join(WAIT)


def test_a_higher_priority_leaves_first_and_each_level_in_its_order(
    make: Callable[..., Batcher], engine: HeldEngine
) -> None:
    batcher = make(*[QueuePolicy(16)] * 3, max_batch_size=2, default_level=1)
    busy(batcher, engine)
    for value, priority in ((1, 3), (2, 0), (3, 1), (4, 2), (5, 1)):
        batcher.submit(FakeRequest(value, priority=priority))
    engine.let(10)
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [3, 5], [2, 4], [1]]


def test_each_level_has_its_own_room(make: Callable[..., Batcher], engine: HeldEngine) -> None:
    batcher = make(QueuePolicy(1), QueuePolicy(2))
    busy(batcher, engine)
    batcher.submit(FakeRequest(1, priority=1))
    with pytest.raises(QueueFull, match="1 rows wait, the limit is 1"):
        batcher.submit(FakeRequest(2, priority=1))
    batcher.submit(FakeRequest(3, 2, priority=2))
    with pytest.raises(QueueFull, match="2 rows wait, the limit is 2"):
        batcher.submit(FakeRequest(4, priority=2))


def test_a_priority_that_is_none_of_the_models_is_refused_and_means_nothing_without_levels(
    make: Callable[..., Batcher], engine: HeldEngine
) -> None:
    with pytest.raises(InvalidArgument, match="priority expected 1 to 2 or 0 for the default, got 3"):
        make(QueuePolicy(16), QueuePolicy(16)).submit(FakeRequest(1, priority=3))
    engine.let(1)
    request = FakeRequest(1, priority=3)
    make().submit(request)
    request.result()


def test_what_times_out_is_told_at_once_not_when_the_engine_is_free(
    make: Callable[..., Batcher], engine: HeldEngine
) -> None:
    batcher = make()
    busy(batcher, engine)
    late, patient = FakeRequest(1, arrived=time.monotonic(), timeout=0.05), FakeRequest(2)
    batcher.submit(late)
    batcher.submit(patient)
    assert isinstance(late.failure(), DeadlineExceeded)
    assert batcher.queued_rows == 1, "its room was not given back"
    engine.let(2)
    patient.result()
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [2]]


def test_requests_that_time_out_in_their_order_are_not_gone_through_each_time_one_comes(
    make: Callable[..., Batcher], engine: HeldEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    look = RequestQueue.drop_expired

    def counted(queue: RequestQueue, now: float) -> list[PendingRequest]:
        looks.append(now)
        return look(queue, now)

    monkeypatch.setattr(RequestQueue, "drop_expired", counted)
    batcher = make(QueuePolicy(1000, timeout=60.0))
    for value in range(100):
        batcher.submit(FakeRequest(value, arrived=time.monotonic()))
        time.sleep(0.001)  # the thread that looks has its chance
    assert batcher.queued_rows >= 90 and len(looks) < 10


def test_a_timeout_or_delay_of_centuries_stops_no_thread(make: Callable[..., Batcher], engine: HeldEngine) -> None:
    batcher = make(max_delay=1e13)
    batcher.submit(first := FakeRequest(0, 8))
    engine.wait_for(1)
    now = time.monotonic()
    waiting, short = FakeRequest(1, arrived=now, timeout=1e13), FakeRequest(2, arrived=now, timeout=0.05)
    batcher.submit(waiting)
    batcher.submit(short)
    assert isinstance(short.failure(), DeadlineExceeded), "the thread that fails what times out has ended"
    engine.let(2)
    first.result()
    wait_until(lambda: len(batcher._free_engines) == 1, "the engine's thread waits for company")
    batcher.submit(FakeRequest(3, 7, arrived=now))
    waiting.result()
    assert engine.batches == [[0] * 8, [1] + [3] * 7]


@pytest.mark.parametrize(
    ("policy", "brought", "holds"),
    [
        (QueuePolicy(16), 5.0, 5.0),
        (QueuePolicy(16, timeout=7.0), 0.0, 7.0),
        (QueuePolicy(16, timeout=7.0), 5.0, 5.0),
        (QueuePolicy(16, timeout=7.0), 9.0, 7.0),  # it may only shorten
        (QueuePolicy(16, timeout=7.0, timeout_override=False), 5.0, 7.0),
    ],
)
def test_a_request_may_shorten_the_models_timeout_where_the_model_lets_it(
    policy: QueuePolicy, brought: float, holds: float
) -> None:
    request = FakeRequest(1, arrived=100.0, deadline=1000.0, timeout=brought)
    RequestQueue([policy]).admit(request)
    assert request.deadline == 100.0 + holds
    RequestQueue([policy]).admit(sooner := FakeRequest(1, arrived=100.0, deadline=101.0, timeout=brought))
    assert sooner.deadline == 101.0, "a timeout put the caller's deadline off"


def test_where_late_requests_are_delayed_they_let_all_others_of_their_level_pass(
    engine: HeldEngine, statistics: Statistics
) -> None:
    clock = Clock()
    levels = [QueuePolicy(16, timeout=1.0, delay_late=True), QueuePolicy(16)]
    batcher = Batcher([engine], BatchingPolicy(1, levels), statistics, name="delay", clock=clock)
    busy(batcher, engine)
    requests = [FakeRequest(value, arrived=arrived, priority=level) for value, arrived, level in
                ((1, 0.0, 1), (2, 0.0, 2), (3, 5.0, 1))]  # fmt: skip
    clock.now = 5.0
    for request in requests:
        batcher.submit(request)
    engine.let(10)
    for request in requests:
        request.result()
    assert engine.batches == [[0], [3], [1], [2]], "late in its level, yet before the next level"
    batcher.close()
    assert batcher.join(WAIT)


def test_a_preferred_size_is_formed_where_it_can_be(
    make: Callable[..., Batcher], engine: HeldEngine, statistics: Statistics
) -> None:
    batcher = make(preferred=frozenset({2, 4}))
    busy(batcher, engine)
    for value in range(1, 8):
        batcher.submit(FakeRequest(value))
    engine.let(10)
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [1, 2, 3, 4], [5, 6], [7]]
    assert statistics.closed_by == {"engine_free": 2, "preferred": 2}


def test_a_delay_waits_for_a_preferred_size_and_then_takes_what_is_there(
    make: Callable[..., Batcher], engine: HeldEngine, statistics: Statistics
) -> None:
    engine.let(10)
    batcher = make(preferred=frozenset({2}), max_delay=0.2)
    before = time.monotonic()
    pair = [FakeRequest(value, arrived=before) for value in (1, 2)]
    for request in pair:
        batcher.submit(request)
    pair[1].result()
    assert time.monotonic() - before < 0.2
    threes = [FakeRequest(3, 3, arrived=time.monotonic())]
    batcher.submit(threes[0])
    threes[0].result()
    wait_until(lambda: statistics.executions == 2, "both ran")
    assert engine.batches == [[1, 2], [3, 3, 3]]
    assert statistics.closed_by == {"preferred": 1, "delay": 1}


@pytest.mark.parametrize("ordered", [True, False])
def test_answers_of_two_engines_leave_in_order_where_it_is_asked_for(
    make: Callable[..., Batcher], statistics: Statistics, ordered: bool
) -> None:
    engines = [HeldEngine(), HeldEngine()]
    batcher = make(engines=engines, max_batch_size=1, preserve_ordering=ordered)
    requests = [FakeRequest(value) for value in (0, 1)]
    for request in requests:
        batcher.submit(request)
    for engine in engines:
        engine.wait_for(1)
    second = engines[0] if engines[0].batches == [[1.0]] else engines[1]
    first = engines[1] if second is engines[0] else engines[0]
    second.let(1)
    assert requests[1].done.wait(0.2) is not ordered
    first.let(1)
    for request in requests:
        request.result()


def test_a_failure_keeps_its_place_in_the_order(make: Callable[..., Batcher]) -> None:
    engines = [HeldEngine(), HeldEngine()]
    batcher = make(engines=engines, max_batch_size=1, preserve_ordering=True)
    requests = [FakeRequest(value) for value in (1, 666)]
    for request in requests:
        batcher.submit(request)
    for engine in engines:
        engine.wait_for(1)
    guilty = next(engine for engine in engines if engine.batches == [[666.0]])
    guilty.let(1)
    assert not requests[1].done.wait(0.1)
    next(engine for engine in engines if engine is not guilty).let(1)
    requests[0].result()
    assert isinstance(requests[1].failure(), EngineFailed)


def test_batches_of_a_fixed_size_are_filled_up_and_nobody_sees_the_filling(
    make: Callable[..., Batcher], engine: HeldEngine, statistics: Statistics
) -> None:
    batcher = make(sizes=[8])
    busy(batcher, engine)
    requests = [FakeRequest(1, 2), FakeRequest(2, 3)]
    for request in requests:
        batcher.submit(request)
    engine.let(2)
    assert [request.result().tolist() for request in requests] == [[[-1, -1]] * 2, [[-2, -2]] * 3]
    wait_until(lambda: batcher.pending == 0, "all is counted")
    assert engine.batches == [[0] * 8, [1, 1, 2, 2, 2, 2, 2, 2]]
    assert (statistics.rows, statistics.padding_rows) == (6, 10)


def test_an_engine_that_fails_its_probe_is_broken_and_everybody_is_told(
    engine: HeldEngine, statistics: Statistics
) -> None:
    def probe(_: Run) -> None:
        raise LoadError("no memory")

    told: list[str] = []
    batcher = Batcher(
        [engine], BatchingPolicy(1, [QueuePolicy(16)]), statistics, name="breaking", probe=probe,
        on_broken=lambda: told.append("broken"),
    )  # fmt: skip
    guilty, waiting = FakeRequest(666), FakeRequest(1)
    batcher.submit(guilty)
    engine.wait_for(1)
    batcher.submit(waiting)
    engine.let(1)
    assert isinstance(guilty.failure(), EngineFailed)
    assert isinstance(waiting.failure(), NotReady) and "no memory" in waiting.failure().message
    assert batcher.join(WAIT)
    with pytest.raises(NotReady, match="the engine is broken"):
        batcher.submit(FakeRequest(2))
    assert told == ["broken"] and engine.batches == [[666]]


def test_an_engine_that_passes_its_probe_goes_on_and_is_not_probed_for_every_failure(
    make: Callable[..., Batcher], engine: HeldEngine
) -> None:
    probed: list[Run] = []
    batcher = make(probe=probed.append)
    engine.let(10)
    for _ in range(3):
        request = FakeRequest(666)
        batcher.submit(request)
        assert isinstance(request.failure(), EngineFailed)
    good = FakeRequest(1)
    batcher.submit(good)
    good.result()
    assert len(probed) == 1 and not batcher.broken


def test_a_deadline_that_the_batch_would_miss_costs_no_compute_unless_nobody_else_waits(
    engine: HeldEngine, statistics: Statistics
) -> None:
    clock = Clock()
    batcher = Batcher([engine], BatchingPolicy(2, [QueuePolicy(16)]), statistics, name="late", clock=clock)
    first = busy(batcher, engine)
    tight, calm = FakeRequest(1, deadline=6.0), FakeRequest(2)
    batcher.submit(tight)
    batcher.submit(calm)
    clock.now = 4.0  # a row takes 4 s, two are waiting, and 2 s are left
    engine.let(1)
    first.result()
    assert "can no longer be met after 4000 ms" in tight.failure().message
    alone = FakeRequest(3, arrived=4.0, deadline=40.0)
    batcher.submit(alone)
    engine.wait_for(2)
    clock.now = 39.0
    engine.let(2)
    alone.result()
    assert engine.batches == [[0], [2], [3]], "with nobody else to serve, it was not tried"
    batcher.close()
    assert batcher.join(WAIT)

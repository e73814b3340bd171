"""The batcher alone, with engines that the test holds and a clock that it moves."""

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching.batcher import Batcher, BatcherClosed, BatchingPolicy
from service.batching.queue import QueuePolicy
from service.batching.statistics import Statistics
from service.core.errors import DeadlineExceeded, EngineFailed, NotReady, QueueFull
from service.core.spec import Arrays, Outputs
from tests.support.batching import Clock, Computing, FakeRequest, HeldEngine, busy
from tests.support.waiting import WAIT, wait_until


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture
def batcher(engine: HeldEngine, statistics: Statistics, clock: Clock) -> Iterator[Batcher]:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="test", clock=clock)
    yield batcher
    batcher.close()
    engine.let(1000)
    assert batcher.join(WAIT)


def test_a_free_engine_runs_what_waits_at_once(batcher: Batcher, engine: HeldEngine, statistics: Statistics) -> None:
    engine.let(1)
    request = FakeRequest(5)
    batcher.submit(request)
    np.testing.assert_array_equal(request.result(), [[-5, -5]])
    wait_until(lambda: statistics.executions == 1, "the batch is counted")
    assert statistics.closed_by == {"engine_free": 1}


def test_what_waits_behind_a_run_rides_together_and_gets_its_own_rows(
    batcher: Batcher, engine: HeldEngine, statistics: Statistics
) -> None:
    first = busy(batcher, engine)
    others = [FakeRequest(1, 1), FakeRequest(2, 3), FakeRequest(3, 2)]
    for request in others:
        batcher.submit(request)
    assert (batcher.queued_rows, batcher.pending) == (6, 7)
    engine.let(2)
    first.result()
    for request, rows in zip(others, (1, 3, 2), strict=True):
        np.testing.assert_array_equal(request.result(), np.full((rows, 2), -request.inputs[0][0, 0]))
    wait_until(lambda: statistics.executions == 2, "both batches are counted")
    assert engine.batches == [[0], [1, 2, 2, 2, 3, 3]]
    assert statistics.by_size[6].executions == 1
    assert statistics.rows == 7
    assert batcher.pending == 0


def test_a_batch_never_has_more_rows_than_it_may_and_no_request_is_split_or_overtaken(
    batcher: Batcher, engine: HeldEngine, statistics: Statistics
) -> None:
    busy(batcher, engine)
    for value, rows in enumerate((5, 4, 3, 1, 3), start=1):
        batcher.submit(FakeRequest(value, rows))
    engine.let(4)
    wait_until(lambda: statistics.executions == 4, "all ran")
    assert engine.batches == [[0], [1] * 5, [2] * 4 + [3] * 3 + [4], [5] * 3]
    assert statistics.closed_by == {"engine_free": 2, "full": 2}


def test_a_full_queue_refuses_and_what_waits_is_untouched(batcher: Batcher, engine: HeldEngine) -> None:
    busy(batcher, engine)
    waiting = [FakeRequest(index, 8) for index in range(2)]
    for request in waiting:
        batcher.submit(request)
    with pytest.raises(QueueFull, match="16 rows wait, the limit is 16"):
        batcher.submit(FakeRequest(9))
    engine.let(3)
    for request in waiting:
        request.result()


def test_a_request_whose_deadline_has_passed_is_refused(batcher: Batcher, clock: Clock) -> None:
    clock.now = 5.0
    with pytest.raises(DeadlineExceeded):
        batcher.submit(FakeRequest(1, deadline=5.0))


def test_a_request_that_expires_in_the_queue_never_reaches_the_engine(
    batcher: Batcher, engine: HeldEngine, clock: Clock
) -> None:
    first = busy(batcher, engine)
    late, patient = FakeRequest(1, deadline=2.0), FakeRequest(2)
    batcher.submit(late)
    batcher.submit(patient)
    clock.now = 3.0
    engine.let(2)
    assert "after 3000 ms" in late.failure().message
    first.result()
    patient.result()
    assert engine.batches == [[0], [2]]


def test_the_estimate_is_what_rows_took_and_refuses_only_behind_others(
    batcher: Batcher, engine: HeldEngine, clock: Clock
) -> None:
    first = busy(batcher, engine)
    clock.now = 4.0  # one row took 4 s
    engine.let(1)
    first.result()
    wait_until(lambda: batcher.pending == 0, "the engine is free")
    alone = FakeRequest(1, deadline=5.0)
    batcher.submit(alone)  # it cannot be met either, but nothing is ahead: the estimate may be stale
    engine.wait_for(2)
    with pytest.raises(DeadlineExceeded, match="1 rows are ahead, about 8000 ms of work, and 7000 ms are left"):
        batcher.submit(FakeRequest(2, deadline=11.0))
    batcher.submit(FakeRequest(3, deadline=13.0))
    engine.let(2)
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [1], [3]]


def test_a_cancelled_request_leaves_the_queue_and_its_room(batcher: Batcher, engine: HeldEngine) -> None:
    first = busy(batcher, engine)
    gone, stays = FakeRequest(1, 8), FakeRequest(2, 8)
    batcher.submit(gone)
    batcher.submit(stays)
    assert batcher.cancel(gone)
    assert not batcher.cancel(gone), "cancelled twice"
    assert not batcher.cancel(first), "what runs cannot be cancelled"
    batcher.submit(FakeRequest(3, 8))
    engine.let(3)
    stays.result()
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [2] * 8, [3] * 8]
    assert not gone.done.is_set()


def test_a_failing_batch_is_run_in_parts_until_only_the_guilty_fails(
    batcher: Batcher, engine: HeldEngine, statistics: Statistics
) -> None:
    busy(batcher, engine)
    requests = [FakeRequest(value) for value in (1, 2, 666, 4, 5)]
    for request in requests:
        batcher.submit(request)
    engine.let(100)
    assert isinstance(requests[2].failure(), EngineFailed)
    for request in (*requests[:2], *requests[3:]):
        assert request.result()[0, 0] == -request.inputs[0][0, 0]
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [1, 2, 666, 4, 5], [1, 2], [666, 4, 5], [666], [4, 5]]
    assert statistics.codes["OK"] == 5


def test_an_answer_that_cannot_be_built_fails_its_request_alone(batcher: Batcher, engine: HeldEngine) -> None:
    class Broken(FakeRequest):
        def prepare(self, outputs: Outputs, first: int, end: int) -> None:
            raise ValueError("no answer")

    busy(batcher, engine)
    broken, good = Broken(1), FakeRequest(2)
    batcher.submit(broken)
    batcher.submit(good)
    engine.let(2)
    good.result()
    assert isinstance(broken.failure(), EngineFailed)


def test_an_answer_that_cannot_be_sent_makes_nobody_run_or_be_answered_twice(
    batcher: Batcher, engine: HeldEngine, statistics: Statistics
) -> None:
    class Gone(FakeRequest):
        def send(self) -> None:
            raise ConnectionError("the caller is gone")

    busy(batcher, engine)
    requests = [FakeRequest(1), Gone(2), FakeRequest(3)]
    for request in requests:
        batcher.submit(request)
    engine.let(10)
    for request in (requests[0], requests[2]):
        request.result()
    wait_until(lambda: batcher.pending == 0, "all is done")
    assert engine.batches == [[0], [1, 2, 3]]
    assert statistics.codes == {"OK": 3}


def test_outputs_of_another_number_of_rows_are_an_error_not_somebody_elses_answer(statistics: Statistics) -> None:
    started, go = threading.Event(), threading.Event()

    def short(inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        started.set()
        assert go.wait(WAIT)
        return [inputs[0][:1]]

    batcher = Batcher([Computing(short)], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="short")
    requests = [FakeRequest(value) for value in range(3)]
    batcher.submit(requests[0])
    assert started.wait(WAIT)
    for request in requests[1:]:
        batcher.submit(request)
    go.set()
    for request in requests:
        assert request.result().tolist() == [[request.inputs[0][0, 0]] * 2]
    batcher.close()
    assert batcher.join(WAIT)


def test_requests_of_different_shapes_do_not_ride_together(engine: HeldEngine, statistics: Statistics) -> None:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="shapes", fixed_shapes=False)
    busy(batcher, engine)
    for value, width in ((1, 2), (2, 2), (3, 5), (4, 2)):
        batcher.submit(FakeRequest(value, width=width))
    engine.let(4)
    wait_until(lambda: statistics.executions == 4, "all ran")
    assert engine.batches == [[0], [1, 2], [3], [4]]
    batcher.close()
    assert batcher.join(WAIT)


def test_a_delay_is_counted_from_the_oldest_request_and_a_full_batch_does_not_wait(statistics: Statistics) -> None:
    engine = HeldEngine()
    engine.let(100)
    batcher = Batcher([engine], BatchingPolicy(4, [QueuePolicy(16)], max_delay=0.2), statistics, name="delay")
    before = time.monotonic()
    first = FakeRequest(1, arrived=before)
    batcher.submit(first)
    second = FakeRequest(2, arrived=before + 10)
    batcher.submit(second)
    second.result()
    assert time.monotonic() - before >= 0.2
    full = FakeRequest(3, 4, arrived=time.monotonic() + 100)
    batcher.submit(full)
    full.result()
    wait_until(lambda: statistics.executions == 2, "both ran")
    assert engine.batches == [[1, 2], [3] * 4]
    assert statistics.closed_by == {"delay": 1, "full": 1}
    batcher.close()
    assert batcher.join(WAIT)


def test_a_tight_deadline_closes_the_batch_early(statistics: Statistics) -> None:
    engine = HeldEngine()
    engine.let(100)
    batcher = Batcher([engine], BatchingPolicy(4, [QueuePolicy(16)], max_delay=60.0), statistics, name="deadline")
    batcher._seconds_per_row = 0.1
    now = time.monotonic()
    request = FakeRequest(1, arrived=now, deadline=now + 0.5)
    batcher.submit(request)
    request.result()
    assert time.monotonic() - now >= 0.29, "it did not wait for company at all"
    wait_until(lambda: statistics.executions == 1, "it is counted")
    assert statistics.closed_by == {"deadline": 1}
    batcher.close()
    assert batcher.join(WAIT)


def test_while_no_run_was_timed_a_deadline_is_not_gambled_with(statistics: Statistics) -> None:
    engine = HeldEngine()
    engine.let(1)
    batcher = Batcher([engine], BatchingPolicy(4, [QueuePolicy(16)], max_delay=60.0), statistics, name="untimed")
    now = time.monotonic()
    request = FakeRequest(1, arrived=now, deadline=now + 20)
    batcher.submit(request)
    request.result()
    assert time.monotonic() - now < 10
    batcher.close()
    assert batcher.join(WAIT)


def test_two_engines_empty_one_queue(statistics: Statistics) -> None:
    engines = [HeldEngine(), HeldEngine()]
    batcher = Batcher(engines, BatchingPolicy(1, [QueuePolicy(16)]), statistics, name="two")
    requests = [FakeRequest(value) for value in range(2)]
    for request in requests:
        batcher.submit(request)
    for engine in engines:
        engine.wait_for(1)
    assert sorted(engine.batches[0][0] for engine in engines) == [0, 1], "both run at the same time"
    for engine in engines:
        engine.let(1)
    for request in requests:
        request.result()
    batcher.close()
    assert batcher.join(WAIT)


def test_a_closed_batcher_refuses_and_answers_what_it_has(engine: HeldEngine, statistics: Statistics) -> None:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="closing")
    first = busy(batcher, engine)
    waiting = FakeRequest(1)
    batcher.submit(waiting)
    batcher.close()
    with pytest.raises(BatcherClosed):
        batcher.submit(FakeRequest(2))
    assert not batcher.join(0.05), "it ended before its requests were answered"
    engine.let(2)
    first.result()
    waiting.result()
    assert batcher.join(WAIT)


def timed(batcher: Batcher, engine: HeldEngine, clock: Clock, seconds: float) -> None:
    """Let the batcher learn that a row takes so long, and its engine become free."""
    request = FakeRequest(0)
    batcher.submit(request)
    engine.wait_for(1)
    clock.now += seconds
    engine.let(1)
    request.result()
    wait_until(lambda: len(batcher._free_engines) == 1, "the engine is free")


def test_a_lent_thread_runs_a_short_batch_at_once_and_returns_for_more(
    batcher: Batcher, engine: HeldEngine, clock: Clock, statistics: Statistics
) -> None:
    timed(batcher, engine, clock, 0.0001)
    requests = [FakeRequest(value, rows=4) for value in (1, 2, 3)]
    for request in requests:
        batcher.submit(request, wake=False)
    engine.let(2)
    assert batcher.run_inline(), "the third still waits"
    assert engine.batches[1:] == [[1] * 4 + [2] * 4] and requests[1].done.is_set() and not requests[2].done.is_set()
    assert not batcher.run_inline()
    assert requests[2].done.is_set()
    assert not batcher.run_inline(), "nothing waits"
    assert statistics.executions == 3


def test_a_batch_that_takes_long_or_was_never_timed_is_left_to_the_engines_own_thread(
    batcher: Batcher, engine: HeldEngine, clock: Clock
) -> None:
    untimed = FakeRequest(1)
    batcher.submit(untimed, wake=False)
    assert not batcher.run_inline()
    engine.wait_for(1)
    clock.now += 0.01  # 10 ms a row
    engine.let(1)
    untimed.result()
    wait_until(lambda: len(batcher._free_engines) == 1, "the engine is free")
    slow = FakeRequest(2)
    batcher.submit(slow, wake=False)
    assert not batcher.run_inline(), "the engine is held, and yet it came back"
    engine.let(1)
    slow.result()


def test_while_a_thread_is_lent_no_other_runs_its_engine_and_a_close_is_seen(
    engine: HeldEngine, statistics: Statistics, clock: Clock
) -> None:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="lent", clock=clock)
    timed(batcher, engine, clock, 0.0001)
    first, second = FakeRequest(1), FakeRequest(2)
    batcher.submit(first, wake=False)
    lender = threading.Thread(target=batcher.run_inline)
    lender.start()
    engine.wait_for(2)
    batcher.submit(second)
    assert not batcher.run_inline(), "the engine is not free"
    batcher.close()
    assert engine.batches == [[0], [1]]
    engine.let(2)
    first.result()
    second.result()
    lender.join(WAIT)
    assert batcher.join(WAIT), "the engine's own thread never heard of the close"


def test_what_waits_can_be_failed_at_once(batcher: Batcher, engine: HeldEngine) -> None:
    busy(batcher, engine)
    waiting = FakeRequest(1)
    batcher.submit(waiting)
    batcher.fail_pending(NotReady("too late"))
    assert waiting.failure().message == "too late"
    assert batcher.queued_rows == 0


def test_an_idle_batcher_uses_no_processor(statistics: Statistics, engine: HeldEngine) -> None:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="engine_free")
    before = time.process_time()
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.1
    batcher.close()
    assert batcher.join(WAIT)


def test_requests_from_many_threads_get_each_their_own_rows(statistics: Statistics) -> None:
    batcher = Batcher(
        [Computing(lambda inputs: [np.negative(inputs[0])])],
        BatchingPolicy(8, [QueuePolicy(10_000)]),
        statistics,
        name="many",
    )
    requests = [FakeRequest(value, 1 + value % 8) for value in range(2000)]

    def submit(part: list[FakeRequest]) -> None:
        for request in part:
            batcher.submit(request)

    threads = [threading.Thread(target=submit, args=(requests[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for request in requests:
        value = -request.inputs[0][0, 0]
        np.testing.assert_array_equal(request.result(), np.full((request.rows, 2), value))
    for thread in threads:
        thread.join()
    wait_until(lambda: statistics.codes["OK"] == 2000, "all are counted")
    assert statistics.rows == sum(request.rows for request in requests)
    assert max(statistics.by_size) <= 8
    batcher.close()
    assert batcher.join(WAIT)

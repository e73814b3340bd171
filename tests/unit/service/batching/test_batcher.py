"""The batcher, with engines that the test blocks and a clock that it sets."""

import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.batching.queue import QueuePolicy
from service.batching.scheduler import BatcherClosed, BatchingPolicy
from service.batching.statistics import ExecutedBatch, Statistics
from service.core.errors import DeadlineExceeded, EngineFailed, NotReady, QueueFull, ServiceError
from service.core.spec import Arrays, Outputs
from tests.support.batching import BlockingEngine, FakeClock, FakeRequest, FunctionEngine, occupy
from tests.support.waiting import WAIT, wait_until


@pytest.fixture
def engine() -> BlockingEngine:
    return BlockingEngine()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture
def batcher(engine: BlockingEngine, statistics: Statistics, clock: FakeClock) -> Iterator[Batcher]:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="test", clock=clock)
    yield batcher
    batcher.close()
    engine.release(1000)
    assert batcher.join(WAIT)


def test_a_free_engine_runs_a_request_at_once(batcher: Batcher, engine: BlockingEngine, statistics: Statistics) -> None:
    engine.release(1)
    request = FakeRequest(5)
    batcher.submit(request)
    np.testing.assert_array_equal(request.result(), [[-5, -5]])
    wait_until(lambda: statistics.executions == 1, "the batch is counted")
    assert statistics.closed_by == {"engine_free": 1}


def test_requests_queued_during_a_run_share_the_next_batch_and_get_their_own_rows(
    batcher: Batcher, engine: BlockingEngine, statistics: Statistics
) -> None:
    first = occupy(batcher, engine)
    others = [FakeRequest(1, 1), FakeRequest(2, 3), FakeRequest(3, 2)]
    for request in others:
        batcher.submit(request)
    assert (batcher.queued_rows, batcher.pending_rows) == (6, 7)
    engine.release(2)
    first.result()
    for request, rows in zip(others, (1, 3, 2), strict=True):
        np.testing.assert_array_equal(request.result(), np.full((rows, 2), -request.inputs[0][0, 0]))
    wait_until(lambda: statistics.executions == 2, "both batches are counted")
    assert engine.batches == [[0], [1, 2, 2, 2, 3, 3]]
    assert statistics.by_size[6].executions == 1
    assert statistics.rows == 7
    assert batcher.pending_rows == 0


def test_a_batch_keeps_to_max_batch_size_and_no_request_is_split_or_overtaken(
    batcher: Batcher, engine: BlockingEngine, statistics: Statistics
) -> None:
    occupy(batcher, engine)
    for value, rows in enumerate((5, 4, 3, 1, 3), start=1):
        batcher.submit(FakeRequest(value, rows))
    engine.release(4)
    wait_until(lambda: statistics.executions == 4, "all batches are counted")
    assert engine.batches == [[0], [1] * 5, [2] * 4 + [3] * 3 + [4], [5] * 3]
    assert statistics.closed_by == {"engine_free": 2, "full": 2}


def test_a_full_queue_refuses_at_once_and_keeps_its_requests(batcher: Batcher, engine: BlockingEngine) -> None:
    occupy(batcher, engine)
    waiting = [FakeRequest(index, 8) for index in range(2)]
    for request in waiting:
        batcher.submit(request)
    with pytest.raises(QueueFull, match="16 rows wait, the limit is 16"):
        batcher.submit(FakeRequest(9))
    engine.release(3)
    for request in waiting:
        request.result()


def test_a_request_whose_deadline_has_passed_is_refused(batcher: Batcher, clock: FakeClock) -> None:
    clock.now = 5.0
    with pytest.raises(DeadlineExceeded):
        batcher.submit(FakeRequest(1, deadline=5.0))


def test_a_request_that_expires_in_the_queue_never_reaches_the_engine(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    first = occupy(batcher, engine)
    expiring, other = FakeRequest(1, deadline=2.0), FakeRequest(2)
    batcher.submit(expiring)
    batcher.submit(other)
    clock.now = 3.0
    engine.release(2)
    assert "after 3000 ms" in expiring.failure().message
    first.result()
    other.result()
    assert engine.batches == [[0], [2]]


def test_a_deadline_below_the_estimated_wait_is_refused_if_rows_are_ahead(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    first = occupy(batcher, engine)
    clock.now = 4.0  # the estimate is 4 s a row
    engine.release(1)
    first.result()
    wait_until(lambda: batcher.pending_rows == 0, "the engine is free")
    alone = FakeRequest(1, deadline=5.0)
    batcher.submit(alone)  # nothing is ahead, so it runs although the estimate is too long
    engine.wait_for_runs(2)
    with pytest.raises(DeadlineExceeded, match="1 rows are ahead, about 8000 ms of work, and 7000 ms are left"):
        batcher.submit(FakeRequest(2, deadline=11.0))
    batcher.submit(FakeRequest(3, deadline=13.0))
    engine.release(2)
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert engine.batches == [[0], [1], [3]]


def test_a_cancelled_request_leaves_the_queue_and_frees_its_rows(batcher: Batcher, engine: BlockingEngine) -> None:
    first = occupy(batcher, engine)
    cancelled, kept = FakeRequest(1, 8), FakeRequest(2, 8)
    batcher.submit(cancelled)
    batcher.submit(kept)
    assert batcher.cancel(cancelled)
    assert not batcher.cancel(cancelled), "cancelled twice"
    assert not batcher.cancel(first), "a running request was cancelled"
    batcher.submit(FakeRequest(3, 8))
    engine.release(3)
    kept.result()
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert engine.batches == [[0], [2] * 8, [3] * 8]
    assert not cancelled.done.is_set()


def test_a_failing_batch_is_bisected_until_only_the_faulty_request_fails(
    batcher: Batcher, engine: BlockingEngine, statistics: Statistics
) -> None:
    occupy(batcher, engine)
    requests = [FakeRequest(value) for value in (1, 2, 666, 4, 5)]
    for request in requests:
        batcher.submit(request)
    engine.release(100)
    assert isinstance(requests[2].failure(), EngineFailed)
    for request in (*requests[:2], *requests[3:]):
        assert request.result()[0, 0] == -request.inputs[0][0, 0]
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert batcher.requests_in_flight == 0
    assert engine.batches == [[0], [1, 2, 666, 4, 5], [1, 2], [666, 4, 5], [666], [4, 5]]
    assert statistics.codes["OK"] == 5


def test_a_response_that_cannot_be_encoded_fails_only_its_request(batcher: Batcher, engine: BlockingEngine) -> None:
    class Broken(FakeRequest):
        def prepare(self, outputs: Outputs, first: int, end: int) -> None:
            raise ValueError("no answer")

    occupy(batcher, engine)
    broken, good = Broken(1), FakeRequest(2)
    batcher.submit(broken)
    batcher.submit(good)
    engine.release(2)
    good.result()
    assert isinstance(broken.failure(), EngineFailed)


def test_outputs_with_a_wrong_number_of_rows_are_never_given_to_another_request(statistics: Statistics) -> None:
    started, go = threading.Event(), threading.Event()

    def short(inputs: Arrays) -> Sequence[NDArray[np.generic]]:
        started.set()
        assert go.wait(WAIT)
        return [inputs[0][:1]]

    batcher = Batcher([FunctionEngine(short)], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="short")
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


def test_requests_of_different_shapes_do_not_share_a_batch(engine: BlockingEngine, statistics: Statistics) -> None:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="shapes", fixed_shapes=False)
    occupy(batcher, engine)
    for value, width in ((1, 2), (2, 2), (3, 5), (4, 2)):
        batcher.submit(FakeRequest(value, width=width))
    engine.release(4)
    wait_until(lambda: statistics.executions == 4, "all batches are counted")
    assert engine.batches == [[0], [1, 2], [3], [4]]
    batcher.close()
    assert batcher.join(WAIT)


def test_a_closed_batcher_refuses_new_requests_and_answers_queued_ones(
    engine: BlockingEngine, statistics: Statistics
) -> None:
    batcher = Batcher([engine], BatchingPolicy(8, [QueuePolicy(16)]), statistics, name="closing")
    first = occupy(batcher, engine)
    waiting = FakeRequest(1)
    batcher.submit(waiting)
    batcher.close()
    with pytest.raises(BatcherClosed):
        batcher.submit(FakeRequest(2))
    assert not batcher.join(0.05), "the batcher ended before its requests were answered"
    engine.release(2)
    first.result()
    waiting.result()
    assert batcher.join(WAIT)


def test_fail_pending_fails_queued_requests_at_once(batcher: Batcher, engine: BlockingEngine) -> None:
    occupy(batcher, engine)
    waiting = FakeRequest(1)
    batcher.submit(waiting)
    batcher.fail_pending(NotReady("too late"))
    assert waiting.failure().message == "too late"
    assert batcher.queued_rows == 0


def test_requests_from_many_threads_get_their_own_rows(statistics: Statistics) -> None:
    batcher = Batcher(
        [FunctionEngine(lambda inputs: [np.negative(inputs[0])])],
        BatchingPolicy(8, [QueuePolicy(10_000)]),
        statistics,
        name="many",
    )
    requests = [FakeRequest(value, 1 + value % 8) for value in range(2000)]

    def submit(share: list[FakeRequest]) -> None:
        for request in share:
            batcher.submit(request)

    threads = [threading.Thread(target=submit, args=(requests[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for request in requests:
        value = -request.inputs[0][0, 0]
        np.testing.assert_array_equal(request.result(), np.full((request.rows, 2), value))
    for thread in threads:
        thread.join()
    wait_until(lambda: statistics.codes["OK"] == 2000, "all requests are counted")
    assert statistics.rows == sum(request.rows for request in requests)
    assert max(statistics.by_size) <= 8
    batcher.close()
    assert batcher.join(WAIT)


def unexpected(request: FakeRequest, error: Exception) -> None:
    """What a burst calls with a refused request, where none is expected."""
    raise AssertionError(f"{request} was refused: {error}")


# --- several engines ---


def test_requests_that_arrive_together_start_on_every_free_engine(statistics: Statistics) -> None:
    engines = [BlockingEngine(), BlockingEngine()]
    batcher = Batcher(engines, BatchingPolicy(1, [QueuePolicy(16)]), statistics, name="two")
    requests = [FakeRequest(value) for value in range(4)]
    batcher.submit_burst(requests, unexpected, lambda: True)
    for engine in engines:
        engine.wait_for_runs(1)
    assert sorted(engine.batches[0][0] for engine in engines) == [0, 1], "the requests do not run at the same time"
    for engine in engines:
        engine.release(4)
    for request in requests:
        request.result()
    batcher.close()
    assert batcher.join(WAIT)


# --- a server's thread runs short batches ---


def make_short(batcher: Batcher, engine: BlockingEngine, clock: FakeClock) -> None:
    """Make the batcher measure 0.1 ms a row, and wait until its engine is idle."""
    request = FakeRequest(0)
    batcher.submit(request)
    engine.wait_for_runs(1)
    clock.now += 0.0001
    engine.release(1)
    request.result()
    wait_until(lambda: bool(batcher._scheduler._idle), "the engine is idle")


def test_a_servers_thread_runs_short_batches_and_those_that_arrive_meanwhile(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    make_short(batcher, engine, clock)
    ran_on: list[str] = []

    class Recorded(FakeRequest):
        def send(self) -> None:
            ran_on.append(threading.current_thread().name)
            super().send()

    meanwhile = [Recorded(3)]

    def receive() -> bool:
        if meanwhile:
            batcher.submit_burst([meanwhile.pop()], unexpected, receive)
        return True

    engine.release(100)
    batcher.submit_burst([Recorded(value, rows=4) for value in (1, 2, 4)], unexpected, receive)
    assert engine.batches[1:] == [[1] * 4 + [2] * 4, [4] * 4 + [3]]
    assert ran_on == [threading.current_thread().name] * 4


@pytest.mark.parametrize("problem", ["the server stops", "receiving fails"])
def test_what_a_servers_thread_leaves_behind_is_run_by_the_engine_thread(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock, problem: str
) -> None:
    make_short(batcher, engine, clock)
    left = FakeRequest(2)

    def receive() -> bool:
        batcher.submit(left)
        if problem == "receiving fails":
            raise ConnectionError(problem)
        return False

    engine.release(100)
    burst = [FakeRequest(1, 8), FakeRequest(3, 6)]
    if problem == "receiving fails":
        with pytest.raises(ConnectionError):
            batcher.submit_burst(burst, unexpected, receive)
    else:
        batcher.submit_burst(burst, unexpected, receive)
    left.result()
    assert engine.batches == [[0], [1] * 8, [3] * 6 + [2]]


def test_while_a_servers_thread_runs_the_engine_takes_no_second_batch_and_ends_on_close(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    make_short(batcher, engine, clock)
    first, second = FakeRequest(1), FakeRequest(2)
    thread = threading.Thread(target=batcher.submit_burst, args=([first], unexpected, lambda: True))
    thread.start()
    engine.wait_for_runs(2)
    batcher.submit(second)
    batcher.close()
    assert engine.batches == [[0], [1]]
    engine.release(2)
    first.result()
    second.result()
    thread.join(WAIT)
    assert batcher.join(WAIT), "the engine thread did not end on close"


def test_a_burst_refuses_what_is_invalid_before_it_runs_the_rest(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    make_short(batcher, engine, clock)
    fits, too_many = FakeRequest(1, 16), FakeRequest(2)
    refused: list[tuple[FakeRequest, Exception, bool]] = []
    engine.release(1)
    batcher.submit_burst(
        [fits, too_many], lambda request, error: refused.append((request, error, fits.answered)), lambda: True
    )
    ((request, error, answered),) = refused
    assert request is too_many and isinstance(error, QueueFull) and not answered
    fits.result()


# --- failures of callers and of this program ---


class Disconnected(FakeRequest):
    """A request whose caller is gone: sending raises, after the request was counted as done."""

    def send(self) -> None:
        super().send()
        raise ConnectionError("the client disconnected")

    def fail(self, error: ServiceError) -> None:
        super().fail(error)
        raise ConnectionError("the client disconnected")


def test_a_response_that_cannot_be_sent_causes_no_second_run_or_answer(
    batcher: Batcher, engine: BlockingEngine, statistics: Statistics
) -> None:
    occupy(batcher, engine)
    requests = [FakeRequest(1), Disconnected(2), FakeRequest(3)]
    for request in requests:
        batcher.submit(request)
    engine.release(10)
    for request in requests:
        request.result()
    wait_until(lambda: batcher.pending_rows == 0, "the queue is empty and no engine runs")
    assert engine.batches == [[0], [1, 2, 3]]
    assert statistics.codes == {"OK": 4}


def test_an_error_that_cannot_be_sent_ends_no_engine(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    """Wherever failing a request raises: an expired request, a faulty one, the last one in the queue."""
    occupy(batcher, engine)
    expiring, faulty = Disconnected(1, deadline=1.0), Disconnected(666)
    for request in (expiring, faulty):
        batcher.submit(request)
    clock.now = 2.0
    engine.release(2)
    assert isinstance(expiring.failure(), DeadlineExceeded)
    assert isinstance(faulty.failure(), EngineFailed)
    engine.release(1)
    after = FakeRequest(3)
    batcher.submit(after)
    after.result()
    occupy(batcher, engine)
    queued = [Disconnected(4), FakeRequest(5)]
    for waiting in queued:
        batcher.submit(waiting)
    batcher.fail_pending(NotReady("unloaded"))
    assert all(isinstance(waiting.failure(), NotReady) for waiting in queued)


def test_an_engine_whose_thread_fails_is_broken_and_its_requests_fail(engine: BlockingEngine, clock: FakeClock) -> None:
    """A fault of this program must not leave a model that answers nobody and reports SERVING."""

    class Faulty(Statistics):
        def record_batch(self, batch: ExecutedBatch) -> None:
            raise ZeroDivisionError

    broken: list[str] = []
    batcher = Batcher(
        [engine], BatchingPolicy(1, [QueuePolicy(16)]), Faulty(), name="x", clock=clock,
        on_broken=lambda: broken.append("broken"),
    )  # fmt: skip
    running, queued = occupy(batcher, engine), FakeRequest(1)
    batcher.submit(queued)
    engine.release(1)
    for request in (running, queued):
        assert "thread failed (ZeroDivisionError)" in request.failure().message
    assert batcher.join(WAIT) and broken == ["broken"]
    with pytest.raises(NotReady):
        batcher.submit(FakeRequest(2))


# --- what a client sees ---


def test_a_request_is_counted_before_its_caller_has_the_response(
    batcher: Batcher, engine: BlockingEngine, statistics: Statistics
) -> None:
    seen: list[tuple[int, int]] = []

    class Curious(FakeRequest):
        def send(self) -> None:
            with statistics.reading():
                seen.append((statistics.codes["OK"], statistics.rows))
            super().send()

    engine.release(1)
    request = Curious(1, 2)
    batcher.submit(request)
    request.result()
    assert seen == [(1, 2)]


# --- time ---


def test_a_delayed_batch_starts_by_itself(engine: BlockingEngine, statistics: Statistics) -> None:
    batcher = Batcher([engine], BatchingPolicy(4, [QueuePolicy(16)], max_delay=0.02), statistics, name="delay")
    engine.release(1)
    request = FakeRequest(1, arrived=time.monotonic())
    batcher.submit(request)
    request.result()
    assert statistics.closed_by == {"delay": 1}
    batcher.close()
    assert batcher.join(WAIT)


def timers(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == f"timeouts-{name}"]


def test_a_timed_out_request_fails_while_the_engine_is_busy_and_the_timer_ends_with_its_model(
    batcher: Batcher, engine: BlockingEngine, clock: FakeClock
) -> None:
    occupy(batcher, engine)
    patient, expiring, other = FakeRequest(1, timeout=1e13), FakeRequest(2, timeout=0.01), FakeRequest(3)
    for request in (patient, expiring, other):  # the first one's timeout is beyond Python's longest wait
        batcher.submit(request)
    clock.now = 1.0
    assert isinstance(expiring.failure(), DeadlineExceeded)
    assert batcher.queued_rows == 2 and len(timers("test")) == 1
    batcher.close()
    engine.release(2)
    other.result()
    assert batcher.join(WAIT)
    wait_until(lambda: not timers("test"), "the timer thread has ended")

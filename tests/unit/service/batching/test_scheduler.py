"""The rules of batching, one at a time: the test is the clock and the engines."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from service.batching.queue import QueuePolicy, RequestQueue
from service.batching.scheduler import MIN_RETRY_SECONDS, Batch, BatcherClosed, BatchingPolicy, Scheduler
from service.core.errors import DeadlineExceeded, InvalidArgument, QueueFull
from tests.support.scheduling import Ticket


def make(*levels: QueuePolicy, engines: int = 1, fixed_shapes: bool = True, **policy: Any) -> Scheduler:
    """A scheduler whose engines are all idle; by default one level of 16 rows, and batches of 8 rows."""
    values = {"max_batch_size": 8, "levels": levels or [QueuePolicy(16)], **policy}
    scheduler = Scheduler(BatchingPolicy(**values), engines, fixed_shapes=fixed_shapes)
    for engine in range(engines):
        assert scheduler.turn(engine, 0.0).batch is None
    return scheduler


def admit(scheduler: Scheduler, *tickets: Ticket, now: float = 0.0) -> Sequence[int]:
    """Admit tickets that arrive together; the engines to wake."""
    for ticket in tickets:
        scheduler.admit(ticket, now)
    return scheduler.wake(now)


def start(scheduler: Scheduler, engine: int = 0, now: float = 0.0) -> Batch:
    """The batch that the engine starts."""
    batch = scheduler.turn(engine, now).batch
    assert batch is not None
    return batch


def measure(scheduler: Scheduler, engine: int, seconds_per_row: float, now: float = 0.0) -> None:
    """Make the scheduler measure an engine's speed; the engine is idle again afterwards."""
    admit(scheduler, Ticket(arrived=now), now=now)
    scheduler.finish(start(scheduler, engine, now), now + seconds_per_row)
    for other in range(len(scheduler._engines)):  # an engine that was woken for the same ticket goes to sleep
        if other not in scheduler._idle:
            assert scheduler.turn(other, now).batch is None


# --- engines ---


def test_every_idle_engine_is_woken_while_a_batch_may_start() -> None:
    scheduler = make(engines=4, max_batch_size=1)
    woken = admit(scheduler, *[Ticket() for _ in range(3)])
    assert len(woken) == 3
    for engine in woken:
        assert len(start(scheduler, engine).requests) == 1
    assert scheduler.queue.rows == 0 and scheduler.running_rows == 3


def test_an_engine_that_takes_a_batch_wakes_the_next_one_if_rows_are_left() -> None:
    scheduler = make(engines=2, fixed_shapes=False)
    assert admit(scheduler, Ticket(width=1), Ticket(width=2)) == [1], "two rows fit into one batch"
    turn = scheduler.turn(1, 0.0)
    assert turn.batch is not None and len(turn.batch.requests) == 1, "other shapes do not"
    assert turn.wake == [0]


def test_a_busy_engine_is_not_woken_and_takes_what_is_queued_when_it_finishes() -> None:
    scheduler = make()
    assert admit(scheduler, Ticket()) == [0]
    batch = start(scheduler)
    assert admit(scheduler, Ticket(), Ticket(3)) == ()
    scheduler.finish(batch, 1.0)
    assert start(scheduler, now=1.0).rows == 4


def test_one_engine_does_not_wait_for_another() -> None:
    """An engine with 1 s a row is busy; a deadline that the free engine meets is not refused."""
    scheduler = make(engines=2, max_batch_size=1)
    measure(scheduler, 0, 1.0)
    measure(scheduler, 1, 1.0)
    (busy,) = admit(scheduler, Ticket())
    start(scheduler, busy)
    admit(scheduler, Ticket(deadline=1.2))
    start(scheduler, 1 - busy)
    with pytest.raises(DeadlineExceeded, match="2 rows are ahead, about 2000 ms of work, and 2100 ms are left"):
        scheduler.admit(Ticket(deadline=2.1), 0.0)
    admit(scheduler, Ticket(deadline=2.3))


def test_the_estimate_counts_all_engines() -> None:
    scheduler = make(engines=2, max_batch_size=1)
    for engine in range(2):
        measure(scheduler, engine, 1.0)
    for engine in admit(scheduler, Ticket(), Ticket()):
        start(scheduler, engine)
    admit(scheduler, *[Ticket() for _ in range(6)])
    # Eight rows are ahead of two engines with one second a row: it would end after 5 s.
    with pytest.raises(DeadlineExceeded, match="about 5000 ms of work"):
        scheduler.admit(Ticket(deadline=5.0), 0.0)
    scheduler.admit(Ticket(deadline=5.6), 0.0)


def test_each_engine_has_its_own_estimate() -> None:
    scheduler = make(engines=2, max_batch_size=1)
    measure(scheduler, 0, 1.0)
    measure(scheduler, 1, 4.0)
    admit(scheduler, Ticket(), Ticket())
    start(scheduler, 0)
    start(scheduler, 1)
    scheduler.admit(Ticket(deadline=2.3), 0.0)  # behind the fast engine
    with pytest.raises(DeadlineExceeded):
        scheduler.admit(Ticket(deadline=5.0), 0.0)  # the next free engine is the slow one


def test_a_request_that_nothing_delays_is_admitted_though_the_estimate_is_too_long() -> None:
    scheduler = make(engines=2)
    measure(scheduler, 0, 10.0)
    start(scheduler, *admit(scheduler, Ticket()))
    admit(scheduler, alone := Ticket(deadline=1.0))
    assert start(scheduler, 1 if scheduler._woken == {1} else 0).requests == [alone]


def test_close_wakes_every_engine_and_ends_it_after_the_queue() -> None:
    scheduler = make(engines=2, max_delay=60.0)
    assert sorted([*admit(scheduler, Ticket()), *scheduler.close(0.0)]) == [0, 1]
    with pytest.raises(BatcherClosed):
        scheduler.admit(Ticket(), 0.0)
    scheduler.finish(start(scheduler), 1.0)
    assert scheduler.turn(0, 1.0).ended and scheduler.turn(1, 1.0).ended


# --- a server's thread in place of the engine's ---


def test_a_thread_may_claim_the_only_engine_for_a_short_batch() -> None:
    scheduler = make()
    measure(scheduler, 0, 0.0001)
    assert scheduler.claim(0.0) is None, "an empty queue was claimed"
    scheduler.admit(Ticket(), 0.0)
    turn = scheduler.claim(0.0)
    assert turn is not None and turn.batch is not None
    assert admit(scheduler, Ticket()) == (), "the claimed engine was woken"
    assert scheduler.claim(0.0) is None, "the engine was claimed twice"
    scheduler.finish(turn.batch, 0.0001)
    turn = scheduler.next_claim(0.0001)
    assert turn is not None and turn.batch is not None
    scheduler.finish(turn.batch, 0.0002)
    assert scheduler.next_claim(0.0002) is None, "no request is left"
    scheduler.admit(Ticket(), 0.0002)
    assert scheduler.release(0.0002) == [0], "the queued request was forgotten"


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 0.0),  # not measured
        ({}, 0.01),  # too long
        ({"engines": 2}, 0.0001),  # a call that comes meanwhile could start on the other engine
        ({"max_delay": 1.0}, 0.0001),
        ({"inline_below_seconds": 0.0}, 0.0001),
    ],
)
def test_other_batches_are_left_to_the_engine_thread(changes: dict[str, Any], seconds: float) -> None:
    scheduler = make(**changes)
    if seconds:
        scheduler._engines[0].seconds_per_row = seconds
    scheduler.admit(Ticket(), 0.0)
    assert scheduler.claim(0.0) is None
    scheduler.close(0.0)
    assert scheduler.claim(0.0) is None


# --- batches ---


def batches(scheduler: Scheduler) -> list[list[int]]:
    """The rows of the requests of each batch, until the queue is empty."""
    result = []
    while (batch := scheduler.turn(0, 0.0).batch) is not None:
        result.append([ticket.rows for ticket in batch.requests])
        scheduler.finish(batch, 0.0)
    return result


def test_a_batch_keeps_to_max_batch_size_and_no_request_is_split_or_overtaken() -> None:
    scheduler = make()
    admit(scheduler, *map(Ticket, (5, 4, 3, 1, 3)))
    assert batches(scheduler) == [[5], [4, 3, 1], [3]]


def test_the_largest_possible_preferred_size_is_formed() -> None:
    scheduler = make(preferred=frozenset({2, 4}))
    admit(scheduler, *[Ticket() for _ in range(7)])
    reasons = []
    for rows in (4, 2, 1):
        batch = start(scheduler)
        assert batch.rows == rows
        reasons.append(batch.closed_by)
        scheduler.finish(batch, 0.0)
    assert reasons == ["preferred", "preferred", "engine_free"]


def test_the_delay_counts_from_the_oldest_request_and_a_full_batch_does_not_wait() -> None:
    scheduler = make(max_batch_size=4, max_delay=2.0)
    assert admit(scheduler, Ticket(arrived=1.0), now=1.0) == [0], "the engine was not told how long to sleep"
    turn = scheduler.turn(0, 1.0)
    assert turn.batch is None and turn.sleep_until == 3.0
    assert admit(scheduler, Ticket(arrived=2.0), now=2.0) == ()
    assert start(scheduler, now=3.0).closed_by == "delay"
    assert scheduler.running_rows == 2
    scheduler = make(max_batch_size=4, max_delay=2.0)
    assert admit(scheduler, Ticket(4)) == [0]
    assert start(scheduler).closed_by == "full"


def test_the_delay_waits_for_a_preferred_size_and_then_takes_all() -> None:
    scheduler = make(preferred=frozenset({2}), max_delay=2.0)
    admit(scheduler, Ticket(), Ticket())
    batch = start(scheduler)
    assert (batch.rows, batch.closed_by) == (2, "preferred")
    scheduler.finish(batch, 0.0)
    admit(scheduler, Ticket(3))
    assert scheduler.turn(0, 0.0).sleep_until == 2.0
    batch = start(scheduler, now=2.0)
    assert (batch.rows, batch.closed_by) == (3, "delay")


def test_a_tight_deadline_ends_the_delay_early() -> None:
    scheduler = make(max_batch_size=4, max_delay=60.0)
    scheduler._engines[0].seconds_per_row = 0.1
    admit(scheduler, Ticket())
    assert scheduler.turn(0, 0.0).sleep_until == 60.0
    assert admit(scheduler, Ticket(deadline=0.9)) == [0], "it would have slept past the deadline"
    until = scheduler.turn(0, 0.0).sleep_until
    assert until == pytest.approx(0.9 - 2 * 0.2 - 1e-3)
    assert start(scheduler, now=until).closed_by == "deadline"


def test_without_an_estimate_a_request_with_a_deadline_does_not_wait() -> None:
    scheduler = make(max_delay=60.0)
    admit(scheduler, Ticket(deadline=20.0))
    assert start(scheduler).closed_by == "deadline"


# --- levels and capacity ---


def test_higher_priorities_run_first_and_each_level_keeps_its_order() -> None:
    scheduler = make(*[QueuePolicy(16)] * 3, max_batch_size=2, default_level=1)
    tickets = [Ticket(priority=priority) for priority in (3, 0, 1, 2, 1)]
    admit(scheduler, *tickets)
    order = []
    while (batch := scheduler.turn(0, 0.0).batch) is not None:
        order.append([tickets.index(ticket) for ticket in batch.requests])  # type: ignore[arg-type]
        scheduler.finish(batch, 0.0)
    assert order == [[2, 4], [1, 3], [0]]


def test_each_level_has_its_own_capacity() -> None:
    scheduler = make(QueuePolicy(1), QueuePolicy(2))
    scheduler.admit(Ticket(priority=1), 0.0)
    with pytest.raises(QueueFull, match="1 rows wait, the limit is 1"):
        scheduler.admit(Ticket(priority=1), 0.0)
    scheduler.admit(Ticket(2, priority=2), 0.0)
    with pytest.raises(QueueFull, match="2 rows wait, the limit is 2") as raised:
        scheduler.admit(Ticket(priority=2), 0.0)
    assert raised.value.retry_after == MIN_RETRY_SECONDS, "there is no estimate yet"


def test_a_queue_that_holds_few_requests_is_not_full() -> None:
    scheduler = make(QueuePolicy(max_rows=4, min_requests=3))
    for _ in range(3):
        scheduler.admit(Ticket(8), 0.0)
    with pytest.raises(QueueFull, match="24 rows wait, the limit is 4"):
        scheduler.admit(Ticket(), 0.0)


def test_the_queue_is_bounded_in_bytes_but_one_request_always_fits() -> None:
    scheduler = make(max_queue_bytes=100)
    scheduler.admit(first := Ticket(size=1000), 0.0)
    with pytest.raises(QueueFull, match="1000 bytes wait, the limit is 100"):
        scheduler.admit(Ticket(size=1), 0.0)
    scheduler.cancel(first)
    scheduler.admit(Ticket(size=99), 0.0)


def test_an_unknown_priority_is_refused_but_ignored_by_a_model_without_levels() -> None:
    with pytest.raises(InvalidArgument, match="priority expected 1 to 2 or 0 for the default, got 3"):
        make(QueuePolicy(16), QueuePolicy(16)).admit(Ticket(priority=3), 0.0)
    make().admit(Ticket(priority=3), 0.0)


# --- deadlines and timeouts ---


def test_a_request_that_expires_in_the_queue_never_reaches_an_engine() -> None:
    scheduler = make()
    admit(scheduler, expiring := Ticket(deadline=2.0), other := Ticket())
    turn = scheduler.turn(0, 3.0)
    assert turn.expired == [expiring]
    assert turn.batch is not None and turn.batch.requests == [other]


def test_a_request_that_would_miss_its_deadline_is_dropped_unless_it_is_the_last() -> None:
    scheduler = make(max_batch_size=2)
    scheduler._engines[0].seconds_per_row = 4.0
    for ticket in (first := Ticket(deadline=6.0), second := Ticket()):
        scheduler.queue.push(ticket)
    turn = scheduler.turn(0, 0.0)  # two rows take 8 s
    assert turn.expired == [first] and turn.batch is not None and turn.batch.requests == [second]
    scheduler.finish(turn.batch, 4.0)
    scheduler.queue.push(last := Ticket(deadline=5.0))
    assert start(scheduler, now=4.0).requests == [last], "an estimate is no reason to refuse it"


def test_expired_requests_do_not_count_towards_the_estimated_end() -> None:
    """A request that is in time alone is not dropped because of rows that have expired themselves."""
    scheduler = make()
    scheduler._engines[0].seconds_per_row = 1.0
    for ticket in (expired := Ticket(7, deadline=1.0), in_time := Ticket(deadline=4.0), Ticket()):
        scheduler.queue.push(ticket)
    turn = scheduler.turn(0, 1.0)
    assert turn.expired == [expired]
    assert turn.batch is not None and in_time in turn.batch.requests


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
    request = Ticket(arrived=100.0, deadline=1000.0, timeout=requested)
    RequestQueue([policy]).admit(request)
    assert request.deadline == 100.0 + effective
    RequestQueue([policy]).admit(sooner := Ticket(arrived=100.0, deadline=101.0, timeout=requested))
    assert sooner.deadline == 101.0, "a timeout extended the deadline of the caller"


def test_a_timed_out_request_fails_while_the_engine_is_busy() -> None:
    scheduler = make()
    admit(scheduler, Ticket())
    start(scheduler)
    admit(scheduler, expiring := Ticket(timeout=2.0), Ticket(timeout=5.0))
    assert scheduler.expire(1.0) == ([], 2.0)
    assert scheduler.expire(2.0) == ([expiring], 5.0)
    assert scheduler.queue.rows == 1, "the rows of the expired request still count"


def test_the_timeout_action_delay_moves_late_requests_behind_the_rest_of_their_level() -> None:
    scheduler = make(QueuePolicy(16, timeout=1.0, delay_late=True), QueuePolicy(16), max_batch_size=1)
    tickets = [Ticket(arrived=arrived, priority=level) for arrived, level in ((0.0, 1), (0.0, 2), (5.0, 1))]
    for ticket in tickets:
        scheduler.admit(ticket, 5.0)
    order = []
    while (batch := scheduler.turn(0, 5.0).batch) is not None:
        order += [tickets.index(ticket) for ticket in batch.requests]  # type: ignore[arg-type]
        scheduler.finish(batch, 5.0)
    assert order == [2, 0, 1], "a late request runs last in its level but before the next level"


def test_an_idle_engine_without_work_sleeps_until_it_is_woken() -> None:
    scheduler = make()
    assert scheduler.turn(0, 0.0).sleep_until == math.inf

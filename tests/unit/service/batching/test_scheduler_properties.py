"""The scheduler under random events: several models with one to four engines each, and a clock that the test moves.

The test plays the threads. It keeps its own account of every request, and after each event compares it with the
scheduler's: no engine is idle while a batch may start; nothing is lost, answered twice, or dropped without need; a
batch keeps its limits and the order of its level; the counts agree.
"""

import math
import os
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.batching.queue import PendingRequest, QueuePolicy
from service.batching.scheduler import ESTIMATE_MARGIN, Batch, BatcherClosed, BatchingPolicy, Scheduler, Turn
from service.core.errors import DeadlineExceeded, QueueFull
from tests.support.scheduling import Ticket

EXAMPLES = int(os.environ.get("SCHEDULER_EXAMPLES", "200"))
STEPS = 50

levels = st.builds(
    QueuePolicy,
    max_rows=st.integers(4, 12),
    min_requests=st.sampled_from([0, 0, 3]),
    timeout=st.sampled_from([0.0, 0.0, 3.0]),
    delay_late=st.booleans(),
)
policies = st.builds(
    BatchingPolicy,
    max_batch_size=st.integers(1, 4),
    levels=st.lists(levels, min_size=1, max_size=2),
    max_delay=st.sampled_from([0.0, 0.0, 2.0]),
    preferred=st.sampled_from([frozenset(), frozenset(), frozenset({2}), frozenset({2, 3})]),
    sizes=st.sampled_from([(), (4,)]),
    inline_below_seconds=st.just(0.5),
    max_queue_bytes=st.sampled_from([10**9, 30]),
)
arrivals: st.SearchStrategy[dict[str, float | None]] = st.builds(
    dict,
    rows=st.integers(1, 4),
    seconds_left=st.none() | st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.0, 8.0]),
    timeout=st.sampled_from([0.0, 0.0, 1.0]),
    priority=st.integers(0, 2),
    size=st.integers(1, 8),
    width=st.sampled_from([1, 1, 1, 2]),
)


class Model:
    """A scheduler, the threads that the test plays for it, and where each of its requests is."""

    def __init__(self, policy: BatchingPolicy, engines: int) -> None:
        self.scheduler = Scheduler(policy, engines, fixed_shapes=False)
        self.policy = policy
        self.woken = set(range(engines))  # a thread that starts takes a turn by itself
        self.sleeping: dict[int, float] = {}  # until when
        self.running: dict[int, Batch] = {}
        self.ended: set[int] = set()
        self.inline = False  # whether the server's thread runs batches in place of engine 0
        self.queued: list[Ticket] = []  # in order of arrival
        self.outcomes: dict[PendingRequest, str] = {}

    def wake(self, engines: object) -> None:
        assert isinstance(engines, (list, tuple))
        for engine in engines:
            del self.sleeping[engine]  # an engine that is not asleep is never woken
            self.woken.add(engine)

    def leave(self, request: PendingRequest, outcome: str) -> None:
        assert isinstance(request, Ticket)
        self.queued.remove(request)  # it is queued, and so it has not left before
        self.outcomes[request] = outcome

    def take(self, engine: int, now: float) -> None:
        """The engine takes a turn."""
        self.act(engine, self.scheduler.turn(engine, now), now)

    def act(self, engine: int, turn: Turn, now: float) -> None:
        """Do what the turn says."""
        queued = list(self.queued)
        for request in turn.expired:
            assert request.deadline is not None
            if request.deadline > now:
                assert turn.batch is not None, "a request was dropped in favour of no other"
            self.leave(request, "expired")
        if turn.batch is not None:
            self.check_batch(turn.batch, queued, now)
            for request in turn.batch.requests:
                self.leave(request, "running")
            self.running[engine] = turn.batch
        elif turn.ended:
            assert self.scheduler.closed and not self.queued
            self.ended.add(engine)
        else:
            self.sleeping[engine] = turn.sleep_until
        self.wake(turn.wake)

    def check_batch(self, batch: Batch, queued: list[Ticket], now: float) -> None:
        requests = [request for request in batch.requests if isinstance(request, Ticket)]
        assert len(requests) == len(batch.requests)
        assert batch.rows == sum(request.rows for request in requests)
        assert batch.rows <= self.policy.max_batch_size or len(requests) == 1
        assert len({request.shape_key for request in requests}) == 1
        assert all(request.deadline is None or request.deadline > now for request in requests)
        last = max(requests, key=lambda request: (request.level, request.late))
        for other in queued:
            if other in requests or other in self.outcomes:
                continue
            assert (other.level, other.late) >= (last.level, last.late), "a request of a lower level overtook"
            for request in requests:
                if (request.level, request.late) == (other.level, other.late) and not request.late:
                    assert queued.index(request) < queued.index(other), "a request of the same level overtook"

    def finish(self, engine: int, now: float) -> None:
        batch = self.running.pop(engine)
        self.scheduler.finish(batch, now)
        for request in batch.requests:
            assert self.outcomes[request] == "running"
            self.outcomes[request] = "answered"

    @property
    def free_engines(self) -> int:
        return len(self.woken) + len(self.sleeping)


class SchedulerMachine(RuleBasedStateMachine):
    """Models on one clock, and one server thread that may run one model's batches."""

    steps = 0

    @initialize(
        policies=st.lists(policies, min_size=1, max_size=3), engines=st.lists(st.integers(1, 4), min_size=3, max_size=3)
    )
    def load(self, policies: list[BatchingPolicy], engines: list[int]) -> None:
        self.now = 0.0
        self.models = [Model(policy, count) for policy, count in zip(policies, engines, strict=False)]

    # --- events ---

    @rule(data=st.data(), burst=st.lists(arrivals, min_size=1, max_size=5), lends=st.booleans())
    def arrive(self, data: st.DataObject, burst: list[dict[str, float | None]], lends: bool) -> None:
        """Requests arrive together; the server's thread may offer to run them."""
        model = data.draw(st.sampled_from(self.models))
        for values in burst:
            left = values["seconds_left"]
            ticket = Ticket(
                **{name: value for name, value in values.items() if name != "seconds_left"},  # type: ignore[arg-type]
                arrived=self.now,
                deadline=None if left is None else self.now + left,
            )
            self.admit(model, ticket)
        turn = model.scheduler.claim(self.now) if lends and len(self.models) == 1 else None
        if turn is not None:
            assert set(model.sleeping) == {0} and not model.woken
            del model.sleeping[0]
            model.act(0, turn, self.now)
            model.inline = 0 in model.running
        else:
            model.wake(model.scheduler.wake(self.now))

    def admit(self, model: Model, ticket: Ticket) -> None:
        scheduler = model.scheduler
        try:
            scheduler.admit(ticket, self.now)
        except BatcherClosed:
            assert scheduler.closed
        except QueueFull:
            policy = model.policy.levels[ticket.level]
            level = [other for other in model.queued if other.level == ticket.level]
            full = sum(t.rows for t in level) + ticket.rows > policy.max_rows and len(level) >= policy.min_requests
            over = sum(t.size for t in model.queued) + ticket.size > model.policy.max_queue_bytes
            assert full or over
        except DeadlineExceeded:
            assert ticket.deadline is not None
            if ticket.deadline > self.now:
                self.check_refusal(model, ticket, ticket.deadline)
        else:
            model.queued.append(ticket)

    def check_refusal(self, model: Model, ticket: Ticket, deadline: float) -> None:
        """A deadline is refused only if something is ahead, and one engine alone could not do all of it in time."""
        ahead = [other for other in model.queued if other.level <= ticket.level]
        assert ahead or not model.free_engines, "nothing delays it"
        slowest = max(engine.seconds_per_row for engine in model.scheduler._engines)
        running = [batch.rows for batch in model.running.values()]
        # Each request in a batch of its own, padded to the largest size, one after the other.
        batches = len(ahead) + len(running) + 1
        rows = max(sum(other.rows for other in ahead) + sum(running) + ticket.rows, 4 * batches)
        assert ESTIMATE_MARGIN * rows * slowest >= deadline - self.now, "it could have been met"

    @rule(seconds=st.sampled_from([0.001, 0.25, 1.0, 3.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes, and engines whose sleep is over take a turn."""
        self.now += seconds
        for model in self.models:
            for engine in [engine for engine, until in model.sleeping.items() if until <= self.now]:
                if engine in model.sleeping:
                    del model.sleeping[engine]
                    model.take(engine, self.now)

    @precondition(lambda self: any(model.woken for model in self.models))
    @rule(data=st.data())
    def wake_up(self, data: st.DataObject) -> None:
        """A thread that was woken runs."""
        model = data.draw(st.sampled_from([model for model in self.models if model.woken]))
        engine = data.draw(st.sampled_from(sorted(model.woken)))
        model.woken.remove(engine)
        model.take(engine, self.now)

    @precondition(lambda self: any(model.running for model in self.models))
    @rule(data=st.data(), stays=st.booleans())
    def finish(self, data: st.DataObject, stays: bool) -> None:
        """An engine finishes its batch, whether its requests succeeded or failed, and takes its next turn."""
        model = data.draw(st.sampled_from([model for model in self.models if model.running]))
        engine = data.draw(st.sampled_from(sorted(model.running)))
        model.finish(engine, self.now)
        if not model.inline:
            model.take(engine, self.now)
        elif stays and (turn := model.scheduler.next_claim(self.now)) is not None:
            model.act(engine, turn, self.now)
            model.inline = engine in model.running
        else:
            model.inline = False
            model.sleeping[engine] = math.inf
            model.wake(model.scheduler.release(self.now))

    @precondition(lambda self: any(model.queued for model in self.models))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from([model for model in self.models if model.queued]))
        request = data.draw(st.sampled_from(model.queued))
        assert model.scheduler.cancel(request)
        model.leave(request, "cancelled")
        assert not model.scheduler.cancel(request), "cancelled twice"

    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """The timer checks for requests that have timed out."""
        model = data.draw(st.sampled_from(self.models))
        expired, following = model.scheduler.expire(self.now)
        for request in expired:
            assert request.deadline is not None and request.deadline <= self.now
            model.leave(request, "expired")
        assert following > self.now
        timeouts = [ticket.deadline for ticket in model.queued if ticket.timeout and ticket.deadline is not None]
        assert following == min(timeouts, default=math.inf)

    @precondition(lambda self: any(not model.scheduler.closed for model in self.models))
    @rule(data=st.data(), breaks=st.booleans(), often=st.integers(0, 4))
    def close(self, data: st.DataObject, breaks: bool, often: int) -> None:
        """A model is unloaded; or its engine breaks, and its queued requests fail."""
        if often:
            return  # else most runs would end early
        model = data.draw(st.sampled_from([model for model in self.models if not model.scheduler.closed]))
        if breaks:
            for request in model.scheduler.queue.clear():
                model.leave(request, "failed")
        model.wake(model.scheduler.close(self.now))

    # --- what always holds ---

    @invariant()
    def no_engine_is_idle_while_a_batch_may_start(self) -> None:
        SchedulerMachine.steps += 1
        for model in self.models:
            if model.woken or model.inline or not model.sleeping or not model.queued:
                continue
            policy = model.policy
            assert policy.max_delay and not model.scheduler.closed
            assert sum(ticket.rows for ticket in model.queued) < policy.max_batch_size
            start = min(ticket.arrived for ticket in model.queued) + policy.max_delay
            # It may be past `now` only until pass_time() has let the thread run, which is in the same event.
            assert self.now < min(model.sleeping.values()) <= start, "an engine sleeps past the start of a batch"

    @invariant()
    def the_counts_agree(self) -> None:
        for model in self.models:
            queue = model.scheduler.queue
            assert sorted(map(id, queue)) == sorted(map(id, model.queued))
            assert len(queue) == len(model.queued)
            assert queue.rows == sum(ticket.rows for ticket in model.queued)
            assert queue.bytes == sum(ticket.size for ticket in model.queued)
            assert queue.timed == sum(ticket.deadline is not None or ticket.late_at is not None for ticket in queue)
            batches = model.running.values()
            assert model.scheduler.running_rows == sum(batch.rows for batch in batches)
            assert model.scheduler.running_requests == sum(len(batch.requests) for batch in batches)

    def teardown(self) -> None:
        """After closing, every thread ends and every request has an outcome."""
        for model in getattr(self, "models", []):
            model.wake(model.scheduler.close(self.now))
            for engine in self.until_ended(model):
                model.woken.discard(engine)
                if engine in model.running:
                    model.finish(engine, self.now)
                model.take(engine, self.now)
            assert not model.queued and not model.sleeping and "running" not in model.outcomes.values()

    @staticmethod
    def until_ended(model: Model) -> Iterator[int]:
        while engines := [*model.woken, *model.running]:
            yield engines[0]


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(
    max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_turn_without_a_batch_sleeps_until_it_is_woken() -> None:
    assert Turn().sleep_until == math.inf

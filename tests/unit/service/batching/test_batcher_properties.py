"""The batcher against a model of its rules: random sizes, priorities, deadlines, cancellations and faults.

The model is what README.md promises, written down once more without threads: who is let in, who rides with whom, who
expires, who fails. Time moves only when the test says so, and a run ends when it says so.
"""

import threading

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.batching.batcher import ESTIMATE_MARGIN, Batcher, BatchingPolicy
from service.batching.queue import QueuePolicy
from service.batching.statistics import Statistics
from service.core.errors import DeadlineExceeded, EngineFailed, QueueFull, ServiceError
from tests.support.batching import Clock, FakeRequest, HeldEngine
from tests.support.waiting import WAIT

BATCH, ROOM = 4, 8
FAULTY = 666.0


class Modelled(RuleBasedStateMachine):
    """A batcher of two levels and one engine, and the model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.engine, self.statistics = Clock(), HeldEngine(), Statistics()
        policy = BatchingPolicy(BATCH, [QueuePolicy(ROOM), QueuePolicy(ROOM)], default_level=1)
        self.batcher = Batcher([self.engine], policy, self.statistics, name="modelled", clock=self.clock)
        self.waiting: tuple[list[FakeRequest], list[FakeRequest]] = ([], [])
        self.running: list[FakeRequest] = []
        self.started = 0.0
        self.seconds_a_row: float | None = None
        self.runs: list[list[float]] = []  # that the engine must have begun
        self.outcomes: dict[FakeRequest, type[ServiceError] | None] = {}  # None: answered
        self.cancelled: list[FakeRequest] = []
        self.next = 1.0

    # --- what happens ---

    @rule(
        rows=st.integers(1, BATCH),
        priority=st.integers(0, 2),
        left=st.none() | st.sampled_from([0.5, 1.0, 2.0, 4.0]),
        faulty=st.sampled_from([False] * 5 + [True]),
    )
    def submit(self, rows: int, priority: int, left: float | None, faulty: bool) -> None:
        value = FAULTY if faulty else self.next
        self.next += 1
        deadline = None if left is None else self.clock.now + left
        request = FakeRequest(value, rows, arrived=self.clock.now, deadline=deadline, priority=priority)
        expected = self.refusal(request, (priority or 2) - 1)
        got: type[ServiceError] | None = None
        try:
            self.batcher.submit(request)
        except ServiceError as error:
            got = type(error)
        assert got is expected
        if got is None:
            self.waiting[(priority or 2) - 1].append(request)
            self.start_if_free()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: any(self.waiting))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([*self.waiting[0], *self.waiting[1]]))
        assert self.batcher.cancel(request)
        self.waiting[request.level].remove(request)
        self.cancelled.append(request)

    @precondition(lambda self: self.running)
    @rule()
    def finish(self) -> None:
        """The engine computes its batch, in parts if it must."""
        batch, self.running = self.running, []
        parts = in_parts(batch)
        self.runs += [values(part) for part in parts[1:]]
        for request in batch:
            self.outcomes[request] = EngineFailed if request.inputs[0][0, 0] == FAULTY else None
        seconds = (self.clock.now - self.started) / sum(request.rows for request in batch)
        before = self.seconds_a_row
        self.seconds_a_row = seconds if before is None else 0.8 * before + 0.2 * seconds
        self.engine.let(len(parts))
        for request in batch:
            assert request.done.wait(WAIT)
        self.start_if_free()

    # --- the model ---

    def refusal(self, request: FakeRequest, level: int) -> type[ServiceError] | None:
        if rows_of(self.waiting[level]) + request.rows > ROOM:
            return QueueFull
        ahead = sum(rows_of(part) for part in self.waiting[: level + 1]) + rows_of(self.running)
        if request.deadline is None or not ahead:
            return None
        wait = (ahead + request.rows) * (self.seconds_a_row or 0.0)
        return DeadlineExceeded if self.clock.now + ESTIMATE_MARGIN * wait > request.deadline else None

    def start_if_free(self) -> None:
        if self.running:
            return
        batch: list[FakeRequest] = []
        seconds = min(sum(map(rows_of, self.waiting)), BATCH) * (self.seconds_a_row or 0.0)
        done = self.clock.now + ESTIMATE_MARGIN * seconds
        for level in self.waiting:
            while level:
                request = level[0]
                alone = not batch and sum(map(len, self.waiting)) == 1
                if request.deadline is not None and (
                    request.deadline <= self.clock.now or (request.deadline < done and not alone)
                ):
                    self.outcomes[level.pop(0)] = DeadlineExceeded
                elif rows_of(batch) + request.rows > BATCH:
                    break
                else:
                    batch.append(level.pop(0))
            if level:
                break
        if batch:
            self.running, self.started = batch, self.clock.now
            self.runs.append(values(batch))

    # --- the two agree ---

    @invariant()
    def agree(self) -> None:
        # The engine's thread is given the time to do what it does by itself; then nothing moves.
        self.engine.wait_for(len(self.runs))
        for request, outcome in self.outcomes.items():
            assert request.done.wait(WAIT), "never answered"
            assert (type(request.error) if request.error else None) is outcome
            if outcome is None:
                value = request.inputs[0][0, 0]
                assert request.result().tolist() == [[-value, -value]] * request.rows
        assert self.engine.batches == self.runs
        assert not any(request.done.is_set() for request in (*self.waiting[0], *self.waiting[1], *self.running))
        assert self.batcher.queued_rows == sum(map(rows_of, self.waiting))

    def teardown(self) -> None:
        self.batcher.close()
        self.engine.let(10_000)
        assert self.batcher.join(WAIT)
        everyone = [*self.outcomes, *self.waiting[0], *self.waiting[1], *self.running]
        assert all(request.done.wait(WAIT) for request in everyone), "a close lost a request"
        assert not any(request.done.is_set() for request in self.cancelled)
        assert not [thread for thread in threading.enumerate() if thread.name == "engine-modelled-0"]


def in_parts(batch: list[FakeRequest]) -> list[list[FakeRequest]]:
    """The runs that a batch takes: whole, and in halves as long as one fails."""
    if len(batch) == 1 or FAULTY not in values(batch):
        return [batch]
    middle = len(batch) // 2
    return [batch, *in_parts(batch[:middle]), *in_parts(batch[middle:])]


def rows_of(requests: list[FakeRequest]) -> int:
    return sum(request.rows for request in requests)


def values(batch: list[FakeRequest]) -> list[float]:
    return [float(value) for request in batch for value in request.inputs[0][:, 0]]


TestModelled = Modelled.TestCase
TestModelled.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

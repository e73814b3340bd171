"""The batcher against a model of its rules, with random sizes, priorities, deadlines, cancellations and failures.

The model repeats the promises of the README without threads: admission, batch composition, expiry and failure
isolation. The test sets the clock and decides when each run ends.
"""

import threading

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.batching.batcher import ESTIMATE_MARGIN, Batcher, BatchingPolicy
from service.batching.queue import QueuePolicy
from service.batching.statistics import Statistics
from service.core.errors import DeadlineExceeded, EngineFailed, QueueFull, ServiceError
from tests.support.batching import BlockingEngine, FakeClock, FakeRequest
from tests.support.waiting import WAIT

MAX_BATCH_SIZE, MAX_QUEUE_ROWS = 4, 8
FAULTY = 666.0


class BatcherMachine(RuleBasedStateMachine):
    """A batcher with two priority levels and one engine, beside the model of its rules."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.engine, self.statistics = FakeClock(), BlockingEngine(), Statistics()
        policy = BatchingPolicy(MAX_BATCH_SIZE, [QueuePolicy(MAX_QUEUE_ROWS)] * 2, default_level=1)
        self.batcher = Batcher([self.engine], policy, self.statistics, name="machine", clock=self.clock)
        self.queues: tuple[list[FakeRequest], list[FakeRequest]] = ([], [])
        self.running: list[FakeRequest] = []
        self.started = 0.0
        self.seconds_per_row: float | None = None
        self.runs: list[list[float]] = []  # runs that the engine must have started
        self.outcomes: dict[FakeRequest, type[ServiceError] | None] = {}  # None: a response
        self.cancelled: list[FakeRequest] = []
        self.next_value = 1.0

    # --- events ---

    @rule(
        rows=st.integers(1, MAX_BATCH_SIZE),
        priority=st.integers(0, 2),
        seconds_left=st.none() | st.sampled_from([0.5, 1.0, 2.0, 4.0]),
        faulty=st.sampled_from([False] * 5 + [True]),
    )
    def submit(self, rows: int, priority: int, seconds_left: float | None, faulty: bool) -> None:
        value = FAULTY if faulty else self.next_value
        self.next_value += 1
        deadline = None if seconds_left is None else self.clock.now + seconds_left
        request = FakeRequest(value, rows, arrived=self.clock.now, deadline=deadline, priority=priority)
        expected_error = self.expected_refusal(request, (priority or 2) - 1)
        error_type: type[ServiceError] | None = None
        try:
            self.batcher.submit(request)
        except ServiceError as error:
            error_type = type(error)
        assert error_type is expected_error
        if error_type is None:
            self.queues[(priority or 2) - 1].append(request)
            self.start_if_free()

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 4.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: any(self.queues))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from([*self.queues[0], *self.queues[1]]))
        assert self.batcher.cancel(request)
        self.queues[request.level].remove(request)
        self.cancelled.append(request)

    @precondition(lambda self: self.running)
    @rule()
    def finish(self) -> None:
        """Let the engine finish its batch, bisected if it fails."""
        batch, self.running = self.running, []
        runs = bisected(batch)
        self.runs += [values(run) for run in runs[1:]]
        for request in batch:
            self.outcomes[request] = EngineFailed if request.inputs[0][0, 0] == FAULTY else None
        seconds = (self.clock.now - self.started) / sum(request.rows for request in batch)
        before = self.seconds_per_row
        self.seconds_per_row = seconds if before is None else 0.8 * before + 0.2 * seconds
        self.engine.release(len(runs))
        for request in batch:
            assert request.done.wait(WAIT)
        self.start_if_free()

    # --- the model ---

    def expected_refusal(self, request: FakeRequest, level: int) -> type[ServiceError] | None:
        if rows_of(self.queues[level]) + request.rows > MAX_QUEUE_ROWS:
            return QueueFull
        ahead = sum(rows_of(queue) for queue in self.queues[: level + 1]) + rows_of(self.running)
        if request.deadline is None or not ahead:
            return None
        wait = (ahead + request.rows) * (self.seconds_per_row or 0.0)
        return DeadlineExceeded if self.clock.now + ESTIMATE_MARGIN * wait > request.deadline else None

    def start_if_free(self) -> None:
        if self.running:
            return
        batch: list[FakeRequest] = []
        seconds = min(sum(map(rows_of, self.queues)), MAX_BATCH_SIZE) * (self.seconds_per_row or 0.0)
        expected_end = self.clock.now + ESTIMATE_MARGIN * seconds
        for queue in self.queues:
            while queue:
                request = queue[0]
                alone = not batch and sum(map(len, self.queues)) == 1
                if request.deadline is not None and (
                    request.deadline <= self.clock.now or (request.deadline < expected_end and not alone)
                ):
                    self.outcomes[queue.pop(0)] = DeadlineExceeded
                elif rows_of(batch) + request.rows > MAX_BATCH_SIZE:
                    break
                else:
                    batch.append(queue.pop(0))
            if queue:
                break
        if batch:
            self.running, self.started = batch, self.clock.now
            self.runs.append(values(batch))

    # --- the batcher agrees with the model ---

    @invariant()
    def agree(self) -> None:
        # Wait until the engine thread blocks in its run; from then on nothing changes.
        self.engine.wait_for_runs(len(self.runs))
        for request, outcome in self.outcomes.items():
            assert request.done.wait(WAIT), "never answered"
            assert (type(request.error) if request.error else None) is outcome
            if outcome is None:
                value = request.inputs[0][0, 0]
                assert request.result().tolist() == [[-value, -value]] * request.rows
        assert self.engine.batches == self.runs
        assert not any(request.done.is_set() for request in (*self.queues[0], *self.queues[1], *self.running))
        assert self.batcher.queued_rows == sum(map(rows_of, self.queues))

    def teardown(self) -> None:
        self.batcher.close()
        self.engine.release(10_000)
        assert self.batcher.join(WAIT)
        uncancelled = [*self.outcomes, *self.queues[0], *self.queues[1], *self.running]
        assert all(request.done.wait(WAIT) for request in uncancelled), "close() lost a request"
        assert not any(request.done.is_set() for request in self.cancelled)
        assert not [thread for thread in threading.enumerate() if thread.name == "engine-machine-0"]


def bisected(batch: list[FakeRequest]) -> list[list[FakeRequest]]:
    """The runs of a batch: the whole, then the halves of each run that fails."""
    if len(batch) == 1 or FAULTY not in values(batch):
        return [batch]
    middle = len(batch) // 2
    return [batch, *bisected(batch[:middle]), *bisected(batch[middle:])]


def rows_of(requests: list[FakeRequest]) -> int:
    return sum(request.rows for request in requests)


def values(batch: list[FakeRequest]) -> list[float]:
    return [float(value) for request in batch for value in request.inputs[0][:, 0]]


TestBatcher = BatcherMachine.TestCase
TestBatcher.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

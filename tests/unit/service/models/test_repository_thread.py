"""Changes of the loaded versions run one at a time, calls of model control are bounded, and a stop waits for none."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import pytest

from service.core.errors import Draining, NotFound, TooManyChanges
from service.models.repository_thread import MAX_WAITING_CALLS, ChangeAbandoned, RepositoryThread
from tests.support.waiting import WAIT, wait_until


class Blocked:
    """A change that runs until `release`."""

    def __init__(self) -> None:
        self.count = 0
        self.began = threading.Event()
        self._released = threading.Event()

    def __call__(self) -> None:
        self.count += 1
        self.began.set()
        assert self._released.wait(WAIT)

    def release(self) -> None:
        self._released.set()


@pytest.fixture
def scan() -> Iterator[Blocked]:
    scan = Blocked()
    yield scan
    scan.release()


@pytest.fixture
def start() -> Iterator[Callable[..., RepositoryThread]]:
    """Starts threads, which are closed at the end."""
    threads: list[RepositoryThread] = []

    def start(scan: Callable[[], None] = lambda: None, poll_seconds: float = 0.0) -> RepositoryThread:
        thread = RepositoryThread(scan, poll_seconds=poll_seconds, on_scanned=lambda: None)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.close()


def test_a_request_to_scan_during_a_scan_is_not_lost(scan: Blocked, start: Callable[..., RepositoryThread]) -> None:
    thread = start(scan)
    assert scan.began.wait(WAIT)
    thread.request_scan()
    thread.request_scan()
    scan.release()
    wait_until(lambda: scan.count == 2, "the repository is scanned again")
    thread.submit(lambda: None).result(WAIT)
    assert scan.count == 2, "two requests during one scan are one"


def test_a_poll_scans_again(start: Callable[..., RepositoryThread]) -> None:
    scans: list[None] = []
    start(lambda: scans.append(None), poll_seconds=0.001)
    wait_until(lambda: len(scans) >= 3, "three scans")


def test_a_scan_that_raises_does_not_end_the_thread(start: Callable[..., RepositoryThread]) -> None:
    def broken() -> None:
        raise UnicodeError("a name")

    thread = start(broken)
    assert thread.submit(lambda: None).result(WAIT) is None


def test_calls_run_in_order_and_their_errors_reach_their_callers(start: Callable[..., RepositoryThread]) -> None:
    ran: list[int] = []

    def refuse() -> None:
        raise NotFound("no such model")

    thread = start()
    calls = [thread.submit(lambda number=number: ran.append(number)) for number in range(3)]  # type: ignore[misc]
    refused = thread.submit(refuse)
    assert isinstance(refused.exception(WAIT), NotFound)
    assert [call.result(WAIT) for call in calls] == [None] * 3 and ran == [0, 1, 2]


def test_more_calls_than_may_wait_are_refused_with_a_time_to_come_back(
    scan: Blocked, start: Callable[..., RepositoryThread]
) -> None:
    thread = start(scan)
    assert scan.began.wait(WAIT)
    waiting = [thread.submit(lambda: None) for _ in range(MAX_WAITING_CALLS)]
    with pytest.raises(TooManyChanges) as caught:
        thread.submit(lambda: None)
    assert caught.value.retry_after > 0
    assert waiting[0].cancel()
    instead = thread.submit(lambda: None)
    scan.release()
    assert instead.result(WAIT) is None, "a call that was cancelled still takes a place"


def test_a_call_that_is_cancelled_while_it_waits_does_not_run(
    scan: Blocked, start: Callable[..., RepositoryThread]
) -> None:
    ran: list[str] = []
    thread = start(scan)
    assert scan.began.wait(WAIT)
    assert thread.submit(lambda: ran.append("cancelled")).cancel()
    last = thread.submit(lambda: ran.append("last"))
    scan.release()
    last.result(WAIT)
    assert ran == ["last"]


def test_closing_fails_every_call_and_waits_for_none(start: Callable[..., RepositoryThread]) -> None:
    change = Blocked()
    thread = start()
    running = thread.submit(change)
    assert change.began.wait(WAIT)
    waiting = thread.submit(lambda: None)
    thread.close()
    for call in (running, waiting):
        assert isinstance(call.exception(0), Draining)
    with pytest.raises(Draining):
        thread.submit(lambda: None)
    assert thread.is_alive() and thread.daemon
    change.release()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert isinstance(running.exception(0), Draining), "the change ended later and changed the outcome"


def test_a_change_that_is_abandoned_ends_the_thread_in_silence(start: Callable[..., RepositoryThread]) -> None:
    scanned: list[Future[None]] = []

    def abandoned() -> None:
        raise ChangeAbandoned

    thread = RepositoryThread(abandoned, poll_seconds=0.0, on_scanned=lambda: scanned.append(Future()))
    thread.start()
    thread.join(WAIT)
    assert not thread.is_alive() and not scanned

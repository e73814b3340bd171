"""The threads that decode the pictures of Classify calls, and their statistics.

Owns the lock around the rules, waking the threads, their low priority, and handing rows to the event loop. Not here:
whose turn it is (picture_queue.py), decoding itself (service.pictures), the results of a call (classification.py).
"""

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from service.batching.statistics import DURATION_BUCKETS, Histogram
from service.core.errors import DeadlineExceeded
from service.core.spec import Arrays
from service.inference.picture_queue import Call, Picture, PictureQueue, Work

# Threads of one process: one for small pictures alone, one for any.
DECODER_THREADS = 2
# nice(1) value of these threads: inference and the servers' threads come first where cores are few.
NICENESS = 10


@dataclass
class DecodeStatistics:
    """Durations in seconds since the start, one value a picture. Read them inside of `lock`."""

    wait: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))  # from arrival to the start
    decode: Histogram = field(default_factory=lambda: Histogram(DURATION_BUCKETS))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, wait: float, decode: float) -> None:
        """Count a picture that was decoded, or could not be."""
        with self.lock:
            self.wait.observe((wait,))
            self.decode.observe((decode,))


class PictureDecoder:
    """Decodes pictures on threads of its own, within `memory_bytes` of memory; they start with the first picture."""

    def __init__(self, memory_bytes: int) -> None:
        self.statistics = DecodeStatistics()
        self._queue = PictureQueue(DECODER_THREADS, memory_bytes)
        self._changed = threading.Condition()  # guards the queue and what follows
        self._started = self._closed = False

    @property
    def waiting(self) -> int:
        """The number of pictures that wait."""
        return self._queue.waiting

    @contextlib.contextmanager
    def call(self, count: int, deadline: float | None) -> Iterator[Call]:
        """A call of `count` pictures with a deadline on time.monotonic()'s clock; what waits at its end is dropped.

        Raises:
            DeadlineExceeded: the deadline has passed, or cannot be met.
        """
        call = Call(deadline)
        with self._changed:
            self._queue.check_deadline(count, deadline, time.monotonic())
        try:
            yield call
        finally:
            with self._changed:
                self._queue.drop(call)

    async def decode(self, call: Call, work: Work) -> Arrays:
        """The row of one picture of the call, when its turn has come.

        Raises:
            InvalidArgument: decoding it would take more memory than all decoding may.
            DeadlineExceeded: the deadline has passed, or cannot be met.
            Exception: any that `work` raises.
        """
        picture = Picture(call, work, time.monotonic())
        with self._changed:
            if self._closed:
                picture.future.cancel()
            else:
                self._queue.push(picture)
                self._start_threads()
                self._changed.notify()
        return await asyncio.wrap_future(picture.future)

    def close(self) -> None:
        """Cancel the pictures that wait, and end the threads; one that is decoding ends after that picture."""
        with self._changed:
            self._closed = True
            dropped = self._queue.clear()
            self._changed.notify_all()
        for picture in dropped:
            picture.future.cancel()

    # --- threads ---

    def _start_threads(self) -> None:
        if not self._started:
            self._started = True
            for index in range(DECODER_THREADS):
                threading.Thread(target=self._run, name=f"decoder-{index}", daemon=True).start()

    def _run(self) -> None:
        _lower_priority()
        while self._take_turn():
            pass  # nothing is kept between turns: a picture refers to the whole request

    def _take_turn(self) -> bool:
        """Wait for a picture, and measure and decode it. Returns False once the decoder is closed."""
        with self._changed:
            while not self._closed:
                turn = self._queue.take(time.monotonic())
                if turn.picture or turn.expired:
                    break
                self._changed.wait()
            else:
                return False
        _expire(turn.expired)
        if turn.picture and self._may_decode(turn.picture):
            self._decode(turn.picture)
        return True

    def _may_decode(self, picture: Picture) -> bool:
        """Measure the picture, if that is not done. Returns False if it waits for another turn, or has failed."""
        if picture.need is not None:
            return True
        try:
            need = picture.work.measure()
            with self._changed:
                starts = self._queue.start(picture, need, time.monotonic())
            if not starts:
                picture.work.postpone()
            return starts
        except Exception as error:  # noqa: BLE001 # it is the picture's result
            _set(picture, error)
            return False

    def _decode(self, picture: Picture) -> None:
        started = time.monotonic()
        result: Arrays | Exception
        try:
            result = picture.work.decode()
        except Exception as error:  # noqa: BLE001 # it is the picture's result
            result = error
        ended = time.monotonic()
        with self._changed:
            self._queue.finish(picture, ended - started)
        self.statistics.record(started - picture.arrived, ended - started)  # first: who has the answer finds it counted
        _set(picture, result)


def _expire(pictures: Iterable[Picture]) -> None:
    for picture in pictures:
        _set(picture, DeadlineExceeded("the deadline passed while pictures waited to be decoded"))


def _set(picture: Picture, result: Arrays | Exception) -> None:
    """Hand the result to the event loop, unless the call was cancelled."""
    if not picture.future.set_running_or_notify_cancel():
        return
    if isinstance(result, Exception):
        picture.future.set_exception(result)
    else:
        picture.future.set_result(result)


def _lower_priority() -> None:
    """Lower this thread's priority below that of the serving threads; only Linux has a nice value per thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

"""The threads that decode: they take turns, forget what is cancelled, and count."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest

from service.core.errors import DeadlineExceeded, InvalidArgument
from service.core.spec import Arrays
from service.inference.picture_decoder import PictureDecoder
from service.inference.picture_queue import SMALL_BYTES
from tests.support.waiting import WAIT, wait_until

ROW: Arrays = (np.zeros(1),)


class Decoding:
    """The work of pictures that wait for `go_on` while they are decoded; `done` has their names in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.running = self.large = 0
        self.go_on = threading.Event()
        self._lock = threading.Lock()

    def work(self, name: str, need: int = 1, *, waits: bool = True) -> "OnePicture":
        return OnePicture(name, need, self, waits=waits)

    def decode(self, name: str, *, waits: bool) -> Arrays:
        with self._lock:
            self.running += 1
            if name.startswith("large"):
                self.large += 1
                assert self.large == 1, "two large pictures at once"
        if waits:
            assert self.go_on.wait(WAIT)
        with self._lock:
            self.done.append(name)
            self.large -= name.startswith("large")
        return ROW


class OnePicture:
    def __init__(self, name: str, need: int, decoding: Decoding, *, waits: bool) -> None:
        self.name, self.need, self.decoding, self.waits = name, need, decoding, waits
        self.postponed = 0

    def measure(self) -> int:
        return self.need

    def postpone(self) -> None:
        self.postponed += 1

    def decode(self) -> Arrays:
        return self.decoding.decode(self.name, waits=self.waits)


def run(scenario: Callable[[PictureDecoder, Decoding], object]) -> None:
    decoder, decoding = PictureDecoder(2**29), Decoding()

    async def main() -> None:
        try:
            await scenario(decoder, decoding)  # type: ignore[misc]
        finally:
            decoding.go_on.set()
            decoder.close()

    asyncio.run(main())
    wait_until(lambda: not any(t.name.startswith("decoder-") for t in threading.enumerate()), "the threads have ended")


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition, "as the test expects")


def test_a_picture_of_another_call_is_decoded_before_the_rest_of_a_large_call() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        with decoder.call(100, None) as many, decoder.call(1, None) as one:
            tasks = [asyncio.create_task(decoder.decode(many, decoding.work(f"many {i}"))) for i in range(100)]
            await until(lambda: decoding.running == 2)
            tasks.append(asyncio.create_task(decoder.decode(one, decoding.work("one"))))
            await until(lambda: decoder.waiting == 99)
            decoding.go_on.set()
            await asyncio.gather(*tasks)
        assert "one" in decoding.done[:6]

    run(scenario)


def test_small_pictures_pass_large_ones_that_are_decoded_one_at_a_time() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        large = [decoding.work(f"large {i}", SMALL_BYTES + 1) for i in range(5)]
        with decoder.call(5, None) as many, decoder.call(1, None) as one:
            tasks = [asyncio.create_task(decoder.decode(many, work)) for work in large]
            await until(lambda: decoding.running == 1)
            await decoder.decode(one, decoding.work("small", waits=False))
            assert decoding.done == ["small"] and decoding.running == 2
            decoding.go_on.set()
            await asyncio.gather(*tasks)
        assert decoding.done[0] == "small" and sorted(decoding.done[1:]) == [f"large {i}" for i in range(5)]
        assert sum(work.postponed for work in large) >= 1

    run(scenario)


def test_a_cancelled_call_leaves_its_pictures_undecoded() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        async def call() -> None:
            with decoder.call(50, None) as many:
                await asyncio.gather(*(decoder.decode(many, decoding.work("cancelled")) for _ in range(50)))

        task = asyncio.create_task(call())
        await until(lambda: decoding.running == 2)
        assert decoder.waiting == 48
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert decoder.waiting == 0
        decoding.go_on.set()
        with decoder.call(1, None) as one:
            await decoder.decode(one, decoding.work("next"))
        assert decoding.running == 3, "the two that were being decoded, and the next"

    run(scenario)


def test_what_fails_is_that_pictures_result_and_the_threads_go_on() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        decoding.go_on.set()
        with decoder.call(1, None) as call:
            for _ in range(4):
                with pytest.raises(InvalidArgument, match="the limit is 480 MiB"):
                    await decoder.decode(call, decoding.work("huge", 2**29))
            broken = decoding.work("broken")
            broken.decode = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]
            for _ in range(4):
                with pytest.raises(ZeroDivisionError):
                    await decoder.decode(call, broken)
            assert await decoder.decode(call, decoding.work("good")) is ROW

    run(scenario)


def test_a_call_whose_deadline_passes_while_it_waits_fails() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        loop = asyncio.get_running_loop()
        with decoder.call(2, None) as busy, decoder.call(1, loop.time() + 0.05) as late:
            tasks = [asyncio.create_task(decoder.decode(busy, decoding.work("busy"))) for _ in range(2)]
            await until(lambda: decoding.running == 2)
            expired = asyncio.create_task(decoder.decode(late, decoding.work("late")))
            await asyncio.sleep(0.06)
            decoding.go_on.set()
            with pytest.raises(DeadlineExceeded):
                await expired
            await asyncio.gather(*tasks)
        assert "late" not in decoding.done

    run(scenario)


def test_every_decoded_picture_is_counted_before_its_row_is_there() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        decoding.go_on.set()
        with decoder.call(3, None) as call:
            for count in (1, 2, 3):
                await decoder.decode(call, decoding.work("picture"))
                assert sum(decoder.statistics.wait.counts) == sum(decoder.statistics.decode.counts) == count

    run(scenario)


def test_idle_threads_keep_nothing_of_the_last_picture() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        decoding.go_on.set()
        with decoder.call(1, None) as call:
            work = decoding.work("picture")
            await decoder.decode(call, work)
            kept = weakref.ref(work)
            del work

        def gone() -> bool:
            gc.collect()
            return kept() is None

        await until(gone)

    run(scenario)


def test_closing_cancels_what_waits() -> None:
    async def scenario(decoder: PictureDecoder, decoding: Decoding) -> None:
        with decoder.call(5, None) as call:
            tasks = [asyncio.create_task(decoder.decode(call, decoding.work("picture"))) for _ in range(5)]
            await until(lambda: decoding.running == 2)
            decoder.close()
            decoding.go_on.set()
            results = await asyncio.gather(*tasks, decoder.decode(call, decoding.work("late")), return_exceptions=True)
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 4

    run(scenario)

"""The rules of decoding: turns, large pictures, memory, deadlines. The time is given, and nothing is decoded."""

import numpy as np
import pytest

from service.core.errors import DeadlineExceeded, InvalidArgument
from service.core.spec import Arrays
from service.inference.picture_queue import SMALL_BYTES, Call, Picture, PictureQueue

SMALL, LARGE = 1000, SMALL_BYTES + 1
MEMORY = 128 * 2**20


class NoWork:
    """Stands in for a picture's work; the rules run none."""

    def measure(self) -> int:
        raise NotImplementedError

    def postpone(self) -> None:
        raise NotImplementedError

    def decode(self) -> Arrays:
        return (np.zeros(1),)


def new_queue() -> PictureQueue:
    return PictureQueue(2, MEMORY)


def push(queue: PictureQueue, count: int, deadline: float | None = None) -> tuple[Call, list[Picture]]:
    call = Call(deadline)
    pictures = [Picture(call, NoWork(), 0.0) for _ in range(count)]
    for picture in pictures:
        queue.push(picture)
    return call, pictures


def take(queue: PictureQueue, now: float = 0.0) -> Picture | None:
    return queue.take(now).picture


def decode(queue: PictureQueue, picture: Picture | None, seconds: float, need: int = SMALL) -> None:
    """Measure and decode a picture that was taken."""
    assert picture is not None
    assert picture.need is not None or queue.start(picture, need, 0.0)
    queue.finish(picture, seconds)


def hold_large(queue: PictureQueue) -> Picture:
    """A large picture that is being decoded."""
    push(queue, 1)
    running = take(queue)
    assert running is not None and queue.start(running, LARGE, 0.0)
    return running


def test_calls_take_turns_and_a_calls_pictures_keep_their_order() -> None:
    queue = new_queue()
    (_, many), (_, few), (_, one) = push(queue, 4), push(queue, 2), push(queue, 1)
    assert [take(queue) for _ in range(8)] == [many[0], few[0], one[0], many[1], few[1], many[2], many[3], None]
    assert queue.waiting == 0


def test_a_call_that_comes_late_waits_for_one_picture_of_every_other_call() -> None:
    queue = new_queue()
    _, many = push(queue, 200)
    assert [take(queue) for _ in range(50)] == many[:50]
    _, late = push(queue, 1)
    assert [take(queue), take(queue)] == [many[50], late[0]]


def test_the_pictures_of_a_call_that_is_dropped_have_no_more_turns_and_free_their_places() -> None:
    queue = new_queue()
    call, many = push(queue, 200)
    _, other = push(queue, 1)
    take(queue)
    assert list(queue.drop(call)) == many[1:]
    assert queue.waiting == 1
    assert [take(queue), take(queue)] == [other[0], None]


def test_a_large_picture_that_is_cancelled_while_it_is_measured_has_no_more_turns() -> None:
    queue = new_queue()
    running = hold_large(queue)
    call, (picture,) = push(queue, 1)
    assert take(queue) is picture
    picture.future.cancel()
    queue.drop(call)
    assert not queue.start(picture, LARGE, 0.0)
    queue.finish(running, 1.0)
    assert take(queue) is None and queue.waiting == 0
    assert list(queue.drop(call)) == []


def test_calls_whose_deadline_has_passed_are_dropped_undecoded() -> None:
    queue = new_queue()
    _, late = push(queue, 3, deadline=5.0)
    _, other = push(queue, 1, deadline=6.0)
    turn = queue.take(5.0)
    assert (turn.picture, list(turn.expired)) == (other[0], late)
    assert queue.waiting == 0


# --- large pictures ---


def test_one_large_picture_is_decoded_at_a_time_and_small_ones_pass() -> None:
    queue = new_queue()
    running = hold_large(queue)
    _, large = push(queue, 2)
    _, small = push(queue, 2)
    assert take(queue) is large[0] and not queue.start(large[0], LARGE, 0.0)
    assert queue.waiting == 4, "a picture that waits again is counted"
    assert [take(queue), take(queue), take(queue)] == [small[0], small[1], None]
    queue.finish(running, 1.0)
    assert take(queue) is large[0]
    decode(queue, large[0], 1.0)
    assert take(queue) is large[1]


def test_large_pictures_of_different_calls_take_turns() -> None:
    queue = new_queue()
    running = hold_large(queue)
    _, first = push(queue, 2)
    _, second = push(queue, 2)
    for picture in (first[0], second[0]):
        assert take(queue) is picture and not queue.start(picture, LARGE, 0.0)
    queue.finish(running, 1.0)
    order = []
    while (taken := take(queue)) is not None:
        order.append(taken)
        decode(queue, taken, 1.0, LARGE)
    assert order == [first[0], second[0], first[1], second[1]]


def test_a_large_picture_that_waits_goes_before_small_ones_once_its_thread_is_free() -> None:
    queue = new_queue()
    running = hold_large(queue)
    _, large = push(queue, 1)
    assert take(queue) is large[0] and not queue.start(large[0], LARGE, 0.0)
    _, small = push(queue, 5)
    queue.finish(running, 1.0)
    assert [take(queue), take(queue)] == [large[0], small[0]]


def test_the_memory_of_all_decoding_stays_within_the_limit() -> None:
    queue = new_queue()
    largest = MEMORY - SMALL_BYTES
    _, (fits, too_large) = push(queue, 2)
    assert take(queue) is fits and queue.start(fits, largest, 0.0)
    _, (small,) = push(queue, 1)
    assert take(queue) is too_large
    with pytest.raises(InvalidArgument, match="would take 97 MiB, the limit is 96 MiB"):
        queue.start(too_large, largest + 2**20, 0.0)
    assert take(queue) is small and queue.start(small, SMALL_BYTES, 0.0)
    assert (fits.need or 0) + (small.need or 0) == MEMORY
    queue.finish(fits, 1.0)
    assert push(queue, 1)[1] == [take(queue)], "a refused picture holds no thread"


# --- deadlines ---


def test_a_deadline_that_other_calls_turns_exceed_is_refused_on_arrival() -> None:
    queue = new_queue()
    push(queue, 101)
    decode(queue, take(queue), seconds=0.1)
    queue.check_deadline(1, 10.06, now=10.0)  # one picture of the other call goes before, on two threads
    queue.check_deadline(200, 15.01, now=10.0)  # all 100 do
    queue.check_deadline(200, None, now=10.0)
    with pytest.raises(DeadlineExceeded, match="100 pictures are decoded before, about 5000 ms of work, and 4900 ms"):
        queue.check_deadline(200, 14.9, now=10.0)
    with pytest.raises(DeadlineExceeded, match="had passed"):
        queue.check_deadline(1, 10.0, now=10.0)


def test_any_deadline_is_tried_while_nothing_waits_or_nothing_was_measured() -> None:
    queue = new_queue()
    push(queue, 1000)
    queue.check_deadline(200, 0.001, now=0.0)
    idle = new_queue()
    push(idle, 1)
    decode(idle, take(idle), seconds=1000.0)
    idle.check_deadline(256, 0.001, now=0.0)


def test_a_large_picture_is_refused_if_large_ones_before_it_take_longer_than_its_deadline() -> None:
    queue = new_queue()
    decode(queue, hold_large(queue), seconds=2.0)
    hold_large(queue)
    for deadline in (None, 9.0):
        _, (picture,) = push(queue, 1, deadline)
        assert take(queue) is picture and not queue.start(picture, LARGE, now=0.0)
    queue.check_deadline(1, 0.001, now=0.0)  # small ones wait for none of these
    _, (late,) = push(queue, 1, deadline=3.9)
    assert take(queue) is late
    with pytest.raises(DeadlineExceeded, match="2 pictures are decoded before, about 4000 ms"):
        queue.start(late, LARGE, now=0.0)

"""The rules of decoding, without threads and without a clock: events and the time in, decisions out.

Owns: whose picture is decoded next, the share of the threads that large pictures may take and so the memory of all
decoding, and what a deadline cannot meet. Not here: the threads (picture_decoder.py), decoding (service.pictures), the
limits on images in progress (classification.py).

Calls take turns: each turn decodes one picture of the call whose last turn is longest ago. What a picture costs is
known once its header was read, so its first turn measures it. A large one (over SMALL_BYTES of memory: seconds for a
PNG of 48 megapixels) is decoded at once only if a thread remains for small ones; else it waits among the large ones,
and the call's next turn comes with theirs. So a small picture waits for small ones alone, and never for two large.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from service.core.errors import DeadlineExceeded, InvalidArgument
from service.core.spec import Arrays

# Memory up to which a picture is small, in bytes: a photograph of any size as a JPEG of one scan, which is decoded at
# reduced size in at most 0.2 s, and up to 5 megapixels as a PNG.
SMALL_BYTES = 32 * 2**20
# Weight of the newest picture in the estimate of the next one's seconds.
NEWEST_WEIGHT = 0.1


class Work(Protocol):
    """What to do for one picture. Its methods run on a decoder thread, and may raise any exception."""

    def measure(self) -> int:
        """Read the header: the memory that decoding takes, in bytes."""

    def postpone(self) -> None:
        """Let go of what `measure` read: other pictures are decoded first."""

    def decode(self) -> Arrays:
        """The picture as one row of the model's inputs."""


@dataclass(eq=False, slots=True)
class Call:
    """The pictures of one call that wait, in their order; two that are measured at once may change places.

    The deadline is on the clock of `now`.
    """

    deadline: float | None = None
    pictures: "deque[Picture]" = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class Picture:
    """One picture, and where its row goes. `need` is the memory that decoding takes, in bytes; None until measured."""

    call: Call
    work: Work
    arrived: float
    future: Future[Arrays] = field(default_factory=Future)
    need: int | None = None

    @property
    def large(self) -> bool:
        """Whether it is known to be large."""
        return self.need is not None and self.need > SMALL_BYTES


@dataclass(frozen=True)
class Turn:
    """The next picture, None if none may start; and the pictures of calls whose deadline has passed."""

    picture: Picture | None
    expired: Sequence[Picture]


class PictureQueue:
    """The pictures that wait, and the estimates. Not thread-safe: the caller holds a lock around every call.

    `memory_bytes` bounds the memory of all pictures that are decoded at once on `threads` threads, at least two.
    """

    def __init__(self, threads: int, memory_bytes: int) -> None:
        self.waiting = 0
        self._threads = threads
        self._largest = memory_bytes - (threads - 1) * SMALL_BYTES
        self._large_running = False
        # Calls with waiting pictures in the order of their turns, by whether their next picture is known to be large.
        self._turns: dict[bool, OrderedDict[Call, None]] = {False: OrderedDict(), True: OrderedDict()}
        self._seconds = {False: 0.0, True: 0.0}  # moving averages of small and of large pictures; 0 before the first

    # --- events of calls ---

    def check_deadline(self, count: int, deadline: float | None, now: float) -> None:
        """Check whether `count` more pictures could be decoded in time.

        Counts the turns of other calls. What the pictures themselves take is not known before they are decoded.

        Raises:
            DeadlineExceeded: the deadline has passed, or passes before the last picture's turn comes.
        """
        if deadline is None:
            return
        ahead = sum(min(len(call.pictures), count) for call in self._turns[False])
        self._check(deadline, now, ahead, ahead * self._seconds[False] / self._threads)

    def push(self, picture: Picture) -> None:
        """Append the picture to its call."""
        picture.call.pictures.append(picture)
        self.waiting += 1
        if len(picture.call.pictures) == 1:
            self._turns[picture.large][picture.call] = None

    def drop(self, call: Call) -> Sequence[Picture]:
        """Remove and return the pictures of a call that was cancelled or has failed."""
        for turns in self._turns.values():
            turns.pop(call, None)
        dropped = list(call.pictures)
        call.pictures.clear()
        self.waiting -= len(dropped)
        return dropped

    def clear(self) -> Sequence[Picture]:
        """Remove and return the pictures of all calls."""
        return [picture for turns in self._turns.values() for call in list(turns) for picture in self.drop(call)]

    # --- events of threads ---

    def take(self, now: float) -> Turn:
        """The picture whose turn it is. One with a `need` is to be decoded; another to be measured, see `start`."""
        expired: list[Picture] = []
        for large in (False,) if self._large_running else (True, False):
            turns = self._turns[large]
            while turns:
                call = next(iter(turns))
                if call.deadline is not None and call.deadline <= now:
                    expired += self.drop(call)
                    continue
                picture = call.pictures.popleft()
                self.waiting -= 1
                del turns[call]
                if call.pictures:
                    self._turns[call.pictures[0].large][call] = None
                self._large_running |= large
                return Turn(picture, expired)
        return Turn(None, expired)

    def start(self, picture: Picture, need: int, now: float) -> bool:
        """The picture was measured. Returns whether to decode it now; else it waits again, as its call's next one.

        One that was cancelled meanwhile is neither decoded nor waits: its call may be dropped already.

        Raises:
            InvalidArgument: decoding it would take more memory than all decoding may.
            DeadlineExceeded: the deadline passes before the turn of this large picture comes.
        """
        if picture.future.cancelled():
            return False
        if need > self._largest:
            raise InvalidArgument(
                "images",
                f"decoding the picture would take {_mebibytes(need)}, the limit is {_mebibytes(self._largest)}; "
                "send it smaller, or as a JPEG",
            )
        picture.need = need
        if not picture.large:
            return True
        if not self._large_running:
            self._large_running = True
            return True
        call, ahead = picture.call, len(self._turns[True])
        if call.deadline is not None:
            self._check(call.deadline, now, ahead, ahead * self._seconds[True])
        call.pictures.appendleft(picture)
        self.waiting += 1
        self._turns[False].pop(call, None)
        self._turns[True][call] = None
        return False

    def finish(self, picture: Picture, seconds: float) -> None:
        """The picture was decoded, or could not be, in that time."""
        if picture.large:
            self._large_running = False
        before = self._seconds[picture.large] or seconds
        self._seconds[picture.large] = (1 - NEWEST_WEIGHT) * before + NEWEST_WEIGHT * seconds

    def _check(self, deadline: float, now: float, ahead: int, seconds: float) -> None:
        if deadline <= now:
            raise DeadlineExceeded("the deadline had passed when the request arrived")
        if now + seconds > deadline:
            raise DeadlineExceeded(
                f"the deadline cannot be met: {ahead} pictures are decoded before, about {seconds * 1e3:.0f} ms of "
                f"work, and {(deadline - now) * 1e3:.0f} ms are left"
            )


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"

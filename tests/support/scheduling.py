"""A request for the scheduler's tests, which run no thread: it has no tensors, and records how it ended."""

from service.batching.queue import PendingRequest
from service.core.errors import ServiceError
from service.core.spec import Outputs


class Ticket(PendingRequest):
    """A request of `rows` rows without tensors. `width` stands for the shape of a row."""

    __slots__ = ("error", "width")

    def __init__(
        self,
        rows: int = 1,
        *,
        arrived: float = 0.0,
        deadline: float | None = None,
        timeout: float = 0.0,
        priority: int = 0,
        size: int = 0,
        width: int = 1,
    ) -> None:
        super().__init__((), rows, arrived, deadline, timeout, priority, size)
        self.width = width
        self.error: ServiceError | None = None

    def prepare(self, outputs: Outputs, first: int, end: int) -> None:
        """Nothing to encode."""

    def send(self) -> None:
        """Nothing to send."""

    def fail(self, error: ServiceError) -> None:
        """Record the error."""
        self.error = error

    @property
    def shape_key(self) -> tuple[tuple[int, ...], ...]:
        """The shape that `width` stands for."""
        return ((self.width,),)

    def __repr__(self) -> str:
        return f"Ticket({self.rows} rows, deadline {self.deadline}, level {self.level}{', late' * self.late})"

"""Clients that hang up while the aio server sends their response: no line in the log, but a count.

grpc.aio logs an error with a traceback if sending fails before it has noticed that the client is gone, as when a client
refuses a response over its own limit. Not here: exceptions of methods, which are logged with their tracebacks.
"""

import logging

# The logger of grpc.aio's servers.
GRPC_LOGGER = "grpc._cython.cygrpc"


class HangUps(logging.Filter):
    """Drops and counts the records of failed sends. Any other record passes, one of an invalid send too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is to be logged."""
        error = record.exc_info[1] if record.exc_info else None
        # gRPC's core accepted the send and could not complete it; it refuses an invalid one with another text.
        hung_up = type(error).__name__ == "ExecuteBatchError" and str(error).startswith('Failed "execute_batch"')
        self.count += hung_up
        return not hung_up


HANG_UPS = HangUps()  # of all servers of this process, as their logger is

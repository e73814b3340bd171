"""Structured logs on standard error: text in a terminal, JSON lines elsewhere."""

import logging
import sys
from typing import Literal

import structlog

# Named as in Triton's LogSettings.
LEVELS = {"log_info": logging.INFO, "log_warning": logging.WARNING, "log_error": logging.ERROR}
_silenced: set[int] = set()


def enabled(name: str) -> bool:
    """Whether records of that level are written."""
    return LEVELS[name] not in _silenced


def enable(name: str, on: bool) -> None:
    """Turn records of that level on or off."""
    (_silenced.discard if on else _silenced.add)(LEVELS[name])


def configure(form: Literal["auto", "text", "json"], *, worker: int | None = None) -> None:
    """Set up structlog, and format the records of libraries that use `logging` in the same way.

    `worker` is the index of a worker process; its records carry it.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if text else "iso", utc=not text),
    ]
    if worker is not None:
        shared.append(lambda _logger, _method, event: {**event, "worker": worker})
    renderer: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)]
        if text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.levelno not in _silenced)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)

"""The program's own log, on standard error."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

from agent.errors import Refused

# Libraries whose warnings repeat what the agent itself logs, a line for each failed try.
LOGGED_BY_US = ("urllib3", "clickhouse_connect", "kafka")
LEVELS = ("debug", "info", "warning", "error", "critical")


def log_to_stderr(level: str) -> None:
    """JSON lines in a pod, coloured lines on a terminal; level: as GAPWATCH_LOG names it. Raises Refused."""
    if level.lower() not in LEVELS:
        raise Refused("GAPWATCH_LOG", repr(level), f"one of: {', '.join(LEVELS)}")
    renderer = structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level.lower()),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries log through the standard library: their warnings are rendered in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # A filter and no level, because the ClickHouse driver sets the level of urllib3 itself.
    handler.addFilter(lambda record: not record.name.startswith(LOGGED_BY_US))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)

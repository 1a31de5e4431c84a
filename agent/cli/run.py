"""gapwatch run: the sidecar, until SIGTERM."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import structlog

from agent.app import App
from agent.assemble import assemble
from agent.config import load, missing_files

log = structlog.get_logger(__name__)


def run_agent(path: Path) -> int:
    """Run the loop until SIGTERM or SIGINT; returns 0. Raises Refused for a configuration that is wrong."""
    config = load(path)
    for problem in missing_files(config):
        raise problem
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    log.info("starting", cluster=config.cluster, pod=config.pod, config=str(path))
    App(assemble(config)).run(stop)
    log.info("stopped")
    return 0

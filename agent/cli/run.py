"""gapwatch run: the sidecar, until SIGTERM. Nothing but a wrong command line ends it otherwise."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import structlog

from agent.clock import Clock
from agent.config import Config, load
from agent.lifecycle.watched import marks, without_retired
from agent.supervision.config_file import ConfigFile, configured_ports
from agent.supervision.supervisor import Agent, Supervisor

log = structlog.get_logger(__name__)

PORT_VARIABLE = "GAPWATCH_HEALTH_PORT"
MARGIN_S = 1.0


def run_agent(path: Path, health_port: int | None, stop: threading.Event) -> int:
    """Serve /livez at once, then run what the configuration says, whenever there is one; 0 once ``stop`` is set.

    health_port: goes before the variable GAPWATCH_HEALTH_PORT, and that before telemetry.prometheus_port of the file
    """
    clock, (public, control) = Clock(), configured_ports(path)
    fixed = _port_of_environment() if health_port is None else health_port
    file = ConfigFile(path, _loaded, clock, (public if fixed is None else None, control), marks)
    supervisor = Supervisor(file, _assembled, clock, (public if fixed is None else fixed, control))
    threading.Thread(target=_end_in_time, args=(stop, supervisor), name="last resort", daemon=True).start()
    log.info("starting", config=str(path))
    supervisor.run(stop)
    log.info("stopped")
    return 0


def _loaded(path: Path) -> Config:
    """Imported here, as in ``_assembled``: the health servers do not wait for it, and a package that is missing is one
    more state. Raises Refused."""
    from agent.assemble import monitor_of

    config = without_retired(load(path))
    monitor_of(config)  # checks the settings of each detector
    return config


def _assembled(config: Config) -> Agent:
    from agent.app import App
    from agent.assemble import assemble

    return App(assemble(config))


def _port_of_environment() -> int | None:
    """None without a number there: Kubernetes itself sets a variable of that name, an address, for a Service that is
    called gapwatch-health."""
    value = os.environ.get(PORT_VARIABLE, "")
    if re.fullmatch(r"[0-9]{1,5}", value) and int(value) <= 65535:
        return int(value)
    if value:
        log.warning("health_port_ignored", variable=PORT_VARIABLE, wanted="a port number")
    return None


def _end_in_time(stop: threading.Event, supervisor: Supervisor) -> None:
    """A start that hangs, in a library or on a network file system, would not see the stop event before the kubelet
    kills the process. What is not closed by then is read again, as after a crash."""
    stop.wait()
    time.sleep(supervisor.shutdown_budget_s + MARGIN_S)
    log.warning("stopped_late", budget_s=supervisor.shutdown_budget_s)
    os._exit(0)

"""Two small HTTP servers: is the agent alive and ready, its metrics, its status page, and answers for the commands of
this machine.

The public one (every interface, both IP families) serves /livez, /startupz, /readyz, /metrics, the status page at /,
the page about costs and worth at /portfolio, and a picture of one subject at /plot.svg. The control one (loopback only)
also answers named queries, because an embedded store belongs to one process, and its page has the texts of canaries,
which may be prompts of production. Manifests and probes name these paths. They are up before the configuration is read,
and stay up when the agent is assembled again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from http import HTTPStatus
from typing import Any

import orjson
import structlog

from agent.clock import Clock
from agent.errors import Refused, Retryable
from agent.supervision.http_server import Answer, HttpServer, Work, every_interface, loopback
from agent.telemetry import Telemetry

log = structlog.get_logger(__name__)

STALE_S = 60.0
Statuses = Mapping[str, tuple[bool, str]]
Query = Callable[[str, Mapping[str, str]], tuple[list[str], list[tuple[Any, ...]]]]
Page = Callable[[Statuses, bool], bytes]
Plot = Callable[[str], bytes | None]


def bare_page(parts: Statuses, _texts: bool) -> bytes:
    """The status page of an agent that does not run: why, by its parts."""
    rows = "".join(
        f"<dt>{escape(name)}{'' if ok else ': not ok'}</dt><dd>{escape(words)}</dd>"
        for name, (ok, words) in parts.items()
    )
    title = "gapwatch watches nothing now"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta http-equiv="refresh" content="15">'
        f'<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>{title}</title><h1>{title}</h1><dl>{rows}</dl></html>"
    ).encode()


def no_portfolio() -> bytes | None:
    """While no agent runs there is none."""
    return None


def no_plot(_subject: str) -> bytes | None:
    """While no agent runs there is no picture."""
    return None


@dataclass(frozen=True, slots=True)
class Routes:
    """What the servers answer with. query: (name, parameters) -> columns and rows; parts: name -> (ok, in words)

    page: (parts, may texts be shown?) -> the status page; plot: subject -> its picture as SVG, None of an unknown one
    portfolio: the page about all adapters, None without an agent; it takes as long as the store does
    """

    telemetry: Telemetry
    parts: Callable[[], Statuses]
    query: Query
    page: Page = bare_page
    plot: Plot = no_plot
    portfolio: Callable[[], bytes | None] = no_portfolio


def nobody_answers(_name: str, _params: Mapping[str, str]) -> tuple[list[str], list[tuple[Any, ...]]]:
    """A query while no agent runs, so that nobody reads the store. Raises Retryable."""
    raise Retryable("agent", "not running; /readyz says why")


def no_routes() -> Routes:
    """Of an agent that has nothing to show: an empty page, no parts."""
    return Routes(Telemetry(), dict, nobody_answers)


class Health:
    """Serves until closed. Port 0 takes a free one; ``public_port`` and ``control_port`` hold the ones in use.

    routes: what is answered with from now on; set again by whoever assembles the agent again
    A port that is taken is a state (``status``) and is tried again.
    """

    def __init__(self, routes: Routes, clock: Clock, public_port: int, control_port: int) -> None:
        self.routes, self._clock = routes, clock
        self._public_server = HttpServer("health", every_interface, public_port, self._public)
        self._control_server = HttpServer("control", loopback, control_port, self._control)
        self._last_turn = clock.steady()

    def open(self) -> None:
        self._public_server.open()
        self._control_server.open()

    def close(self) -> None:
        self._control_server.close()
        self._public_server.close()

    def touch(self) -> None:
        """Called in each turn of the loop; /livez fails when that was more than a minute ago."""
        self._last_turn = self._clock.steady()

    @property
    def public_port(self) -> int:
        return self._public_server.port

    @property
    def control_port(self) -> int:
        return self._control_server.port

    @property
    def status(self) -> tuple[bool, str]:
        troubles = [server.trouble for server in (self._public_server, self._control_server) if server.trouble]
        return not troubles, "; ".join(troubles) or f"ports {self.public_port} and {self.control_port}"

    def _public(self, path: str, params: Mapping[str, str]) -> Answer | Work:
        if path == "/livez":
            quiet = self._clock.steady() - self._last_turn
            alive = quiet < STALE_S
            return (200 if alive else 503), "text/plain", f"last turn {quiet:.1f} s ago\n".encode()
        if path == "/startupz":
            return HTTPStatus.OK, "text/plain", b"started\n"
        if path == "/readyz":
            return self._ready
        if path == "/metrics":
            return self._metrics
        if path == "/":
            return partial(self._page, texts=False)
        if path == "/plot.svg":
            return partial(self._plot, params.get("subject", ""))
        if path == "/portfolio":
            return self._portfolio
        return HTTPStatus.NOT_FOUND, "text/plain", b"/ /portfolio /livez /startupz /readyz /metrics /plot.svg\n"

    def _ready(self) -> Answer:
        parts = self.routes.parts()
        ready = all(ok for ok, _ in parts.values())
        return (200 if ready else 503), "application/json", orjson.dumps(parts)

    def _metrics(self) -> Answer:
        routes = self.routes
        return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", routes.telemetry.page(routes.parts())

    def _page(self, texts: bool) -> Answer:
        routes = self.routes
        return HTTPStatus.OK, "text/html; charset=utf-8", routes.page(routes.parts(), texts)

    def _plot(self, subject: str) -> Answer:
        try:
            picture = self.routes.plot(subject)
        except Exception as error:
            log.warning("plot_failed", error=str(error))
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", b"the store does not answer\n"
        if picture is None:
            return HTTPStatus.NOT_FOUND, "text/plain", b"/plot.svg?subject=ADAPTER or BASE, as configured\n"
        return HTTPStatus.OK, "image/svg+xml; charset=utf-8", picture

    def _portfolio(self) -> Answer:
        try:
            page = self.routes.portfolio()
        except Exception as error:
            log.warning("portfolio_failed", error=str(error))
            words = b"the store or a passport cannot be read: gapwatch portfolio says why\n"
            return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", words
        if page is None:
            return HTTPStatus.NOT_FOUND, "text/plain", b"no agent runs\n"
        return HTTPStatus.OK, "text/html; charset=utf-8", page

    def _control(self, path: str, params: Mapping[str, str]) -> Answer | Work:
        if path == "/":
            return partial(self._page, texts=True)
        if not path.startswith("/queries/"):
            return self._public(path, params)
        return partial(self._query, path.removeprefix("/queries/"), params)

    def _query(self, name: str, params: Mapping[str, str]) -> Answer:
        try:
            columns, rows = self.routes.query(name, params)
        except Refused as error:
            return HTTPStatus.BAD_REQUEST, "application/json", orjson.dumps({"error": str(error)})
        except Exception as error:
            log.warning("query_failed", query=name, error=str(error))
            return HTTPStatus.BAD_GATEWAY, "application/json", orjson.dumps({"error": str(error)})
        return HTTPStatus.OK, "application/json", orjson.dumps({"columns": columns, "rows": rows}, default=str)

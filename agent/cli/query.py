"""gapwatch query: answers an on-call question. Each is a file in dashboards/sql, and a new file is a new question.

An embedded store that a running agent has open is queried through the agent, on its loopback port (agent/health.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from agent.clock import Clock
from agent.config import Config, load, moment
from agent.errors import Refused, Retryable
from agent.store import client as store
from agent.terminal.console import WIDE, as_csv, as_json, console, rows_table
from agent.terminal.narrow_tables import WIDEST as NARROWED
from agent.terminal.narrow_tables import narrowed

Answered = tuple[list[str], list[Sequence[Any]]]
"""Columns and rows."""
Ask = Callable[[str, Mapping[str, str]], Answered]

# Parameters of questions that say how far back -> seconds of one.
SPANS = {"hours": 3600.0, "days": 86_400.0}


# Questions to which no row is a good answer -> what that means.
EMPTY = {
    "degraded": "no rows: all is healthy; how small a change that excludes, by adapter: gapwatch query watched",
    "files": "no rows: no engine has answered canaries in that time, so there is nothing to put the files beside; "
    "replays of the files themselves: gapwatch query rounds, answered_by files",
    "flipped": "no rows: texts are compared once canaries alarm; an incident of responses alone has none",
    "responses": "no rows: no response was sampled in that time, or none of this subject",
    "identity": "no rows: no file changed within half an hour before an onset",
}


@dataclass(frozen=True, slots=True)
class QueryOptions:
    """Options of the command. params: "key=value" of the question's own; adapter: its ``subject``, an adapter or a base

    since: how far back, "6h" or a time; "" as the question has it; csv: rows for a spreadsheet
    """

    params: Sequence[str] = ()
    adapter: str = ""
    since: str = ""
    csv: bool = False


def answer(path: Path, name: str | None, wish: QueryOptions, json: bool) -> int:
    """Print the answer, or the list of questions without a name. Raises Refused, Retryable."""
    if json and wish.csv:
        raise Refused("--csv", "--json beside it", "one of the two")
    config = load(path)
    if name is None:
        return _list(json)
    columns, rows = ask(config, name, parameters(name, wish, Clock().now()))
    if json:
        as_json({"query": name, "columns": columns, "rows": rows})
    elif wish.csv:
        as_csv(columns, rows)
    else:
        shown, lines = narrowed(name, columns, rows)
        console.print(rows_table(*shown, title=store.query_names()[name], wide=NARROWED if lines else WIDE))
        console.print(*lines, sep="\n", end="\n" if lines else "", highlight=False, markup=False)
        if not rows:
            console.print(EMPTY.get(name, "no rows"))
    return 0


def parameters(name: str, wish: QueryOptions, now: float) -> dict[str, str]:
    """The question's own parameters, as these options set them. Raises Refused for one that it does not have."""
    known, given = store.query_parameters(name), pairs(wish.params)
    if wish.adapter:
        if "subject" not in known:
            raise Refused("--adapter", repr(wish.adapter), f"nothing: {name} is about no single adapter")
        given["subject"] = wish.adapter
    if wish.since:
        unit = next((unit for unit in SPANS if unit in known), None)
        if unit is None:
            raise Refused("--since", repr(wish.since), f"nothing: {name} does not look back for a time")
        back_s = max(0.0, now - moment("--since", wish.since, now))
        given[unit] = str(max(1, math.ceil(back_s / SPANS[unit])))
    return given


def ask(config: Config, name: str, params: Mapping[str, str]) -> Answered:
    """Query the running agent on its loopback port where it has the embedded store open, else open the store here."""
    with asking(config) as ask_one:
        return ask_one(name, params)


@contextmanager
def asking(config: Config) -> Iterator[Ask]:
    """For several questions: the store is opened for the first of them that no running agent answers, and once."""
    with ExitStack() as closing:
        clients: list[store.Client] = []

        def ask_one(name: str, params: Mapping[str, str]) -> Answered:
            store.query_parameters(name)  # an unknown name is refused before any store is asked
            if config.clickhouse.dsn.startswith("chdb:") and not clients:
                answered = _ask_agent(config.telemetry.control_port, name, params)
                if answered is not None:
                    return answered
            if not clients:
                clients.append(store.connect(config.clickhouse.dsn, config.clickhouse.password_file))
                closing.callback(clients[0].close)
            columns, rows = store.run_query(clients[0], name, dict(params))
            return list(columns), list(rows)

        yield ask_one


def pairs(params: Sequence[str]) -> dict[str, str]:
    """``["adapter=x"]`` as a mapping. Raises Refused."""
    for param in params:
        if "=" not in param:
            raise Refused("--param", repr(param), "key=value")
    return dict(param.split("=", 1) for param in params)


def _ask_agent(port: int, name: str, params: Mapping[str, str]) -> Answered | None:
    try:
        reply = httpx.get(f"http://127.0.0.1:{port}/queries/{name}", params=dict(params), timeout=30.0)
        body = reply.json()
    except (httpx.TransportError, ValueError):  # nothing listens on that port, or another program does
        return None
    if reply.status_code == 400:
        raise Refused(f"query {name}", body.get("error"), f"one of: {', '.join(store.query_names())}")
    if reply.status_code != 200:
        raise Retryable("store", str(body.get("error")))
    return body["columns"], body["rows"]


def _list(json: bool) -> int:
    questions = [(name, text, store.query_use(name)) for name, text in store.query_names().items()]
    if json:
        as_json([{"name": name, "question": text, "use": use} for name, text, use in questions])
    else:
        console.print(rows_table(["name", "question", "when"], questions, title="questions"))
    return 0

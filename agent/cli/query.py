"""gapwatch query: answers an on-call question. Each is a file in dashboards/sql, and a new file is a new question.

An embedded store that a running agent has open is queried through the agent, on its loopback port (agent/health.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from agent.cli.console import as_json, console, rows_table
from agent.config import Config, load
from agent.errors import Refused, Retryable
from agent.store import client as store


def answer(path: Path, name: str | None, params: Sequence[str], json: bool) -> int:
    """Print the answer, or the list of questions without a name. Raises Refused, Retryable."""
    config = load(path)
    if name is None:
        return _list(json)
    columns, rows = ask(config, name, pairs(params))
    if json:
        as_json({"query": name, "columns": columns, "rows": rows})
    else:
        console.print(rows_table(columns, rows, title=store.query_names()[name]))
        if not rows:
            console.print("no rows")
    return 0


def ask(config: Config, name: str, params: Mapping[str, str]) -> tuple[list[str], list[Sequence[Any]]]:
    """Query the running agent on its loopback port where it has the embedded store open, else open the store here."""
    store.query_parameters(name)  # an unknown name is refused before any store is asked
    if config.clickhouse.dsn.startswith("chdb:"):
        answered = _ask_agent(config.telemetry.control_port, name, params)
        if answered is not None:
            return answered
    client = store.connect(config.clickhouse.dsn, config.clickhouse.password_file)
    try:
        columns, rows = store.run_query(client, name, dict(params))
        return list(columns), list(rows)
    finally:
        client.close()


def pairs(params: Sequence[str]) -> dict[str, str]:
    """``["adapter=x"]`` as a mapping. Raises Refused."""
    for param in params:
        if "=" not in param:
            raise Refused("--param", repr(param), "key=value")
    return dict(param.split("=", 1) for param in params)


def _ask_agent(port: int, name: str, params: Mapping[str, str]) -> tuple[list[str], list[Sequence[Any]]] | None:
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
    questions = list(store.query_names().items())
    if json:
        as_json([{"name": name, "question": text} for name, text in questions])
    else:
        console.print(rows_table(["name", "question"], questions, title="questions"))
    return 0

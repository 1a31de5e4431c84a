"""Puts findings into the store without the sink's thread, and asks the on-call questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.records import Finding
from agent.store import client as store
from agent.store.rows import to_rows
from agent.store.table_rows import Origin, Row

Connect = Callable[[str], store.Client]

HERE = Origin("prod", "pod-0")

# The engine and the SQL are the same either way; the wire is under test with the whole story once.
embedded = pytest.mark.parametrize("dsn", ["embedded"], indirect=True)


def insert(client: store.Client, *seen: Finding, place: Origin = HERE) -> None:
    """Directly into the tables, each in one insert: the writer thread has its own tests."""
    rows: dict[str, list[Row]] = {}
    for group in (group for finding in seen for group in to_rows(finding, place)):
        rows.setdefault(group.table, []).extend(group.rows)
    for table, together in rows.items():
        names = list(together[0])
        data = [[v.tolist() if hasattr(v, "tolist") else v for v in (row[name] for name in names)] for row in together]
        client.insert(table, data, column_names=names)


def answers(client: store.Client, name: str, **params: str) -> list[dict[str, Any]]:
    columns, rows = store.run_query(client, name, params)
    return [dict(zip(columns, row, strict=True)) for row in rows]

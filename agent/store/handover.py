"""The saved states of pods that are gone: which of them is this pod's to go on from?

docs/architecture.md, "Saved evidence", has the protocol; docs/mathematics.md#evidence-of-a-pod-that-is-gone why it is
fair.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from agent.alerting.checkpoint import READABLE
from agent.alerting.fleet import GoneState
from agent.records import SavedState
from agent.store.client import Client, insert_settings
from agent.store.table_rows import Origin, TableRows, fields_of, when

# The server gives up after so long; who waits for the answer waits less (reader.py).
LONGEST_S = 5
_SETTINGS = {"max_execution_time": LONGEST_S}

# In an order that no evidence has a part in. A name belongs to one live pod, so a row under this pod's is of its past.
_GONE = """SELECT pod, toUnixTimestamp64Milli(at) AS saved_at FROM states FINAL
WHERE cluster = {cluster:String} AND consumer_group = {group:String} AND version IN {versions:Array(UInt16)}
    AND hasAny(subjects, {subjects:Array(String)}) AND at > now() - INTERVAL 7 DAY
    AND (closed OR pod = {me:String} OR pod NOT IN (
        SELECT pod FROM heartbeats WHERE cluster = {cluster:String} AND at > now() - INTERVAL 3 MINUTE))
    AND (pod, at) NOT IN (
        SELECT pod, saved_at FROM state_claims
        WHERE cluster = {cluster:String} AND consumer_group = {group:String} AND claimed_by != {me:String})
ORDER BY pod = {me:String} DESC, saved_at DESC, pod"""

_OF_THIS_STATE = """cluster = {cluster:String} AND consumer_group = {group:String} AND pod = {pod:String}
    AND toUnixTimestamp64Milli(%s) = {saved_at:Int64}"""
_FIRST_CLAIM = f"""SELECT claimed_by FROM state_claims WHERE {_OF_THIS_STATE % "saved_at"}
ORDER BY at, claimed_by LIMIT 1"""
_STATE = f"SELECT state FROM states FINAL WHERE {_OF_THIS_STATE % 'at'}"
_CLAIM = """INSERT INTO state_claims (cluster, consumer_group, pod, saved_at, claimed_by)
SELECT {cluster:String}, {group:String}, {pod:String}, fromUnixTimestamp64Milli({saved_at:Int64}), {me:String}"""


def state_rows(saved: SavedState, origin: Origin) -> tuple[TableRows, ...]:
    """One row, which replaces the one before it."""
    row = {
        **origin.columns,
        "consumer_group": origin.consumer_group,
        "at": when(saved.at),
        **fields_of(saved, ("version", "closed")),
        "subjects": list(saved.subjects),
        "state": saved.data,
    }
    return (TableRows("states", (row,)),)


def gone_state(client: Client, place: Origin, subjects: Sequence[str]) -> GoneState | None:
    """The newest state of a pod of this cluster and consumer group that is gone, claimed for this one; None without.

    subjects: state keys of what this pod watches; a state has to be about one of them at least

    A pod is gone where it wrote that it ends, or had no heartbeat for three minutes. A state is claimed before it is
    read, and of two claims the first counts; the loser claims the next state. Raises the driver's errors.
    """
    for gone in _candidates(client, place, subjects):
        _command(client, _CLAIM, **gone, me=place.pod)
        ((first,),) = _rows(client, _FIRST_CLAIM, **gone)
        if first != place.pod:
            continue
        for (text,) in _rows(client, _STATE, **gone):  # none where its pod lives after all, and has saved another one
            return GoneState(gone["pod"], gone["saved_at"] / 1000, orjson.loads(text))
    return None


def _candidates(client: Client, place: Origin, subjects: Sequence[str]) -> Iterator[dict[str, Any]]:
    where = {"cluster": place.cluster, "group": place.consumer_group}
    of_mine = {"subjects": list(subjects), "versions": list(READABLE), "me": place.pod}
    for pod, saved_at in _rows(client, _GONE, **where, **of_mine):
        yield {**where, "pod": pod, "saved_at": saved_at}


def _rows(client: Client, sql: str, **given: Any) -> list[Any]:
    return list(client.query(sql, parameters=given, settings=_SETTINGS).result_rows)


def _command(client: Client, sql: str, **given: Any) -> None:
    client.command(sql, parameters=given, settings=insert_settings(uuid.uuid4().hex))

"""The saved states of bases whose pod handed them over or is gone: which of them is this pod's to go on from?

docs/architecture.md, "Saved evidence", has the protocol; docs/mathematics.md#evidence-of-a-pod-that-is-gone why it is
fair.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
# Rows without a base are of earlier versions: of all that their pod judged.
_GONE = """SELECT pod, base, toUnixTimestamp64Milli(at) AS saved_at, subjects FROM states FINAL
WHERE cluster = {cluster:String} AND consumer_group = {group:String} AND version IN {versions:Array(UInt16)}
    AND (base IN {bases:Array(String)} OR base = '' AND hasAny(subjects, {subjects:Array(String)}))
    AND at > now() - INTERVAL 7 DAY
    AND (closed OR pod = {me:String} OR pod NOT IN (
        SELECT pod FROM heartbeats WHERE cluster = {cluster:String} AND at > now() - INTERVAL 3 MINUTE))
ORDER BY pod = {first:String} DESC, saved_at DESC, pod"""
_CLAIMED = """SELECT DISTINCT pod, toUnixTimestamp64Milli(saved_at), base FROM state_claims
WHERE cluster = {cluster:String} AND consumer_group = {group:String} AND claimed_by != {me:String}
    AND saved_at > now() - INTERVAL 8 DAY"""

_OF_THIS_STATE = """cluster = {cluster:String} AND consumer_group = {group:String} AND pod = {pod:String}
    AND toUnixTimestamp64Milli(%s) = {saved_at:Int64}"""
_FIRST_CLAIM = f"""SELECT claimed_by FROM state_claims
WHERE {_OF_THIS_STATE % "saved_at"} AND base IN ('', {{base:String}}) ORDER BY at, claimed_by LIMIT 1"""
_STATE = f"SELECT state FROM states FINAL WHERE {_OF_THIS_STATE % 'at'} AND base = {{stored_as:String}}"
_CLAIM = """INSERT INTO state_claims (cluster, consumer_group, pod, saved_at, base, claimed_by)
SELECT {cluster:String}, {group:String}, {pod:String}, fromUnixTimestamp64Milli({saved_at:Int64}),
    {base:String}, {me:String}"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A state of a base. subjects: state keys of what is judged of it; later_than: seconds, by the pods' own clocks"""

    base: str
    subjects: Sequence[str]
    later_than: float = -math.inf


class _Candidate(NamedTuple):
    """stored_as: the base of its row, "" where that is of all bases"""

    base: str
    pod: str
    saved_at: int
    stored_as: str

    @property
    def claims(self) -> set[tuple[str, int, str]]:
        """Of others, each of which takes it from this pod: of the base, or by an earlier version of the whole row."""
        return {(self.pod, self.saved_at, base) for base in ("", self.base)}


def state_rows(saved: SavedState, origin: Origin) -> tuple[TableRows, ...]:
    """One row, which replaces the one before it of this pod and base."""
    row = {
        **origin.columns,
        "consumer_group": origin.consumer_group,
        "at": when(saved.at),
        **fields_of(saved, ("version", "base", "closed")),
        "subjects": list(saved.subjects),
        "state": saved.data,
    }
    return (TableRows("states", (row,)),)


def gone_states(client: Client, place: Origin, wanted: Sequence[Wanted], own_first: bool) -> list[GoneState]:
    """Of each base the newest state of a pod of this cluster and consumer group that handed it over or is gone, claimed
    for this one; bases without one are left out.

    own_first: a row under this pod's own name, of its past, comes before newer ones of others
    A pod is gone where it wrote that it ends, or had no heartbeat for three minutes. A state is claimed before it is
    read, and of two claims of one base the first counts; the loser claims the next state. Raises the driver's errors.
    """
    where = {"cluster": place.cluster, "group": place.consumer_group}
    rows = _rows(client, _GONE, **where, **_given(wanted), me=place.pod, first=place.pod if own_first else "")
    claimed = set(_rows(client, _CLAIMED, **where, me=place.pod)) if rows else set()
    newest = []
    for base in wanted:
        states = (_claimed_state(client, place, c) for c in _of_base(rows, base, place.pod) if not claimed & c.claims)
        newest.append(next((state for state in states if state is not None), None))
    return [state for state in newest if state is not None]


def _given(wanted: Sequence[Wanted]) -> dict[str, Any]:
    subjects = [subject for state in wanted for subject in state.subjects]
    return {"bases": [state.base for state in wanted], "subjects": subjects, "versions": list(READABLE)}


def _of_base(rows: Sequence[Any], wanted: Wanted, me: str) -> Iterator[_Candidate]:
    is_here = math.isfinite(wanted.later_than)  # then this pod's own row is no later than its disk
    for pod, base, saved_at, subjects in rows:
        is_about = base == wanted.base or (not base and not set(subjects).isdisjoint(wanted.subjects))
        if is_about and saved_at / 1000 > wanted.later_than and not (is_here and pod == me):
            yield _Candidate(wanted.base, pod, saved_at, base)


def _claimed_state(client: Client, place: Origin, candidate: _Candidate) -> GoneState | None:
    """None where another pod was first, or where its own lives after all, and has saved another one."""
    where = {"cluster": place.cluster, "group": place.consumer_group}
    of_it = {**where, "pod": candidate.pod, "saved_at": candidate.saved_at}
    _command(client, _CLAIM, **of_it, base=candidate.base, me=place.pod)
    ((first,),) = _rows(client, _FIRST_CLAIM, **of_it, base=candidate.base)
    if first != place.pod:
        return None
    for (text,) in _rows(client, _STATE, **of_it, stored_as=candidate.stored_as):
        return GoneState(candidate.base, candidate.pod, candidate.saved_at / 1000, orjson.loads(text))
    return None


def _rows(client: Client, sql: str, **given: Any) -> list[Any]:
    return list(client.query(sql, parameters=given, settings=_SETTINGS).result_rows)


def _command(client: Client, sql: str, **given: Any) -> None:
    client.command(sql, parameters=given, settings=insert_settings(uuid.uuid4().hex))

"""What the store holds of the watch's own cost: rows of three questions to a record for each adapter and base. Pure.

Shares of what only a process as a whole knows: the CPU seconds of the models by the seconds that each adapter and part
had of them, those of the agent by the requests that were counted, and equally where there were none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from detectors.economics.own_cost import Part, Served, Used, WatchCost, shared_out

DAY_S = 86_400.0
# Less was measured than a day says: a rate over minutes is no rate.
SHORTEST_S = 3600.0
QUESTIONS = ("spent", "served", "stored")
PROCESSES = (Part.AGENT.value, Part.MODELS.value)
IN_PROCESS = (Part.FILE_CANARIES, Part.SCORING)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Measured:
    """costs: sorted by base and adapter; span_s: seconds from the first row that is counted in to now"""

    costs: tuple[WatchCost, ...]
    span_s: float


def rows_of(columns: Sequence[str], rows: Iterable[Sequence[Any]], cluster: str) -> list[Row]:
    """Of one cluster, by column."""
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return [row for row in named if row.get("cluster", cluster) in (cluster, "")]


def measured_cost(
    spent: Sequence[Row],
    served: Sequence[Row],
    stored: Sequence[Row],
    bases: Mapping[str, str],
    on_gpu: bool,
    now: float,
) -> Measured:
    """spent, served, stored: rows of these questions; bases: adapter, or the name that asks for a base -> its base

    on_gpu: do gapwatch's own models run on a card? now: seconds since the epoch
    """
    begins = [_seconds(row["first_at"]) for row in (*spent, *served)]
    span_s = max(now - min(begins, default=now), SHORTEST_S)
    a_day = DAY_S / span_s
    names = dict(bases) | {row["adapter"]: row["base"] for row in spent if row["adapter"]}
    parts: dict[str, dict[Part, Used]] = {name: {} for name in names}
    requests = {row["adapter"]: float(row["requests"]) for row in served if row["adapter"] in names}
    _add_models(parts, spent, a_day, on_gpu)
    agent_s = a_day * sum(row["seconds"] for row in spent if row["part"] == Part.AGENT.value)
    weights = {name: requests.get(name, 0.0) for name in names}
    for name, cpu_s in shared_out(agent_s, weights).items():
        _add(parts, name, Part.AGENT, Used(cpu_s=cpu_s))
    for row in spent:
        if row["part"] == Part.ENGINE_CANARIES.value:
            _add(parts, row["adapter"], Part.ENGINE_CANARIES, _tokens(row, a_day))
    _add_stored(parts, stored)
    served_by_name = {row["adapter"]: _served(row, a_day) for row in served}
    costs = [WatchCost(names[name], name, parts[name], served_by_name.get(name)) for name in names]
    return Measured(tuple(sorted(costs, key=lambda cost: (cost.base, cost.adapter))), span_s)


def _add_models(parts: dict[str, dict[Part, Used]], spent: Sequence[Row], a_day: float, on_gpu: bool) -> None:
    """Seconds of canaries from files and of scoring, with their share of the process's CPU seconds. Where it measured
    none (rows of an earlier version) each of these seconds is one of a core."""
    own = [row for row in spent if row["part"] in IN_PROCESS]
    whole_s = sum(row["seconds"] for row in own)
    cpu_s = sum(row["seconds"] for row in spent if row["part"] == Part.MODELS.value) or whole_s
    for row in own:
        share = row["seconds"] / whole_s if whole_s else 0.0
        used = Used(gpu_s=a_day * row["seconds"] if on_gpu else 0.0, cpu_s=a_day * cpu_s * share)
        _add(parts, row["adapter"], Part(row["part"]), used)
    if not whole_s:
        for name, seconds in shared_out(a_day * cpu_s, dict.fromkeys(parts, 1.0)).items():
            _add(parts, name, Part.MODELS, Used(cpu_s=seconds))


def _add_stored(parts: dict[str, dict[Part, Used]], stored: Sequence[Row]) -> None:
    """Tables that name no adapter are shared out by what the others hold of each."""
    own: dict[str, float] = dict.fromkeys(parts, 0.0)
    common = 0.0
    for row in stored:
        if row["adapter"] in own:
            own[row["adapter"]] += row["bytes_stored"]
        elif not row["adapter"]:
            common += row["bytes_stored"]
    for name, more in shared_out(common, own).items():
        if own[name] + more:
            _add(parts, name, Part.STORAGE, Used(stored_bytes=own[name] + more))


def _tokens(row: Row, a_day: float) -> Used:
    """At most: what is scored is priced as written, because some cells of a round are, and the rest as read."""
    scored = a_day * row["tokens_scored"]
    return Used(input_tokens=max(0.0, a_day * row["tokens_processed"] - scored), output_tokens=scored)


def _served(row: Row, a_day: float) -> Served:
    return Served(a_day * row["requests"], _number(row["prompt_tokens"]), _number(row["output_tokens"]))


def _add(parts: dict[str, dict[Part, Used]], name: str, part: Part, used: Used) -> None:
    if name in parts and used != Used():
        parts[name][part] = parts[name].get(part, Used()) + used


def _number(value: float | None) -> float:
    """A running agent answers in JSON, which has null for nan."""
    return math.nan if value is None else float(value)


def _seconds(at: Any) -> float:
    """Of a time as the store has it, or of its text in ISO 8601 as a running agent answers with."""
    time = datetime.fromisoformat(at) if isinstance(at, str) else at
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()

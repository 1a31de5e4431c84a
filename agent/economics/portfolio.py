"""All adapters on one page: whose each is, how it stands, what it adds, what it costs, what runs out, what to do.

Measured are verdicts, worth, costs and requests; the passport says what people know. A verdict needs a measured worth:
without one, and where that was measured on another base than the one that is served now, it says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from agent.config import Adapter, Config, Model
from agent.economics import worth_file
from agent.economics.form import form_of
from agent.economics.measured_cost import Row, rows_of
from agent.economics.stored_cost import Ask, StoredCost, stored_cost
from agent.economics.worth_file import MeasuredWorth
from agent.lifecycle import passport_file
from agent.lifecycle.clocks import Clock, clocks
from agent.lifecycle.settings import active_people, horizons
from detectors.economics.choices import (
    Assumptions,
    Choice,
    Decider,
    Examples,
    Situation,
    at_stake,
    break_even,
    choices,
    deciders,
    pays_back_days,
    verdict,
)
from detectors.economics.own_cost import WatchCost
from detectors.economics.worth import Worth
from probes.golden.archive import accepted_times

MEASURE = "measure"  # in place of a verdict
NOT_MEASURED = "never measured (gapwatch worth {adapter})"
OTHER_BASE = "last measured on another base than the one that is served (gapwatch worth {adapter})"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the arithmetic says of one adapter. made: all choices; verdict: of these; form: assumptions it rests on

    defaults: of these, the ones that nobody filled in; deciders: on which of them the verdict hangs, the first most
    """

    situation: Situation
    form: Assumptions
    defaults: tuple[str, ...]
    made: tuple[Choice, ...]
    verdict: Choice
    deciders: tuple[Decider, ...]

    @property
    def at_stake(self) -> float:
        """Money a year."""
        return at_stake(self.made, self.form.horizon_days)

    @property
    def break_even(self) -> float:
        """Requests a day."""
        return break_even(self.situation, self.form)

    @property
    def pays_back_days(self) -> float:
        return pays_back_days(self.situation, self.form)


@dataclass(frozen=True, slots=True)
class Line:
    """One adapter. status, retention: as last judged, "" and nan where it was not; cost: of the watch

    worth: as last measured, None where it never was; why: "" or why there is no decision; clock: what runs out next
    """

    adapter: str
    base: str
    owner: str
    status: str
    retention: float
    cost: WatchCost | None
    worth: MeasuredWorth | None
    clock: Clock | None
    decision: Decision | None
    why: str = ""

    @property
    def verdict(self) -> str:
        """keep, pin, rebuild, prompt with its examples, retire, or that it has to be measured."""
        if self.decision is None:
            return MEASURE
        own = self.decision.verdict
        return f"{own.kind.value} ({own.examples} examples)" if own.examples else own.kind.value

    @property
    def requests(self) -> float:
        """A day; nan where none were counted."""
        return self.cost.served.requests if self.cost and self.cost.served else math.nan


@dataclass(frozen=True, slots=True)
class Portfolio:
    """lines: sorted by the money at stake, then by what the watch costs; missing: what is not in it, in words"""

    lines: tuple[Line, ...]
    currency: str
    unset: tuple[str, ...]
    at: float
    missing: str = ""


def portfolio(config: Config, ask: Ask, now: float, days: int = 7) -> Portfolio:
    """Of the configuration's adapters. ask: an on-call question and its parameters -> columns and rows

    Raises what ``ask`` raises, and Refused for a passport or a measurement that cannot be read.
    """
    stored = stored_cost(config, ask, days, now)
    standing = {row["adapter"]: row for row in rows_of(*ask("standing", {}), config.cluster)}
    known = _Known.of(config, stored, datetime.fromtimestamp(now, UTC).date())
    lines = [
        _line(known, model, adapter, standing.get(adapter.name, {}))
        for model in config.models
        for adapter in model.adapters
    ]
    prices = config.costs.prices
    lines.sort(key=lambda line: (-_staked(line), -(line.cost.money(prices) if line.cost else 0.0), line.adapter))
    return Portfolio(tuple(lines), config.costs.currency, config.costs.unset, now, stored.missing)


@dataclass(frozen=True, slots=True)
class _Known:
    """What all lines share. accepted: adapter -> when its golden record in force was; people: as for clocks"""

    config: Config
    stored: StoredCost
    today: date
    accepted: Mapping[str, date]
    people: tuple[str, ...] | None

    @classmethod
    def of(cls, config: Config, stored: StoredCost, today: date) -> _Known:
        times = accepted_times(config.probes.golden_dir)
        accepted = {name: datetime.fromtimestamp(at, UTC).date() for name, at in times.items()}
        return cls(config, stored, today, accepted, active_people(config))


def decide(situation: Situation, form: Assumptions, defaults: tuple[str, ...]) -> Decision:
    made = choices(situation, form)
    return Decision(situation, form, defaults, made, verdict(made), deciders(situation, form))


def situation_of(
    config: Config, worth: MeasuredWorth, cost: WatchCost | None, is_degraded: bool, rebuildable: bool
) -> Situation:
    """is_degraded: its last verdict; then what it added when it was measured it does not add now"""
    costs, prices = config.costs, config.costs.prices
    checked = max(1, worth.checked)
    lost = is_degraded and worth.worth is not Worth.BASE_PASSES
    held_out = next((shots.checked for shots in worth.prompted), 0)
    return Situation(
        worth=Worth.LOST if lost else worth.worth,
        accepted_right=worth.accepted_right / checked,
        adapter_right=worth.adapter_right / checked,
        base_right=worth.base_right / checked,
        requests=cost.served.requests if cost and cost.served else math.nan,
        watch_day=cost.money(prices) if cost else 0.0,
        input_token=prices.input_token,
        gpu_hour=costs.gpu_hour,
        person_day=costs.person_day,
        examples=tuple(Examples(own.examples, own.share, own.extra_tokens) for own in worth.prompted),
        adapter_held_out=worth.adapter_held_out / held_out if held_out else math.nan,
        rebuildable=rebuildable,
    )


def facts(line: Line, config: Config) -> dict[str, Any]:
    """For programs, and for a spreadsheet: one level, in the order of the table."""
    prices, worth, decision = config.costs.prices, line.worth, line.decision
    return {
        "adapter": line.adapter,
        "base": line.base,
        "owner": line.owner,
        "status": line.status,
        "retention": line.retention,
        "worth": worth.worth.value if worth else "",
        "gain": worth.gain if worth else None,
        "gain_low": worth.gain_low if worth else None,
        "gain_high": worth.gain_high if worth else None,
        "gain_left": worth.left if worth else None,
        "requests_a_day": line.requests,
        "watch_a_day": line.cost.money(prices) if line.cost else None,
        "share_of_serving": line.cost.share(prices) if line.cost else None,
        "clock": line.clock.words if line.clock else "",
        "verdict": line.verdict,
        "at_stake_a_year": decision.at_stake if decision else None,
        "break_even_requests_a_day": decision.break_even if decision else None,
        "rebuild_pays_back_days": decision.pays_back_days if decision else None,
        "decided_by": decision.deciders[0].name if decision and decision.deciders else "",
        "why": line.why,
        "currency": config.costs.currency,
    }


def _line(known: _Known, model: Model, adapter: Adapter, row: Row) -> Line:
    config, name = known.config, adapter.name
    folder, accepted = config.probes.golden_dir, known.accepted.get(adapter.name)
    passport, worth = passport_file.read(folder, name), worth_file.read(folder, name)
    cost = next((own for own in known.stored.measured.costs if own.adapter == name), None)
    running = clocks(passport, accepted, known.people, known.today, horizons(config)) if passport else ()
    why = _why_not(worth, row, name)
    decision = None
    if worth is not None and not why:
        form, defaults = form_of(passport)
        is_degraded = row.get("status") == "degraded"
        # Whether the copies are intact that this takes is looked at by gapwatch passport, which hashes them.
        decision = decide(situation_of(config, worth, cost, is_degraded, accepted is not None), form, defaults)
    retention = row.get("retention")
    return Line(
        adapter=name,
        base=model.name,
        owner=passport.owner if passport else "",
        status=str(row.get("status", "")),
        retention=math.nan if retention is None else float(retention),
        cost=cost,
        worth=worth,
        clock=running[0] if running else None,
        decision=decision,
        why=why,
    )


def _why_not(worth: MeasuredWorth | None, row: Row, adapter: str) -> str:
    if worth is None:
        return NOT_MEASURED.format(adapter=adapter)
    live = str(row.get("live_base") or "")
    # Without a hash, as behind an engine, what is served now is not known to be another one.
    is_other = bool(live) and bool(worth.base_hash) and live != worth.base_hash
    return OTHER_BASE.format(adapter=adapter) if is_other else ""


def _staked(line: Line) -> float:
    staked = line.decision.at_stake if line.decision else math.nan
    return staked if math.isfinite(staked) else 0.0

"""What the tables of costs and choices say, in words: for the commands and for the status site."""

from __future__ import annotations

import math
from datetime import date, timedelta

from agent.config import Config
from agent.economics.portfolio import MEASURE, Decision, Line
from detectors.economics.choices import Kind, true_cost

COLUMNS = (
    *("adapter", "owner", "stands", "adds", "watch a day", "requests a day", "runs out next", "verdict"),
    "at stake a year",
)
# Assumptions that are named of those that a verdict hangs on.
NAMED = 3
# A day beyond that is none to plan by, and soon none of the calendar.
LATEST_DAYS = 36_500.0


def money_words(money: float, currency: str) -> str:
    """Two significant digits at least, because most are small; "-" where it is not known."""
    if not math.isfinite(money):
        return "-"
    digits = 2 if not money else min(7, max(2, 1 - math.floor(math.log10(abs(money)))))
    return f"{money:,.{digits}f} {currency}".strip()


def cells(line: Line, config: Config) -> tuple[str, ...]:
    """One adapter, a cell for each of COLUMNS."""
    currency, decision, worth = config.costs.currency, line.decision, line.worth
    is_known = worth is not None and worth.gain is not None
    adds = f"{worth.gain:+.2f} ({worth.gain_low:+.2f}..{worth.gain_high:+.2f})" if is_known and worth else "-"
    retention = f", retention {line.retention:.2f}" if math.isfinite(line.retention) else ""
    return (
        line.adapter,
        line.owner or "-",
        f"{line.status or 'not judged'}{retention}",
        adds,
        money_words(line.cost.money(config.costs.prices), currency) if line.cost else "-",
        f"{line.requests:,.0f}" if math.isfinite(line.requests) else "-",
        line.clock.words if line.clock else "-",
        line.verdict if decision else f"{MEASURE}: {line.why}",
        money_words(decision.at_stake, currency) if decision else "-",
    )


def words_of(decision: Decision, currency: str, today: date) -> list[str]:
    """What the choices mean: break-even, the day on which a rebuild has paid, what waiting costs, and what decides."""
    needed, days, form = decision.break_even, decision.pays_back_days, decision.form
    words = [f"over {form.horizon_days:.0f} days; at stake: {money_words(decision.at_stake, currency)} a year"]
    if math.isfinite(needed):
        counted = decision.situation.requests
        measured = f"{counted:,.0f} are counted" if math.isfinite(counted) else "none are counted"
        words.append(f"it breaks even with {needed:,.0f} requests a day; {measured}")
    elif needed == math.inf:
        words.append("it breaks even with no number of requests: nothing that it spares has a price")
    if decision.verdict.kind is Kind.REBUILD and days < LATEST_DAYS:
        on = today + timedelta(days=math.ceil(days))
        words.append(f"begun today, a rebuild has paid for itself on {on}, after {days:,.0f} days")
    if decision.verdict.kind in (Kind.PROMPT, Kind.RETIRE):
        words.append(f"each month that it stays costs {money_words(decision.at_stake / 12, currency)}")
    now = decision.situation
    made = money_words(true_cost(form, now.gpu_hour, now.person_day), currency)
    words.append(f"to make it from its data costs {made}: curation, every run and not the last alone, deployment")
    words += [
        f"it hangs on {own.name} ({own.value:g}): with {own.factor:g} times of it, {own.verdict.value}"
        for own in decision.deciders[:NAMED]
    ]
    if not decision.deciders:
        words.append("no assumption decides: within ten times of each the verdict is the same")
    if decision.defaults:
        words.append(f"assumptions that nobody filled in: {', '.join(decision.defaults)}")
        words.append("fill in: gapwatch passport ADAPTER --set economics.NAME=VALUE")
    return words

"""gapwatch cost: what watching costs a day, by adapter and part, and its share of what serving costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from agent.cli.query import asking
from agent.clock import Clock
from agent.config import load
from agent.economics.measured_cost import Measured
from agent.economics.prices import Costs
from agent.economics.stored_cost import stored_cost
from agent.economics.words import money_words
from agent.errors import Refused
from agent.terminal.console import as_csv, as_json, console, people_to_stderr, rows_table, say
from detectors.economics.own_cost import Part, Prices, Used, WatchCost, requests_for_share, share_of

WITHIN, ABOVE, CANNOT_TELL = 0, 1, 2
UNSET = "prices of the section costs that are still the defaults of gapwatch: {names}"
COLUMNS = ("adapter", "watch a day", "of which", "requests a day", "serving a day", "share", "at target from")
# Part -> what makes it smaller.
LESS = {
    Part.ENGINE_CANARIES: "served.every longer, probes.token_budget_per_round smaller, enrol --select",
    Part.FILE_CANARIES: "probes.every longer, probes.token_budget_per_round smaller",
    Part.SCORING: "sampling.rate, sampling.per_adapter_per_minute or scoring.passes smaller",
    Part.MODELS: "fewer pods with models: witnesses (role witness) share the bases",
    Part.AGENT: "sampling.rate smaller; with the adapter as key of the records most are never decoded",
    Part.STORAGE: "clickhouse.keep shorter, of `gapwatch query stored` the first tables",
}


@dataclass(frozen=True, slots=True)
class CostOptions:
    """Options of the command. days: how far back; csv: rows for a spreadsheet"""

    days: int = 7
    csv: bool = False


def show_cost(path: Path, wish: CostOptions, json: bool) -> int:
    """0 where the watch costs no more than costs.target of serving, 1 where it costs more, 2 where what serving costs
    is not known. Raises Refused, and Retryable where the store is away."""
    if json and wish.csv:
        raise Refused("--csv", "--json beside it", "one of the two")
    if json:
        people_to_stderr()
    config, now = load(path), Clock().now()
    with asking(config) as ask:
        stored = stored_cost(config, ask, wish.days, now)
    costs = config.costs
    measured = stored.measured
    if json:
        as_json(facts(measured, costs) | {"missing": stored.missing})
    elif wish.csv:
        as_csv(*csv_rows(measured, costs))
    else:
        _print(measured, costs, stored.missing)
    return _exit_code(whole_share(measured, costs), costs.target)


def whole_share(measured: Measured, costs: Costs) -> float:
    """Of all adapters together: the money of all, those without requests too, by the serving cost that is known. nan
    where of none it is."""
    prices = costs.prices
    money = sum(cost.money(prices) for cost in measured.costs)
    known = [serving for cost in measured.costs if math.isfinite(serving := cost.serving_money(prices))]
    return share_of(money, sum(known)) if known else math.nan


def facts(measured: Measured, costs: Costs) -> dict[str, Any]:
    """For programs: amounts and money of a day."""
    prices = costs.prices
    return {
        "currency": costs.currency,
        "prices_not_set": list(costs.unset),
        "measured_hours": measured.span_s / 3600.0,
        "share": whole_share(measured, costs),
        "target": costs.target,
        "adapters": [_facts(cost, prices, costs.target) for cost in measured.costs],
    }


def csv_rows(measured: Measured, costs: Costs) -> tuple[list[str], list[list[Any]]]:
    """One row for each adapter and part, with the amounts that its money is made of."""
    amounts = list(Used.__dataclass_fields__)
    rows = [
        [cost.base, cost.adapter, part.value, *(getattr(used, name) for name in amounts), used.money(costs.prices)]
        for cost in measured.costs
        for part, used in cost.parts.items()
    ]
    return ["base", "adapter", "part", *amounts, f"{costs.currency}_a_day"], rows


def _facts(cost: WatchCost, prices: Prices, target: float) -> dict[str, Any]:
    return {
        "base": cost.base,
        "adapter": cost.adapter,
        "money": cost.money(prices),
        "parts": {
            part.value: {name: getattr(used, name) for name in Used.__dataclass_fields__}
            | {"money": used.money(prices)}
            for part, used in cost.parts.items()
        },
        "requests": cost.served.requests if cost.served else None,
        "input_tokens": cost.served.input_tokens if cost.served else None,
        "output_tokens": cost.served.output_tokens if cost.served else None,
        "serving_money": cost.serving_money(prices),
        "share": cost.share(prices),
        "requests_for_target": requests_for_share(cost, prices, target),
    }


def _print(measured: Measured, costs: Costs, missing: str) -> None:
    rows = [_cells(cost, costs) for cost in measured.costs]
    hours = measured.span_s / 3600.0
    console.print(rows_table(COLUMNS, rows, title=f"a day, from what {hours:.1f} hours of the store hold"))
    share, prices = whole_share(measured, costs), costs.prices
    whole = sum((_sum(cost) for cost in measured.costs), Used())
    money = money_words(whole.money(prices), costs.currency)
    say(escape(f"all together: {money} a day, {_share_words(share, costs.target)}"))
    by_part = _by_part(measured, prices)
    for part, of_part in list(by_part.items())[:2]:
        say(escape(f"{part.value}: {money_words(of_part, costs.currency)} a day; less with {LESS[part]}"))
    if missing:
        say(f"[yellow]![/yellow] not in it: {escape(missing)}")
    if costs.unset:
        say(escape(UNSET.format(names=", ".join(costs.unset))))


def _sum(cost: WatchCost) -> Used:
    return sum(cost.parts.values(), Used())


def _by_part(measured: Measured, prices: Prices) -> dict[Part, float]:
    """Of all adapters together, the most expensive first."""
    whole: dict[Part, float] = {}
    for cost in measured.costs:
        for part, money in cost.by_part(prices).items():
            whole[part] = whole.get(part, 0.0) + money
    return dict(sorted(whole.items(), key=lambda item: -item[1]))


def _share_words(share: float, target: float) -> str:
    if math.isnan(share):
        return "its share of serving is not known: no request was counted whose tokens a record told"
    where = "within" if share <= target else "above"
    return f"{share:.2%} of what serving costs: {where} the {target:.1%} of costs.target"


def _cells(cost: WatchCost, costs: Costs) -> Sequence[str]:
    prices, currency = costs.prices, costs.currency
    parts = ", ".join(f"{part.value} {money_words(money, '').strip()}" for part, money in cost.by_part(prices).items())
    needed = requests_for_share(cost, prices, costs.target)
    share = cost.share(prices)
    return (
        cost.adapter if cost.adapter != cost.base else f"{cost.base} (the base itself)",
        money_words(cost.money(prices), currency),
        parts or "-",
        f"{cost.served.requests:,.0f}" if cost.served else "-",
        money_words(cost.serving_money(prices), currency),
        f"{share:.2%}" if math.isfinite(share) else "-",
        f"{needed:,.0f} a day" if math.isfinite(needed) else "never" if needed == math.inf else "-",
    )


def _exit_code(share: float, target: float) -> int:
    return CANNOT_TELL if math.isnan(share) else WITHIN if share <= target else ABOVE

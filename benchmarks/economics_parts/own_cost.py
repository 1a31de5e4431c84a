"""What the watch of the demo costs, from the rows of its store and its configuration; run ``gapwatch demo`` first.

The demo replays every few seconds and samples every request, far more than the defaults: its canaries' rows are
measured, and priced once as they are and once at the pace of the defaults, at which canaries come by the clock."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from time import time

from agent.cli.query import asking
from agent.config import Probes, load
from agent.economics.prices import Costs
from agent.economics.stored_cost import stored_cost
from benchmarks.figures import Figure, console, context
from detectors.economics.own_cost import Part, Used, WatchCost, requests_for_share

FOLDER = Path(os.environ.get("GAPWATCH_DEMO", ".gapwatch/demo"))
BY_CLOCK = (Part.FILE_CANARIES, Part.ENGINE_CANARIES)


def measure(_quick: bool) -> list[Figure]:
    config = load(FOLDER / "gapwatch.yaml")
    with asking(config) as ask:
        stored = stored_cost(config, ask, 7, time())
    costs = Costs()
    prices = costs.prices
    slower = config.probes.every / Probes().every
    shown = []
    for own in stored.measured.costs:
        if own.served is None or not any(part in own.parts for part in BY_CLOCK):
            continue
        if not math.isfinite(own.share(prices)):
            console.print(f"  {own.adapter}: no record tells the tokens of its requests, so serving has no price")
            continue
        shown.append(context(f"{own.adapter}: the demo's watch, share of serving", 100 * own.share(prices), "%"))
        for part, money in own.by_part(prices).items():
            shown.append(context(f"{own.adapter}: {part.value}", 100 * money / own.money(prices), "% of its watch"))
        shown.append(_at_defaults(own, slower, costs))
    return shown


def at_pace(own: WatchCost, slower: float) -> WatchCost:
    """Canaries at another pace, and scoring at one request in a hundred, the default rate of sampling."""
    pace = {Part.FILE_CANARIES: slower, Part.ENGINE_CANARIES: slower, Part.SCORING: 0.01}
    return replace(own, parts={part: _times(used, pace.get(part, 1.0)) for part, used in own.parts.items()})


def _at_defaults(own: WatchCost, slower: float, costs: Costs) -> Figure:
    slow = at_pace(own, slower)
    needed = requests_for_share(slow, costs.prices, costs.target)
    name = f"{own.adapter}: requests a day from which the watch is within 1 % of serving, at the pace of the defaults"
    return context(name, needed, "requests")


def _times(used: Used, factor: float) -> Used:
    return Used(
        used.gpu_s * factor,
        used.cpu_s * factor,
        used.input_tokens * factor,
        used.output_tokens * factor,
        used.stored_bytes * factor,
    )

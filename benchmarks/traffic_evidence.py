"""Traffic evidence in figures: ``python -m benchmarks.traffic_evidence --json FILE [--quick] [--part NAME ...]``.

On responses of the real model, sampled once and kept in the cache folder, as is what golden copies say of them.
Parts: delays, samplers, fair_bet, replicas, peers, unexplained, suspected, prefixes, retention, texts, onset, base,
speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import numpy as np

from agent.demo.stage import ADAPTERS
from benchmarks.figures import Figure, arguments, console, context, report, stored_figures
from benchmarks.traffic import (
    base_requests,
    clipped,
    delays,
    fair_bet,
    onset,
    peers,
    prefixes,
    scoring_speed,
    suspected,
    texts,
    unexplained,
)
from benchmarks.traffic.engine_faults import WITHOUT
from benchmarks.traffic.observed import Exact, Observed, observe
from benchmarks.traffic.served import SEED, WRITERS, Cell, jobs, open_runner
from detectors.evidence.alternative import FOUR_BITS, HALF_STRENGTH
from detectors.evidence.profile_likelihood import most_likely
from probes.runners.in_process import Runner
from probes.scoring.scoring_job import COPIES, ScoringOptions
from probes.scoring.token_distribution import SamplingParameters

PLAIN = SamplingParameters(1.0)
OTHERS = (
    SamplingParameters(0.7),
    SamplingParameters(0.7, top_p=0.9),
    SamplingParameters(1.0, top_p=0.9),
    SamplingParameters(0.0),
)
# Blocks of the first adapter that an engine may lose.
BLOCKS = ("mlp", "attention", "v_proj")
ALL = ScoringOptions(copies=COPIES, passes=None)
# All that a response may be scored against by default.
DEFAULT = ScoringOptions(passes=None)
HALVES = ScoringOptions(copies=(HALF_STRENGTH,), others=False, passes=None)
QUANTISED = ScoringOptions(copies=(FOUR_BITS,), others=False, passes=None)
BARE = ScoringOptions(copies=(), others=False, passes=0)


class World:
    """The runner, and the cells, each computed when it is first used. quick: a few responses of one adapter"""

    def __init__(self, runner: Runner, quick: bool) -> None:
        self.runner, self.quick = runner, quick
        self.adapters = ADAPTERS[:1] if quick else ADAPTERS
        self.count, self.small = (8, 6) if quick else (96, 32)

    @property
    def healthy(self) -> list[Cell]:
        """Responses as accepted, of every adapter by every sampler, and to prompts from elsewhere."""
        cells = [Cell(name, "healthy", PLAIN, self.count) for name in self.adapters]
        cells += [Cell(name, "healthy", sampling, self.small) for name in self.adapters for sampling in OTHERS]
        return [*cells, *self._drifting]

    @cached_property
    def plain(self) -> dict[tuple[str, str], Observed]:
        """Temperature 1, nothing cut off: every writer under every adapter's name."""
        cells = [Cell(name, writer, PLAIN, self.count) for name in self.adapters for writer in WRITERS]
        return {(cell.adapter, cell.writer): self._observed(cell, ALL, _means_of_the_healthy(cell)) for cell in cells}

    @cached_property
    def faulty(self) -> list[Observed]:
        """Every fault under every adapter's name, few responses: their growth is an exact sum at each position."""
        return [self._observed(cell, ALL, Exact.GROWTH) for cell in self._faulty]

    @property
    def faulty_by_default(self) -> Iterator[Observed]:
        """The same responses, against what they may be scored against by default, and no more."""
        return (self._observed(cell, DEFAULT, Exact.NOTHING) for cell in self._faulty)

    @property
    def _faulty(self) -> list[Cell]:
        return [Cell(name, writer, PLAIN, self.small) for name in self.adapters for writer in WRITERS[1:]]

    @cached_property
    def sampled(self) -> list[Observed]:
        """The other samplers, base and healthy."""
        cells = [
            Cell(name, writer, sampling, self.small)
            for name in self.adapters
            for sampling in OTHERS
            for writer in ("healthy", "base")
        ]
        return [self._observed(cell, BARE, Exact.MEANS) for cell in cells]

    @cached_property
    def drifting(self) -> list[Observed]:
        """Prompts from elsewhere under each adapter's name."""
        return [self._observed(cell, BARE, Exact.MEANS) for cell in self._drifting]

    @property
    def _drifting(self) -> list[Cell]:
        both = (PLAIN, OTHERS[1])
        return [Cell(name, "healthy", sampling, self.small, "drift") for name in self.adapters for sampling in both]

    @cached_property
    def other_samplers(self) -> dict[tuple[str, str], Observed]:
        """Requests that ask for temperature 1 and no truncation, and are answered otherwise."""
        wanted = {"temperature x1.2": SamplingParameters(1.2), "top_p 0.9": SamplingParameters(1.0, top_p=0.9)}
        cells = {
            (name, key): Cell(name, "healthy", PLAIN, self.small, in_force=sampling)
            for name in self.adapters
            for key, sampling in wanted.items()
        }
        return {key: self._observed(cell, BARE, Exact.GROWTH) for key, cell in cells.items()}

    @cached_property
    def engine(self) -> list[Observed]:
        """The first adapter under faults of the engine alone: a base in 4 bits, and one of its blocks lost."""
        writers = {"4 bits": QUANTISED} | {f"{WITHOUT}{block}": BARE for block in BLOCKS}
        cells = {Cell(ADAPTERS[0], writer, PLAIN, self.small): asking for writer, asking in writers.items()}
        return [self._observed(cell, asking, Exact.GROWTH) for cell, asking in cells.items()]

    def few(self, writer: str) -> peers.Pool:
        """A few prompts that come again and again."""
        cell = Cell(ADAPTERS[0], writer, PLAIN, self.count, "few")
        return peers.pool(self._observed(cell, HALVES, Exact.GROWTH), jobs(self.runner, cell))

    def _observed(self, cell: Cell, asking: ScoringOptions, exact: Exact) -> Observed:
        console.print(f"  {cell.name}")
        return observe(self.runner, cell, asking, exact)


def _means_of_the_healthy(cell: Cell) -> Exact:
    return Exact.MEANS if cell.writer == "healthy" else Exact.GROWTH


def main() -> None:
    options = arguments(__doc__ or "")
    runner = open_runner()
    try:
        figures = _figures(World(runner, options.quick), options.part)
    finally:
        runner.close()
    again = {figure.name for figure in figures}
    kept = [figure for figure in stored_figures(options.json) if options.part and figure.name not in again]
    report([*kept, *figures], SEED, options.json)


def _figures(world: World, wanted: list[str] | None) -> list[Figure]:
    parts: dict[str, Callable[[World], Iterable[Figure]]] = {
        "delays": _delays,
        "samplers": lambda world: delays.sampler_figures(world.other_samplers),
        "fair_bet": _fair,
        "replicas": _replicas,
        "peers": _peers,
        "unexplained": lambda world: unexplained.figures(world.engine),
        "suspected": lambda world: suspected.figures(world.runner, world.quick),
        "prefixes": lambda world: prefixes.figures(world.quick),
        "retention": _retention,
        "texts": lambda world: texts.figures(world.runner, world.healthy),
        "onset": lambda world: onset.figures(world.faulty_by_default),
        "base": lambda world: base_requests.figures(world.runner, world.quick),
        "speed": lambda world: scoring_speed.figures(world.runner, world.quick),
    }
    figures: list[Figure] = []
    for name, part in parts.items():
        if not wanted or name in wanted:
            console.print(f"{name} ...")
            figures += part(world)
    return figures


def _delays(world: World) -> Iterator[Figure]:
    yield from delays.figures(world.faulty, plain=True)
    yield from delays.figures(world.sampled, plain=False)


def _fair(world: World) -> Iterator[Figure]:
    healthy = [observed for observed in world.plain.values() if observed.mean_e]
    yield from fair_bet.figures([*healthy, *world.sampled, *world.drifting], world.quick)
    yield from fair_bet.numerics(world.runner, ADAPTERS[0], BARE, world.quick)


def _replicas(world: World) -> Iterator[Figure]:
    for name in world.adapters:
        yield from clipped.figures(name, *(world.plain[name, writer] for writer in ("healthy", "base", "wrong")))
    yield from clipped.weak(world.faulty)
    yield from clipped.run_length(world.quick)


def _peers(world: World) -> Iterator[Figure]:
    yield from peers.figures(world.few("healthy"), {writer: world.few(writer) for writer in ("base", "half", "4 bits")})


def _retention(world: World) -> Iterator[Figure]:
    """Strength estimated from text alone; half of the LoRA's scale is not half of the interpolation path."""
    grid = ALL.tokens.grid
    for (name, writer), observed in world.plain.items():
        if writer in ("healthy", "half", "base"):
            interval = most_likely(np.array(grid), observed.tokens.path_log_lik.sum(axis=1), len(observed.lengths))
            yield context(f"retention from text, {writer} as {name}", interval.mean, "")
            # JSON has no word for a bound that lies somewhere beyond the grid: its end stands for it.
            low = grid[0] if np.isnan(interval.low) else interval.low
            high = grid[-1] if np.isnan(interval.high) else interval.high
            yield context(f"retention from text, {writer} as {name}: half of its interval", (high - low) / 2, "")


if __name__ == "__main__":
    main()

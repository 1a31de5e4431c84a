"""Enrolment: record what an adapter does on its canaries today, how much is noise, and whether a loss would show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from detectors.records import Half, NoiseFloor
from detectors.score import Tolerances
from probes.answers import Progress
from probes.battery import largest, noise_floors, replay_battery
from probes.canary import CanarySet
from probes.candidates import continue_greedily, golden_sides
from probes.curve import strengths, with_curve
from probes.errors import Refused, Unreplayable
from probes.golden import Golden, GoldenCanary, tokenizer_fingerprint
from probes.golden_bytes import from_bytes, to_bytes
from probes.power import Fleet, power, strong_enough
from probes.replay import Runner, Stop
from probes.schedule import sizes

AT_ONCE = 8  # canaries whose whole vocabulary is in memory at a time: 8 x 2 x 40 x 150,000 floats are 0.4 GB
WEAK = "the adapter hardly changes the base's answer here"
SAID_ELSEWHERE = ("base", "at", "tolerances", "why", "previous")


@dataclass(frozen=True, slots=True)
class EnrolSettings:
    """How to enrol. base: the base's name; at: now, seconds since the epoch; why, previous: when a record is replaced.

    per_half: canaries wanted in each half; min_pool: fewest accepted (with 12 one benign outlier is 8 % of the pool)
    min_tokens, max_new_tokens: bounds of a usable continuation, end of text included
    min_energy: least |delta|^2 a scored position, nats squared (.01: the adapter moves log-probabilities by a tenth)
    top: tokens kept of adapter and of base; log_threshold: ln A of the fleet; token_budget: scored positions a round
    battery: names of the benign configurations to replay, all of them when empty
    """

    base: str
    at: float
    why: str = ""
    previous: str = ""
    tolerances: Tolerances = field(default_factory=Tolerances)
    per_half: int = 24
    min_pool: int = 24
    min_tokens: int = 12
    max_new_tokens: int = 40
    min_energy: float = 0.01
    top: int = 20
    seed: int = 0
    log_threshold: float = 21.5
    token_budget: int = 512
    battery: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.min_pool <= self.per_half:
            raise Refused("canaries in each half", f"{self.min_pool} to {self.per_half}", "2 <= min_pool <= per_half")
        if not 1 <= self.min_tokens <= self.max_new_tokens:
            raise Refused("tokens of a continuation", f"{self.min_tokens} to {self.max_new_tokens}", "1 <= min <= max")


def enrol(
    runner: Runner,
    adapter: str,
    canaries: CanarySet,
    settings: EnrolSettings,
    others: Sequence[str],
    progress: Progress,
    stop: Stop,
) -> Golden:
    """The golden record of an adapter under the files that lie there now; not yet written to a folder.

    others: names of the other registered adapters, recorded on these canaries so that a mix-up can be named
    progress: called with (stage, done, total); stop: looked at between batches

    Raises Refused, in words, for an adapter that did not load whole, for numbers that are not finite, for too few
    usable canaries and for an adapter that cannot be told from its base; Unreplayable when files move or when stopped.
    """
    others = _ready(runner, adapter, others)
    before = runner.identity(adapter)
    found = _usable(runner, adapter, canaries, settings, progress, stop)
    drafts = _halved(found.usable, settings.seed)
    draws_per_round = sizes(_lengths(drafts, Half.SELECTED), _lengths(drafts, Half.HELD_OUT), settings.token_budget)[0]
    rank, alpha = _rank_and_alpha(runner, adapter)
    drafts = with_curve(runner, adapter, drafts, strengths(rank), others, progress, stop)
    battery = replay_battery(runner, adapter, drafts, progress, stop, settings.battery)
    if runner.identity(adapter) != before:
        raise Unreplayable(adapter, "its files or those of its base changed during the enrolment: start it again")
    final = _with_noise(drafts, noise_floors(battery))
    pool = [canary.reference for canary in final if canary.half is Half.SELECTED]
    golden = Golden(
        adapter=adapter,
        base=settings.base,
        base_hash=before.live_base,
        tokenizer_hash=tokenizer_fingerprint(runner),
        adapter_hash=before.live_adapter,
        rank=rank,
        alpha=alpha,
        scales=tuple(float(scale) for scale in final[0].reference.scales),
        canaries=final,
        canary_set=canaries.content_hash,
        tolerances=settings.tolerances,
        noise={name: largest(measurements) for name, measurements in battery.items()},
        power=power(adapter, pool, settings.tolerances, Fleet(settings.log_threshold, draws_per_round)),
        created_at=settings.at,
        why=settings.why,
        previous=settings.previous,
        excluded=found.excluded,
        settings={key: value for key, value in asdict(settings).items() if key not in SAID_ELSEWHERE},
    )
    # What is judged against in memory is bit for bit what a later process will read.
    return from_bytes(to_bytes(golden))


def _ready(runner: Runner, adapter: str, others: Sequence[str]) -> list[str]:
    """The other adapters that can be replayed; raises for this one and for the base."""
    readiness = runner.refresh()
    for name in (None, adapter):
        if name not in readiness:
            known = ", ".join(other for other in readiness if other)
            raise Refused("adapter to enrol", name, f"one of {known}")
        if readiness[name].blocked:
            raise Unreplayable(name or "base", readiness[name].detail or str(readiness[name].blocked))
    facts = runner.facts(adapter)
    if facts:
        raise Refused(f"adapter {adapter}", "; ".join(facts), "every key of the adapter to take effect in this base")
    return [name for name in others if name != adapter and name in readiness and not readiness[name].blocked]


def _rank_and_alpha(runner: Runner, adapter: str) -> tuple[int, float]:
    """Of the LoRA, for runners that know (``rank_and_alpha(adapter)``); 0, 0 otherwise."""
    asked = getattr(runner, "rank_and_alpha", None)
    if asked is None:
        return 0, 0.0
    rank, alpha = asked(adapter)
    return int(rank), float(alpha)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """usable: canaries with both golden sides; excluded: canary id -> why not."""

    usable: list[GoldenCanary]
    excluded: dict[str, str]


def _usable(
    runner: Runner, adapter: str, canaries: CanarySet, settings: EnrolSettings, progress: Progress, stop: Stop
) -> _Found:
    """Canaries with an effect to measure, as many as wanted, in an order that the seed alone decides."""
    order = np.random.default_rng(settings.seed).permutation(len(canaries.canaries))
    waiting = [canaries.canaries[int(index)] for index in order]
    wanted = 2 * settings.per_half
    found = _Found([], {})
    while waiting and len(found.usable) < wanted:
        progress("continuations", len(found.usable), wanted)
        size = min(AT_ONCE, wanted - len(found.usable))
        batch, waiting = waiting[:size], waiting[size:]
        bounds = settings.min_tokens, settings.max_new_tokens
        candidates, excluded = continue_greedily(runner, adapter, batch, bounds, stop)
        found.excluded.update(excluded)
        for canary in golden_sides(runner, adapter, candidates, settings.top, stop):
            if strong_enough(canary.reference, settings.min_energy):
                found.usable.append(canary)
            else:
                found.excluded[canary.id] = WEAK
    progress("continuations", len(found.usable), wanted)
    _enough(adapter, found, settings)
    return found


def _enough(adapter: str, found: _Found, settings: EnrolSettings) -> None:
    usable, least = len(found.usable), 2 * settings.min_pool
    if usable >= least:
        return
    if not usable and found.excluded and set(found.excluded.values()) == {WEAK}:
        seen, wanted = "answers that cannot be told from its base's", "an effect on at least some canaries"
        raise Refused(f"adapter {adapter} is unmonitorable", seen, f"{wanted}: is this the adapter you mean?")
    counts = Counter(found.excluded.values())
    reasons = ", ".join(f"{count} x {why}" for why, count in sorted(counts.items()))
    seen = f"{usable} usable canaries" + (f" (excluded: {reasons})" if reasons else "")
    wanted = f"{least}, {settings.min_pool} to draw from and as many held out: {least - usable} are missing"
    raise Refused(f"adapter {adapter} is unmonitorable", seen, wanted)


def _halved(canaries: Sequence[GoldenCanary], seed: int) -> list[GoldenCanary]:
    """Both halves at random: the held-out half is a sample of the same canaries, whatever their order was."""
    order = np.random.default_rng([seed, 1]).permutation(len(canaries))
    selected = set(order[: len(canaries) // 2].tolist())
    halves = [Half.SELECTED if index in selected else Half.HELD_OUT for index in range(len(canaries))]
    return [
        replace(canary, half=half, reference=replace(canary.reference, half=half))
        for canary, half in zip(canaries, halves, strict=True)
    ]


def _lengths(canaries: Sequence[GoldenCanary], half: Half) -> list[int]:
    return [len(canary.forced) for canary in canaries if canary.half is half]


def _with_noise(canaries: Sequence[GoldenCanary], floors: Mapping[str, NoiseFloor]) -> tuple[GoldenCanary, ...]:
    return tuple(replace(one, reference=replace(one.reference, noise=floors[one.id])) for one in canaries)

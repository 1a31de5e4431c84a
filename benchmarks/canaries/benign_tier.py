"""False alarms where the benign change is of a kind that enrolment has never met, and may be too much.

Every canary is replayed once in each benign configuration. One *class* of configurations is then left out as a whole
(batch shapes, prefill in chunks, attention, kernels, precision, adapters merged into the weights, releases of the
base), and at last all but batch shapes: noise floors come from the other classes, rounds from those left out, each of
whose configurations stays for 50 rounds. Rounds are drawn by the schedule from the recorded answers, 20,000 for each
class and tolerance, and go through the detector that pages, which is restarted at each alarm. At A = 1,000 its
guarantee is 20 alarms at most on average, while its null hypothesis holds; it holds no more where a configuration moves
more than the tolerated share of a pool beyond tolerance. So this can fail, and with a tolerance below the noise it
does: the smallest tolerance that passes is a figure.

Recording costs two passes over the pool in each of the 15 configurations and nothing for the rounds: some four seconds
an adapter on the smallest base of the zoo, one thread; a sweep of tolerances takes as long again.

On the zoo in bfloat16, enrolled in it, and on the helpdesk's adapters as shipped, in float32. A merged adapter and a
release of the base are in no battery: these classes are tested against the floors of all the others. The first is the
one that moves the adapter's answers and not the base's, so that no base shift widens what is allowed. bfloat16 is no
benign configuration of adapters served in float32 (probes/enrolment/noise_battery.py), so that these have no class of
precision; base weights rounded to it are one of their releases.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent.demo.stage import ADAPTERS, set_up, write_config
from agent.worker.watched_bases import goldens_of, runner_of
from benchmarks.canaries.benign import with_floor
from benchmarks.figures import Figure, at_most, console, context
from benchmarks.zoo import broken
from benchmarks.zoo.enrolled_base import (
    BUDGET,
    LOG_A,
    SEED,
    Measured,
    answered,
    compared,
    enrolled,
    replayed,
    serving,
)
from benchmarks.zoo.members import Member
from benchmarks.zoo.world import World
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.kinds.adapter_gap import Config, Detector
from detectors.records import BaseRound, Measurement, Round
from examples.helpdesk.releases import TUNE, merge_lora
from probes.canaries.schedule import plan_round
from probes.enrolment.noise_battery import own_floors
from probes.enrolment.settings import EnrolSettings
from probes.golden.record import Golden
from probes.runner import BatchShape, Runner, Target
from probes.runners import in_process

ROUNDS, SMALL_A, DWELL = 20_000, 1e3, 50
SWEEP = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
TUNES = (0.05, 0.1)
NOWHERE = "127.0.0.1:9"


class Kind(StrEnum):
    """A class of benign configurations, left out together."""

    SHAPE = "batch shapes"
    PREFILL = "prefill in chunks"
    ATTENTION = "attention"
    KERNEL = "kernels"
    DTYPE = "precision"
    MERGED = "adapters merged into the weights"
    RELEASE = "releases of the base"


@dataclass(frozen=True, slots=True)
class Configuration:
    """One benign way to compute the same answers.

    settings: of the runner, those that are others than at enrolment; onednn: its kernels, or the plain ones
    shuffled: replays in another order, so with other neighbours in the batch
    """

    name: str
    kind: Kind
    shape: BatchShape = field(default_factory=BatchShape)
    settings: Mapping[str, Any] = field(default_factory=dict)
    shuffled: bool = False
    onednn: bool = True


@dataclass(frozen=True, slots=True)
class Bench:
    """What is replayed. name: in figures; config: of the runner that the adapters were enrolled with

    releases: of the base, harmless ones; merged: adapter -> the base with it in its weights
    precisions: in which the same base may be served instead
    """

    name: str
    config: in_process.Config
    goldens: Mapping[str, Golden]
    releases: Mapping[str, Path]
    merged: Mapping[str, Path]
    precisions: Sequence[str] = ()


# Adapter -> configuration -> canary of the pool -> its measurement.
Recorded = dict[str, dict[str, Measured]]


def measure(world: World, quick: bool) -> list[Figure]:
    """quick: two adapters of each base of the zoo, and one of the helpdesk's."""
    figures = []
    for members in world.members:
        figures += of_zoo(members[: 2 if quick else None], world.scratch / "benign tier")
    return [*figures, *of_helpdesk(1 if quick else len(ADAPTERS))]


def of_zoo(members: Sequence[Member], scratch: Path) -> list[Figure]:
    """One base of the zoo, enrolled in bfloat16."""
    base, moved = members[0].base, members[0].moved
    releases = {
        "base saved in bfloat16": partial(broken.resaved, base, dtype=torch.bfloat16),
        "base in eight bits": partial(broken.rounded, base, bits=8, group=0),
        **{f"{tune:.0%} of a later tune": partial(broken.towards, base, later=moved, share=tune) for tune in TUNES},
    }
    settings = EnrolSettings(base=members[0].recipe.base, at=0.0, log_threshold=LOG_A)
    with serving(members, dtype="bfloat16") as runner:
        goldens = enrolled(members, runner, settings).goldens
    merged = {member.name: partial(broken.merged, base, adapter=member.folder, share=1.0) for member in members}
    bench = Bench(
        f"zoo in bfloat16, {members[0].recipe.base}",
        _config_of(runner),
        {name: golden for name, golden in goldens.items() if golden.power.monitorable},
        _written(releases, scratch / base.name),
        _written(merged, scratch / base.name / "merged"),
        ("float32", "float16"),
    )
    return [*_figures(bench)]


def of_helpdesk(adapters: int) -> list[Figure]:
    """The shipped adapters on SmolLM2, in float32 as they were enrolled."""
    with tempfile.TemporaryDirectory() as folder:
        stage = set_up(Path(folder) / "world")
        config = write_config(stage, NOWHERE, f"http://{NOWHERE}", 60.0)
        goldens = goldens_of(config, config.models[0])
        releases = {
            "base saved in bfloat16": partial(broken.resaved, stage.base, dtype=torch.bfloat16),
            "base in eight bits": partial(broken.rounded, stage.base, bits=8, group=0),
            **{
                f"{tune:.0%} of a later tune": partial(
                    broken.changed, stage.base, change=partial(merge_lora, adapter=TUNE, share=tune)
                )
                for tune in TUNES
            },
        }
        merged = {
            name: partial(broken.merged, stage.base, adapter=stage.folder / "volume" / "adapters" / name, share=1.0)
            for name in ADAPTERS[:adapters]
        }
        bench = Bench(
            "helpdesk in float32",
            _config_of(runner_of(config, config.models[0])),
            {name: golden for name in ADAPTERS[:adapters] if isinstance(golden := goldens[name], Golden)},
            _written(releases, Path(folder) / "releases"),
            _written(merged, Path(folder) / "merged"),
        )
        return [*_figures(bench)]


def configurations(bench: Bench) -> list[Configuration]:
    """All that is replayed, the first four classes as in the battery of enrolment, and by other kernels."""
    return [
        Configuration("one row", Kind.SHAPE, BatchShape(rows=1)),
        Configuration("four rows", Kind.SHAPE, BatchShape(rows=4)),
        Configuration("other neighbours", Kind.SHAPE, shuffled=True),
        Configuration("padded on the left", Kind.SHAPE, BatchShape(left_pad=True)),
        Configuration("prefill in chunks of 16", Kind.PREFILL, BatchShape(chunk=16)),
        Configuration("prefill in chunks of 7", Kind.PREFILL, BatchShape(chunk=7)),
        Configuration("eager attention", Kind.ATTENTION, settings={"attention": "eager"}),
        Configuration("without oneDNN", Kind.KERNEL, onednn=False),
        Configuration("two threads", Kind.KERNEL, settings={"threads": 2}),
        *(Configuration(dtype, Kind.DTYPE, settings={"dtype": dtype}) for dtype in bench.precisions),
        Configuration("merged", Kind.MERGED),
        *(Configuration(name, Kind.RELEASE, settings={"base": str(base)}) for name, base in bench.releases.items()),
    ]


def record(bench: Bench) -> Recorded:
    """Every canary of every pool once in each configuration."""
    recorded: Recorded = {name: {} for name in bench.goldens}
    for configuration in configurations(bench):
        answers = _merged(bench) if configuration.kind is Kind.MERGED else _replayed(bench, configuration)
        for name, measured in answers.items():
            recorded[name][configuration.name] = measured
        console.print(f"recorded: {configuration.name}")
    return recorded


def _replayed(bench: Bench, configuration: Configuration) -> dict[str, Measured]:
    answers = {}
    with _running(replace(bench.config, **configuration.settings), configuration.onednn) as runner:
        for name, golden in bench.goldens.items():
            order = np.random.default_rng(SEED).permutation(len(golden.pool)) if configuration.shuffled else ()
            canaries = [golden.pool[int(place)] for place in order] or list(golden.pool)
            answers[name] = replayed(runner, name, canaries, Target(name), shape=configuration.shape)
    return answers


def _merged(bench: Bench) -> dict[str, Measured]:
    """Each adapter answered by the base that it is merged into, and the base by the accepted one."""
    shape, bases, answers = BatchShape(), {}, {}
    with _running(bench.config) as runner:
        for name, golden in bench.goldens.items():
            bases[name] = answered(runner, golden.pool, Target(None), shape)
    for name, golden in bench.goldens.items():
        with _running(replace(bench.config, base=str(bench.merged[name]))) as runner:
            answers[name] = compared(name, golden.pool, answered(runner, golden.pool, Target(None), shape), bases[name])
    return answers


def against_others(recorded: Recorded, left_out: Sequence[str], never_enrolled: Sequence[str]) -> Recorded:
    """The configurations left out, with each canary's own floor from all others but those that no battery has: the
    narrowest that enrolment records.
    """
    out: Recorded = {}
    for adapter, by_configuration in recorded.items():
        known = {
            name: tuple(measured.values())
            for name, measured in by_configuration.items()
            if name not in (*left_out, *never_enrolled)
        }
        floors = own_floors(known)
        out[adapter] = {
            name: {canary: with_floor(m, floors) for canary, m in by_configuration[name].items()} for name in left_out
        }
    return out


def count_alarms(scored: Recorded, goldens: Mapping[str, Golden], tolerance: float, rounds: int = ROUNDS) -> int:
    """Alarms at A = 1,000 in so many rounds of all adapters together, restarted at each."""
    tolerances = Tolerances(scale=tolerance)
    every = (m for rows in scored.values() for measured in rows.values() for m in measured.values())
    if not any(beyond_tolerance(m, tolerances) for m in every):
        return 0  # every score would be 0, and the level of zeros stays below 2 nats: no round need be drawn
    detector, alarms = Detector(Config(tolerances)), 0
    rng, drawn = np.random.default_rng(SEED), _Drawn()
    for number in range(math.ceil(rounds / len(goldens))):
        if number % DWELL == 0:
            present = {name: rng.choice(list(scored[name])) for name in goldens}
        members = tuple(_round(golden, scored[name][present[name]], number, drawn) for name, golden in goldens.items())
        for evidence in detector.update(BaseRound("", number, 60.0 * number, members)):
            if evidence.log_e >= math.log(SMALL_A):
                alarms += 1
                detector.restart(evidence.subject)
    return alarms


class _Drawn:
    """Measurements with the number of their draws, each made once."""

    def __init__(self) -> None:
        self._measurements: dict[tuple[int, int], Measurement] = {}

    def __call__(self, measurement: Measurement, times: int) -> Measurement:
        key = (id(measurement), times)
        if key not in self._measurements:
            comparison = replace(measurement.comparison, draws=times)
            self._measurements[key] = replace(measurement, comparison=comparison)
        return self._measurements[key]


def _round(golden: Golden, measured: Measured, number: int, drawn: _Drawn) -> Round:
    measurements = tuple(drawn(measured[canary], times) for canary, times in _draws(golden, number).items())
    return Round(golden.adapter, golden.base, number, 60.0 * number, measurements)


@cache
def _draws(golden: Golden, number: int) -> Mapping[str, int]:
    """The same for every class and tolerance, so that their figures differ by nothing else."""
    return plan_round(golden, BUDGET, SEED, number).draws


def _figures(bench: Bench) -> Iterator[Figure]:
    recorded = record(bench)
    battery = configurations(bench)
    in_no_battery = [c.name for c in battery if c.kind in (Kind.MERGED, Kind.RELEASE)]
    for kind in dict.fromkeys(configuration.kind for configuration in battery):
        left_out = [configuration.name for configuration in battery if configuration.kind is kind]
        scored = against_others(recorded, left_out, in_no_battery)
        yield from _of_class(f"benign tier, {bench.name}, {kind} left out", scored, bench.goldens)
    scored = against_others(recorded, [c.name for c in battery if c.kind is not Kind.SHAPE], ())
    yield from _of_class(f"benign tier, {bench.name}, all but batch shapes left out", scored, bench.goldens)
    n_canaries = sum(len(golden.pool) for golden in bench.goldens.values())
    what = f"benign tier, {bench.name}"
    yield context(f"{what}: distinct benign replays, configurations x canaries", n_canaries * len(battery), "replays")
    yield context(f"{what}: adapters", len(bench.goldens), "")


def _of_class(what: str, scored: Recorded, goldens: Mapping[str, Golden]) -> Iterator[Figure]:
    allowed = ROUNDS / SMALL_A
    alarms = {tolerance: count_alarms(scored, goldens, tolerance) for tolerance in SWEEP}
    for tolerance, count in alarms.items():
        name = f"{what}: alarms at A = {SMALL_A:.0f} in {ROUNDS} rounds, tolerance {100 * tolerance:g} %"
        is_default = tolerance == Tolerances().scale
        yield at_most(name, count, "alarms", allowed) if is_default else context(name, count, "alarms")
    passing = [t for t in SWEEP if all(count <= allowed for larger, count in alarms.items() if larger >= t)]
    least = 100 * min(passing, default=math.inf)
    yield at_most(f"{what}: smallest tolerance that passes", least, "%", 100 * Tolerances().scale)
    off = [abs(m.scale - 1) for rows in scored.values() for measured in rows.values() for m in measured.values()]
    yield context(f"{what}: 95 % of |strength - 1| are below", float(np.quantile(off, 0.95)), "")


@contextmanager
def _running(config: in_process.Config, onednn: bool = True) -> Iterator[Runner]:
    runner = in_process.Runner(config)
    with nullcontext() if onednn else torch.backends.mkldnn.flags(enabled=False):
        runner.open()
        try:
            yield runner
        finally:
            runner.close()


def _config_of(runner: Runner) -> in_process.Config:
    assert isinstance(runner, in_process.Runner), "zoo and helpdesk are run in this process"
    return runner.config


def _written(makers: Mapping[str, Callable[..., Path]], folder: Path) -> dict[str, Path]:
    return {name: make(out=folder / name) for name, make in makers.items()}

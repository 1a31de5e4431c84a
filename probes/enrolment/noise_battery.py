"""The noise battery: how much do the figures of a canary move when nothing is wrong?

Enrolment replays a random sample of the canaries in benign configurations and records how far their figures move. Where
that is little beside the tolerance, the largest of each figure is the noise floor of every canary; where it is not, all
canaries are replayed and each gets its own (docs/mathematics.md#noise-battery). Floors are part of the rule that calls
a canary beyond tolerance: a configuration that is no longer benign widens them, and hides faults of that size in every
record made from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import numpy as np

from detectors.canaries.retention import measure
from detectors.canaries.tolerance import MASS_OUTSIDE, ROUNDING_SHIFT, STRENGTH_PER_SHIFT
from detectors.records import CanarySplit, Comparison, Measurement, NoiseFloor, Reference
from probes.canaries.replay_pairs import Progress, ask_all, replay_pair, summary
from probes.errors import Refused
from probes.golden.record import GoldenCanary
from probes.runner import BatchShape, Listing, Reconfigurable, Runner, Stop

# Change measured from float32 rounding alone, on another kernel or machine than the battery's own: a floor of exactly 0
# would call the last bit a fault. Each is far below any useful tolerance (0.005 and up).
LEAST = NoiseFloor(scale=1e-4, distortion=1e-3, base_shift=ROUNDING_SHIFT)
# The share of what a canary is allowed up to which noise is negligible: it hides no fault worth a page.
NEGLIGIBLE = 0.1
STAGE = "battery"
# Canaries of a battery, half of them from either split.
SAMPLE = 12


@dataclass(frozen=True, slots=True)
class BenignConfiguration:
    """One benign way to compute the same answers.

    shuffled: replays in another order, so with other neighbours in the batch and other padding
    reopen: close and open the runner before; attention, dtype: another kernel or precision, by a second runner ("": the
    same)
    """

    name: str
    shape: BatchShape
    shuffled: bool = False
    reopen: bool = False
    attention: str = ""
    dtype: str = ""

    @property
    def settings(self) -> dict[str, str]:
        """What a second runner is configured with."""
        return {name: value for name in ("attention", "dtype") if (value := getattr(self, name))}


SERVED = (
    BenignConfiguration("asked again", BatchShape()),
    BenignConfiguration("in another order", BatchShape(), shuffled=True),
    BenignConfiguration("beside other requests", BatchShape(beside=2)),
    BenignConfiguration("through the cache of prefixes", BatchShape(warm=True)),
    BenignConfiguration("once more, later", BatchShape()),
)


@dataclass(slots=True)
class SecondRunner:
    """The second runner of a battery, opened at its first use. As a context manager, closed at the end.

    first: whose settings it has, but for those of the configuration
    restarts_once: a single restart of the first one serves all batteries; only where everything that they are compared
    with was recorded before
    """

    first: Runner
    restarts_once: bool = False
    restarted: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    opened: Runner | None = None

    def __enter__(self) -> SecondRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def of(self, configuration: BenignConfiguration) -> Runner:
        """The runner that answers in this configuration. One second runner is open at a time: each holds a base."""
        if configuration.reopen and not (self.restarts_once and self.restarted):
            self.first.close()
            self.first.open()
            self.restarted = True
        if not configuration.settings:
            return self.first
        if self.opened is None or self.settings != configuration.settings:
            self.close()
            assert isinstance(self.first, Reconfigurable), "no other runner is offered such a configuration"
            self.settings, self.opened = configuration.settings, self.first.reconfigured(**configuration.settings)
            self.opened.open()
        else:
            self.opened.refresh()
        return self.opened

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()
            self.opened = None


def configurations(runner: Runner) -> tuple[BenignConfiguration, ...]:
    """The battery for this runner: one pass without a KV cache, chunked prefill, other batches and a restart.

    Another attention kernel only where the base supports one. Another precision only where a CUDA device serves in half
    precision: its kernels round differently by batch and version, and float32 measures how much. An adapter that is
    served in float32 gets no bfloat16 in its battery: that is a loss of precision, and its floor would be wide enough
    to hide small faults.

    A serving engine packs as it likes. It is asked again, in another order, beside other requests, with its cache of
    prefixes, and once more at the end.
    """
    if isinstance(runner, Listing):
        return SERVED
    plain = (
        BenignConfiguration("one row", BatchShape(rows=1)),
        BenignConfiguration("four rows", BatchShape(rows=4)),
        BenignConfiguration("other neighbours", BatchShape(rows=8), shuffled=True),
        BenignConfiguration("padded on the left", BatchShape(left_pad=True)),
        BenignConfiguration("prefill in chunks of 16", BatchShape(chunk=16)),
        BenignConfiguration("after a restart", BatchShape(), reopen=True),
    )
    return (*plain, *(_by_second_runner(runner) if isinstance(runner, Reconfigurable) else ()))


def _by_second_runner(runner: Reconfigurable) -> Iterator[BenignConfiguration]:
    if kernel := runner.other_attention():
        yield BenignConfiguration(f"{kernel} attention", BatchShape(), attention=kernel)
    if served := runner.half_precision():
        yield BenignConfiguration(f"float32 instead of {served}", BatchShape(), dtype="float32")


def replay_battery(
    runner: Runner,
    adapter: str,
    canaries: Sequence[GoldenCanary],
    progress: Progress,
    stop: Stop,
    names: Sequence[str] = (),
    second: SecondRunner | None = None,
) -> dict[str, tuple[Measurement, ...]]:
    """Configuration name -> a measurement of each of these canaries in it.

    names: of the configurations to replay, all of them when empty; each costs two passes over these canaries
    second: stays open; None for one that is closed at the end
    Raises Unreplayable when it was stopped, Refused for numbers that are not finite.
    """
    battery = _named(configurations(runner), names)
    results = {}
    with nullcontext(second) if second else SecondRunner(runner) as other:
        for done, configuration in enumerate(battery):
            progress(STAGE, done, len(battery))
            computing = other.of(configuration)
            results[configuration.name] = measured_in(computing, adapter, canaries, configuration, stop)
    progress(STAGE, len(battery), len(battery))
    return results


def _named(battery: Sequence[BenignConfiguration], names: Sequence[str]) -> list[BenignConfiguration]:
    all_names = [configuration.name for configuration in battery]
    unknown = set(names) - set(all_names)
    if unknown:
        raise Refused("configurations of the battery", ", ".join(sorted(unknown)), f"some of {', '.join(all_names)}")
    return [configuration for configuration in battery if not names or configuration.name in names]


def sampled(references: Sequence[Reference], count: int, seed: int) -> list[int]:
    """Which canaries are replayed in the battery: ascending indices of a random sample, half of it from either split.

    count: of the sample; of a split that has fewer than half of it, all are taken
    """
    rng = np.random.default_rng([seed, 2])
    chosen: list[int] = []
    for split in CanarySplit:
        of_split = [index for index, reference in enumerate(references) if reference.split is split]
        chosen += rng.permutation(of_split)[: (count + 1) // 2].tolist()
    return sorted(chosen)


def pooled_floor(results: Mapping[str, Sequence[Measurement]], without: str = "") -> NoiseFloor:
    """The noise floor of every canary where noise is negligible: the largest figures of any replay of the battery.

    results: configuration -> measurements of a random sample of the canaries
    without: a configuration to leave out, so that it can be tested against a floor that it did not contribute to

    Null hypothesis: nothing is wrong. Guarantee: a further canary that is exchangeable with the n of the sample exceeds
    the floor in these configurations with chance 1/(n + 1) at most for each figure, and so does a further configuration
    that is exchangeable with n others, on the sample; both together with chance 1/(n + 1), n being the smaller number
    of the two. What breaks it: canaries that were picked for their noise, and
    configurations unlike those of the battery. Source: docs/mathematics.md#noise-battery.
    """
    return _largest([LEAST, *(largest(measurements) for measurements in _but(results, without).values())])


def negligible(floor: NoiseFloor, tolerance: float) -> bool:
    """Is this floor at most a tenth of what a canary is allowed, so that it may be that of every canary?

    tolerance: on |s - 1| and sqrt(rho). A base shift counts by what it adds to that.
    """
    little = NEGLIGIBLE * tolerance
    shift = (little / STRENGTH_PER_SHIFT) ** 2
    most = NoiseFloor(*map(max, (little, little, shift), (LEAST.scale, LEAST.distortion, LEAST.base_shift)))
    within = floor.scale <= most.scale and floor.distortion <= most.distortion and floor.base_shift <= most.base_shift
    return within and floor.mass_outside <= NEGLIGIBLE * MASS_OUTSIDE


def own_floors(results: Mapping[str, Sequence[Measurement]], without: str = "") -> dict[str, NoiseFloor]:
    """Canary -> the largest figures of its own replays, where noise is not negligible.

    results: configuration -> measurements of all canaries; without: as for ``pooled_floor``

    Null hypothesis: nothing is wrong. Guarantee: a further configuration that is exchangeable with the n of the battery
    exceeds the floor with chance 1/(n + 1) at most for each canary and figure. What breaks it: a configuration unlike
    those of the battery. Source: docs/mathematics.md#noise-battery.
    """
    by_canary: dict[str, list[NoiseFloor]] = {}
    for measurements in _but(results, without).values():
        for measurement in measurements:
            by_canary.setdefault(measurement.comparison.reference.canary, [LEAST]).append(moved(measurement))
    return {canary: _largest(floors) for canary, floors in by_canary.items()}


def _but(results: Mapping[str, Sequence[Measurement]], without: str) -> dict[str, Sequence[Measurement]]:
    if without and without not in results:
        raise Refused("configuration to leave out", without, f"one of {', '.join(results)}")
    return {name: measurements for name, measurements in results.items() if name != without}


def largest(measurements: Sequence[Measurement]) -> NoiseFloor:
    """The largest figures of any canary in one configuration."""
    return _largest([moved(measurement) for measurement in measurements])


def moved(measurement: Measurement) -> NoiseFloor:
    """How far one benign replay is from the golden one. distortion: the square root of rho."""
    distortion = max(measurement.distortion, 0.0) ** 0.5
    return NoiseFloor(abs(measurement.scale - 1), distortion, measurement.base_shift, measurement.mass_outside)


def _largest(floors: Sequence[NoiseFloor]) -> NoiseFloor:
    return NoiseFloor(*(max(getattr(floor, name) for floor in floors) for name in NoiseFloor.__slots__))


def measured_in(
    runner: Runner, adapter: str, canaries: Sequence[GoldenCanary], configuration: BenignConfiguration, stop: Stop
) -> tuple[Measurement, ...]:
    """A measurement of each canary in this configuration. Raises as ``replay_battery`` does."""
    pairs = [replay_pair(canary, adapter) for canary in canaries]
    replays = [replay for pair in pairs for replay in pair.replays]
    if configuration.shuffled:
        order = np.random.default_rng(0).permutation(len(replays))
        replays = [replays[int(index)] for index in order]
    answers = ask_all(runner, replays, stop, configuration.shape)
    measurements = []
    for pair in pairs:
        served, live_base = (summary(answers[replay]) for replay in pair.replays)
        measurements.append(measure(Comparison(adapter, pair.canary.reference, 1, served, live_base, 0.0)))
    if not all(measurement.finite for measurement in measurements):
        raise Refused(f"battery, {configuration.name}", "NaN or infinite log-probabilities", "finite numbers")
    return tuple(measurements)

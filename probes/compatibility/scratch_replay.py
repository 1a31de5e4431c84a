"""How much of an adapter is left on a base, measured: its canaries on the base it was accepted on, then on the new one.

Both bases are loaded one after the other, into this process alone, and nothing is recorded: the reference is made for
this one comparison, without the noise battery that enrolment has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from detectors.canaries.mean_interval import mean_interval
from detectors.canaries.retention import measure
from detectors.canaries.tolerance import Tolerances, beyond_tolerance
from detectors.records import Comparison, Interval, Measurement, NamedCause, Summary
from probes.canaries.canary_file import Canary
from probes.canaries.replay_pairs import ask_all, summary
from probes.enrolment.candidates import continue_greedily, golden_sides
from probes.enrolment.noise_battery import LEAST as ROUNDING
from probes.errors import Unreplayable
from probes.golden.record import GoldenCanary, tokenizer_fingerprint
from probes.golden.statistical_power import strong_enough
from probes.runner import BatchShape, Replay, Runner, Target
from probes.runners import in_process

NAME = "adapter"
# Strengths beside 0 and 1 at which the adapter's effect is recorded, so that another strength is read off.
STRENGTHS = (0.5, 1.5, 2.0)
TOP, FEWEST_TOKENS, MOST_TOKENS, LEAST_ENERGY = 20, 6, 40, 0.01
ROWS = BatchShape(rows=16)


@dataclass(frozen=True, slots=True)
class Reference:
    """canaries: with the answers of adapter and base as accepted; tokenizer: fingerprint of the accepted one

    excluded: canary id -> why it is not measured
    """

    canaries: tuple[GoldenCanary, ...]
    tokenizer: str
    excluded: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class MeasuredLoss:
    """retention, strength: with their 95 % intervals over canaries; beyond: canaries beyond tolerance

    flipped: canaries whose answer has another most probable token somewhere; cause: of a loss, None where none was
    looked for
    """

    retention: Interval
    strength: Interval
    beyond: tuple[str, ...]
    flipped: tuple[str, ...]
    facts: tuple[str, ...] = ()
    cause: NamedCause | None = None

    @property
    def canaries(self) -> int:
        return self.retention.n

    def is_lost(self, tolerances: Tolerances) -> bool | None:
        """None where the interval of retention holds what is tolerated, or too few canaries say so.

        Not lost takes that the whole interval is within tolerance and that no larger share of canaries is beyond it
        than tolerated; lost, that the whole interval is below.
        """
        least = 1.0 - tolerances.scale
        if self.retention.high < least:
            return True
        few_beyond = len(self.beyond) <= tolerances.share * self.canaries
        return False if self.retention.low >= least and few_beyond else None


@contextmanager
def scratch_runner(base: Path, adapter: Path, cache_dir: Path) -> Iterator[in_process.Runner]:
    """A runner over these files, open. Raises Unreplayable where the base or the adapter cannot be loaded."""
    config = in_process.Config(str(base), {NAME: str(adapter)}, cache_dir=str(cache_dir), max_batch_tokens=4096)
    runner = in_process.Runner(config)
    runner.open()
    try:
        blocked = {name: ready for name, ready in runner.refresh().items() if ready.blocked is not None}
        for name, ready in blocked.items():
            raise Unreplayable(str(base if name is None else adapter), ready.detail or str(ready.blocked))
        yield runner
    finally:
        runner.close()


def reference(runner: Runner, canaries: Sequence[Canary], most: int = 48) -> Reference:
    """What adapter and base answer now, on the canaries on which the adapter has an effect.

    most: canaries that are kept, the first ones. Raises Unreplayable without two.
    """
    bounds = FEWEST_TOKENS, MOST_TOKENS
    candidates, excluded = continue_greedily(runner, NAME, canaries, bounds, _never)
    drafts = golden_sides(runner, NAME, candidates[:most], TOP, _never)
    strong = [draft for draft in drafts if strong_enough(draft.reference, LEAST_ENERGY)]
    excluded |= {draft.id: "the adapter hardly differs from its base" for draft in drafts if draft not in strong}
    if len(strong) < 2:
        raise Unreplayable(
            "canaries", f"{len(strong)} of {len(canaries)} show an effect of the adapter: two are needed"
        )
    return Reference(_with_strengths(runner, strong), tokenizer_fingerprint(runner), excluded)


def measured_loss(runner: Runner, accepted: Reference, tolerances: Tolerances | None = None) -> MeasuredLoss:
    """The same canaries on the runner's base. Raises Unreplayable where its tokenizer is another one: the same token
    ids would stand for other text, and retention is not defined."""
    return summed_up(measurements(runner, accepted), tolerances, runner.facts(NAME))


def measurements(runner: Runner, accepted: Reference) -> list[Measurement]:
    """Each canary under adapter and base as they are now. Raises as ``measured_loss`` does."""
    if tokenizer_fingerprint(runner) != accepted.tokenizer:
        raise Unreplayable("tokenizer", "is another one than the accepted base's: retention is not defined across them")
    served, live = (_answers(runner, accepted.canaries, target) for target in (Target(NAME), Target(None)))
    return [
        measure(Comparison(NAME, canary.reference, 1, served[canary.id], live[canary.id], 0.0))
        for canary in accepted.canaries
    ]


def summed_up(
    measured: Sequence[Measurement], tolerances: Tolerances | None = None, facts: tuple[str, ...] = ()
) -> MeasuredLoss:
    """One loss of all canaries together. Where no number came out of the model, nothing is left of the adapter."""
    allowed, broken = tolerances or Tolerances(), [m for m in measured if not m.finite]
    if broken:
        facts = (*facts, f"{len(broken)} of {len(measured)} canaries are answered with numbers that are not finite")
    return MeasuredLoss(
        mean_interval([m.retention if m.finite else 0.0 for m in measured]),
        mean_interval([m.scale if m.finite else 0.0 for m in measured]),
        tuple(m.comparison.reference.canary for m in measured if beyond_tolerance(m, allowed)),
        tuple(m.comparison.reference.canary for m in measured if _is_flipped(m)),
        facts,
    )


def _is_flipped(measurement: Measurement) -> bool:
    comparison = measurement.comparison
    return bool(np.any(comparison.served.top1 != comparison.reference.golden_adapter.top1))


def _with_strengths(runner: Runner, drafts: Sequence[GoldenCanary]) -> tuple[GoldenCanary, ...]:
    """With the curve of the adapter's effect over its strength, and the noise that rounding alone makes."""
    curves = {scale: _answers(runner, drafts, Target(NAME, scale=scale)) for scale in STRENGTHS}
    out = []
    for draft in drafts:
        by_scale = dict(zip((0.0, 1.0), draft.reference.curve, strict=True))
        by_scale |= {scale: curves[scale][draft.id].log_probs for scale in STRENGTHS}
        scales = sorted(by_scale)
        curve = np.stack([by_scale[scale] for scale in scales])
        recorded = replace(draft.reference, scales=np.array(scales, np.float32), curve=curve, noise=ROUNDING)
        out.append(replace(draft, reference=recorded))
    return tuple(out)


def _answers(runner: Runner, canaries: Sequence[GoldenCanary], target: Target) -> dict[str, Summary]:
    replays = [Replay(c.id, c.prompt, c.forced, target, c.reference.kept) for c in canaries]
    answers = ask_all(runner, replays, _never, ROWS)
    return {replay.canary: summary(answers[replay]) for replay in replays}


def _never() -> bool:
    return False

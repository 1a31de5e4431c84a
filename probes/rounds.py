"""One replay round of one base: every adapter's canaries, asked now, measured against what was accepted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from detectors.measure import measure
from detectors.records import BaseRound, Identity, Measurement, Reason, Round
from probes.answers import Pair, ask, pair, summary
from probes.errors import ProbeError, Refused, Unreplayable, Unsupported
from probes.golden import Golden, Refusal, check_identity, compare
from probes.replay import Readiness, Replay, Replayed, Runner, Stop, Target
from probes.schedule import plan


class Flip(NamedTuple):
    """A canary whose greedy answer is no longer the golden one; retention: of it in the round that was looked at."""

    canary: str
    prompt_text: str
    golden_text: str
    present_text: str
    retention: float


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """One adapter's part of the round: how often each pair was drawn (0: held out), and how to say who it is."""

    golden: Golden
    pairs: tuple[tuple[Pair, int], ...]
    identity: Identity
    facts: tuple[str, ...]

    @property
    def replays(self) -> list[Replay]:
        return [replay for one, _ in self.pairs for replay in one.replays]


@dataclass(frozen=True, slots=True)
class _When:
    """What all members of a base round share."""

    base: str
    number: int
    at: float


def replay_base_round(
    runner: Runner,
    base: str,
    goldens: Mapping[str, Golden | Refusal],
    number: int,
    at: float,
    budget: int,
    seed: int,
    stop: Stop,
) -> BaseRound | None:
    """All canaries of one base's adapters in one scheduled round; None when it was stopped: half a round is no round.

    goldens: adapter -> its golden record, or why there is none, in the order of the config
    budget: scored positions per adapter; at: seconds since the epoch; number, at, seed: fix which canaries are drawn

    Nothing that goes wrong with one adapter silences another: it becomes a blocked Round with a reason in words.
    ``tokens_scored`` counts each position of each replayed canary once, though adapter and base both answer it;
    ``tokens_processed`` counts every token that went through the model: prompts, and forced tokens but the last.
    """
    started = time.monotonic()
    when = _When(base, number, at)
    readiness = runner.refresh()
    asked: dict[str, _Asked] = {}
    blocked: dict[str, Round] = {}
    for adapter, golden in goldens.items():
        part = _part(runner, adapter, golden, readiness, budget, seed, when)
        if isinstance(part, Refusal):
            identity = _identity(runner, adapter, golden) if adapter in readiness else Identity()
            blocked[adapter] = _blocked(adapter, when, part, identity)
        else:
            asked[adapter] = part
    answers, failures = _answers(runner, asked, stop)
    if stop():
        return None
    measured = {
        adapter: _blocked(adapter, when, failures[adapter], part.identity, part.facts)
        if adapter in failures
        else _measured(adapter, when, part, answers)
        for adapter, part in asked.items()
    }
    members = tuple((blocked | measured)[adapter] for adapter in goldens)
    scored = sum(len(one.canary.forced) for part in asked.values() for one, _ in part.pairs if one.adapter in answers)
    processed = sum(len(replay.prompt) + len(replay.forced) - 1 for replay in answers)
    return BaseRound(base, number, at, members, scored, processed, time.monotonic() - started)


def flips(runner: Runner, round: Round, goldens: Mapping[str, Golden | Refusal], worst: int, stop: Stop) -> list[Flip]:
    """The worst canaries of a round, answered greedily once more, where the text is another one now.

    worst: how many to try, furthest from their golden strength first. Fewer come back when it is stopped or the
    files went away: this illustrates a verdict and decides nothing.
    """
    golden = goldens.get(round.adapter)
    if not isinstance(golden, Golden):
        return []
    known = {canary.id: canary for canary in golden.canaries}
    found = []
    for measurement in sorted(round.measurements, key=_damage, reverse=True)[:worst]:
        if stop():
            break
        canary = known.get(measurement.comparison.reference.canary)
        if canary is None:  # another record was accepted since
            continue
        # As many tokens as the golden answer and a few more: enough to see that it is another one, and what it says.
        try:
            ids = runner.generate(Target(round.adapter), canary.prompt, len(canary.forced) + 16, stop)
            present = runner.decode(ids)
        except ProbeError:
            break
        if present != canary.golden_text:
            flip = Flip(canary.id, canary.prompt_text, canary.golden_text, present, measurement.retention)
            found.append(flip)
    return found


def _damage(measurement: Measurement) -> float:
    """Far from strength 1 in either direction, or far off the adapter's own direction."""
    return float(max(abs(measurement.scale - 1), measurement.distortion**0.5))


def _part(
    runner: Runner,
    adapter: str,
    golden: Golden | Refusal,
    readiness: Mapping[str | None, Readiness],
    budget: int,
    seed: int,
    when: _When,
) -> _Asked | Refusal:
    if isinstance(golden, Refusal):
        return golden
    for name in (None, adapter):
        ready = readiness.get(name, Readiness(Reason.UNREADABLE, f"the runner knows no {name or 'base'}"))
        if ready.blocked:
            return Refusal(ready.blocked, ready.detail)
    if not golden.power.monitorable:
        return Refusal(Reason.NO_POWER, golden.power.words)
    try:
        changes = check_identity(golden, runner)
        drawn = plan(golden, budget, seed, when.number, round(1000 * when.at))
    except Refused as error:
        return Refusal(Reason.GOLDEN_REFUSED, str(error))
    counts = {**drawn.draws, **dict.fromkeys(drawn.held_out, 0)}
    pairs = tuple((pair(golden.canary(name), adapter), times) for name, times in counts.items())
    facts = (*runner.facts(adapter), *changes)
    return _Asked(golden, pairs, _identity(runner, adapter, golden), facts)


def _identity(runner: Runner, adapter: str, golden: Golden | Refusal) -> Identity:
    """What was accepted, by the golden record, beside what lies there now."""
    if isinstance(golden, Refusal):
        return Identity()
    return replace(runner.identity(adapter), golden_base=golden.base_hash, golden_adapter=golden.adapter_hash)


def _answers(
    runner: Runner, asked: Mapping[str, _Asked], stop: Stop
) -> tuple[dict[Replay, Replayed], dict[str, Refusal]]:
    """Everybody's answers in one batched pass; where that fails, one by one, so that only the culprit is blind."""
    try:
        return ask(runner, [replay for part in asked.values() for replay in part.replays], stop), {}
    except (Unreplayable, Unsupported) as error:
        joint = str(error)  # the words alone: the error's frames hold the tensors that there may be no room for twice
    # One look only: a second one at once would take files that are being written for files at rest.
    readiness = runner.refresh()
    answers: dict[Replay, Replayed] = {}
    failures: dict[str, Refusal] = {}
    for adapter, part in asked.items():
        failed = _why_not_again(runner, adapter, part, readiness)
        if failed is None and len(asked) == 1:
            failed = Refusal(Reason.REPLAY_FAILED, joint)
        if failed is None:
            try:
                answers |= ask(runner, part.replays, stop)
            except (Unreplayable, Unsupported) as error:
                failed = Refusal(Reason.REPLAY_FAILED, str(error))
        if failed is not None:
            failures[adapter] = failed
    return answers, failures


def _why_not_again(
    runner: Runner, adapter: str, part: _Asked, readiness: Mapping[str | None, Readiness]
) -> Refusal | None:
    """Did the files move under the replay?"""
    for name in (None, adapter):
        ready = readiness.get(name, Readiness())
        if ready.blocked:
            return Refusal(ready.blocked, ready.detail)
    if _identity(runner, adapter, part.golden) != part.identity:
        return Refusal(Reason.FILES_CHANGING, "the files changed while they were replayed")
    return None


def _blocked(adapter: str, when: _When, why: Refusal, identity: Identity, facts: tuple[str, ...] = ()) -> Round:
    return Round(adapter, when.base, when.number, when.at, (), identity, facts, why.reason, why.detail)


def _measured(adapter: str, when: _When, part: _Asked, answers: Mapping[Replay, Replayed]) -> Round:
    measurements = tuple(_measurement(adapter, one, times, answers, when.at) for one, times in part.pairs)
    bad = _not_finite(measurements)
    if bad:
        detail = (
            f"NaN or infinite log-probabilities on {len(bad)} of {len(measurements)} canaries: {', '.join(bad[:5])}"
        )
        return _blocked(adapter, when, Refusal(Reason.BAD_NUMBERS, detail), part.identity, part.facts)
    return Round(adapter, when.base, when.number, when.at, measurements, part.identity, part.facts)


def _measurement(adapter: str, one: Pair, times: int, answers: Mapping[Replay, Replayed], at: float) -> Measurement:
    served, live_base = (summary(answers[replay]) for replay in one.replays)
    return measure(compare(one.canary, times, served, live_base, adapter, at))


def _not_finite(measurements: Sequence[Measurement]) -> list[str]:
    return [one.comparison.reference.canary for one in measurements if not one.finite]

"""Measures an adapter's worth with the models of a configuration: canaries answered by it and by its base alone, with
and without examples. Imports the model libraries when it is called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from agent.config import Adapter, Config, Model
from agent.economics.worth_file import MeasuredWorth, Prompted
from agent.errors import Refused
from agent.lifecycle.candidates import accepted_files, recorded, runner_over
from agent.lifecycle.holdings import Holdings
from agent.worker.watched_bases import runner_of
from detectors.economics.worth import Assessment, CheckedAnswers, Passes, WorthRules, assess
from probes.artefacts.base_files import resolve
from probes.canaries.replay_pairs import Progress
from probes.errors import Unreplayable
from probes.golden.record import Golden, GoldenCanary
from probes.runner import Runner, Stop
from probes.worth.checked_answers import (
    Written,
    accepted_passes,
    checked_canaries,
    examples,
    possible_examples,
    written,
)


@dataclass(frozen=True, slots=True)
class WorthWish:
    """examples: how many are put before a request, each a measurement of its own; base: folder of another base than the
    configured one, "" for none; at: now, seconds since the epoch"""

    at: float
    examples: tuple[int, ...] = ()
    base: str = ""
    rules: WorthRules = field(default_factory=WorthRules)


@dataclass(frozen=True, slots=True)
class WorthFound:
    """file: what is written; assessment: the same with its intervals

    possible: examples that the record has, where fewer than were wanted; None where all were tried
    """

    file: MeasuredWorth
    assessment: Assessment
    possible: int | None = None


def measure_worth(config: Config, name: str, wish: WorthWish, stop: Stop, progress: Progress) -> WorthFound:
    """Raises Refused without a golden record or checks, and Unreplayable where base or adapter cannot be asked."""
    model, adapter = config.adapter(name)
    held, golden = recorded(config, name, model, adapter)
    canaries = checked_canaries(golden)
    if not canaries:
        wanted = "canaries with `expect` (a check of their own), and gapwatch enrol --replace: worth is what they say"
        raise Refused(f"worth of {name}", "no canary whose golden answer can be checked", wanted)
    possible = len(possible_examples(golden))
    with ExitStack() as closing:
        runner = _open(_runner(config, model, adapter, held, wish.base), closing)
        _check_ready(runner, name)
        own = written(runner, name, canaries, stop, progress)
        base = written(runner, None, canaries, stop, progress)
        identity = runner.identity(name, golden.hash_scheme)
        counts = [count for count in wish.examples if count <= possible]
        prompted = _prompted(runner, golden, canaries, base, counts, stop, progress)
    accepted = np.asarray([accepted_passes(canary) for canary in canaries], bool)
    same_base = bool(golden.base_hash) and identity.live_base == golden.base_hash
    before = base.passes if same_base else _before(config, held, canaries, stop, progress)
    assessment = assess(CheckedAnswers(accepted, own.passes, base.passes, before), wish.rules)
    base_name = Path(wish.base).name if wish.base else model.name
    held_out = _held_out(golden, canaries)
    file = _file(name, base_name, golden, assessment, wish.at).model_copy(
        update={
            "base_hash": identity.live_base,
            "adapter_held_out": int(own.passes[held_out].sum()),
            "prompted": prompted,
        }
    )
    return WorthFound(file, assessment, possible if len(counts) < len(wish.examples) else None)


def _runner(config: Config, model: Model, adapter: Adapter, held: Holdings, base: str) -> Runner:
    """Over files where there are any, else over the engine; over another base the adapter's accepted files."""
    if base:
        return runner_over(
            config, resolve(base, config.probes.cache_dir), {adapter.name: accepted_files(held, adapter)}
        )
    if model.path is not None and adapter.path is not None:
        return runner_over(config, resolve(model.path, config.probes.cache_dir), {adapter.name: adapter.path})
    return runner_of(config, model, golden=False)


def _open(runner: Runner, closing: ExitStack) -> Runner:
    runner.open()
    closing.callback(runner.close)
    return runner


def _check_ready(runner: Runner, name: str | None) -> None:
    readiness = runner.refresh()
    for part in {None, name}:
        if part not in readiness or readiness[part].blocked:
            raise Unreplayable(part or "the base", readiness[part].detail if part in readiness else "not registered")


def _before(
    config: Config, held: Holdings, canaries: Sequence[GoldenCanary], stop: Stop, progress: Progress
) -> Passes | None:
    """Of the accepted base without the adapter, where its copy is kept."""
    if held.base_copy is None:
        return None
    with ExitStack() as closing:
        runner = _open(runner_over(config, held.base_copy, {}), closing)
        _check_ready(runner, None)
        return written(runner, None, canaries, stop, progress).passes


def _prompted(
    runner: Runner,
    golden: Golden,
    canaries: Sequence[GoldenCanary],
    alone: Written,
    counts: Sequence[int],
    stop: Stop,
    progress: Progress,
) -> tuple[Prompted, ...]:
    """The base with so many examples, the fewest first, and with none; on the held-out half. alone: with none, on all
    canaries"""
    if not counts:
        return ()
    held_out = _held_out(golden, canaries)
    own = [canary for canary, is_held_out in zip(canaries, held_out, strict=True) if is_held_out]
    done = [Prompted(examples=0, checked=len(own), right=int(alone.passes[held_out].sum()), extra_tokens=0.0)]
    plain = alone.prompt_tokens[held_out]
    for count in sorted(set(counts)):
        answers = written(runner, None, own, stop, progress, examples(golden, count))
        extra = float(np.mean(answers.prompt_tokens - plain)) if own else 0.0
        done.append(Prompted(examples=count, checked=len(own), right=int(answers.passes.sum()), extra_tokens=extra))
    return tuple(done)


def _held_out(golden: Golden, canaries: Sequence[GoldenCanary]) -> Passes:
    own = {canary.id for canary in golden.held_out}
    return np.asarray([canary.id in own for canary in canaries], bool)


def _file(name: str, base: str, golden: Golden, assessment: Assessment, at: float) -> MeasuredWorth:
    original = assessment.original
    return MeasuredWorth(
        adapter=name,
        base=base,
        at=datetime.fromtimestamp(at, UTC).replace(microsecond=0),
        golden=golden.hash,
        worth=assessment.worth,
        checked=assessment.checked,
        accepted_right=assessment.accepted_right,
        adapter_right=assessment.adapter_right,
        base_right=assessment.base_right,
        gain=assessment.gain.mean,
        gain_low=assessment.gain.low,
        gain_high=assessment.gain.high,
        base_loss=assessment.base_loss if assessment.accepted_right else None,
        base_loss_high=assessment.base_loss_high,
        original_gain=original.mean if original else None,
        original_low=original.low if original else None,
        original_high=original.high if original else None,
    )

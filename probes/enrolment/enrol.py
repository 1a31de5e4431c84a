"""Enrolment: record what an adapter does on its canaries today, how much is noise, and whether a loss would show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from detectors.records import CanarySplit, NoiseFloor
from probes.canaries.answer_check import checked
from probes.canaries.canary_file import CanarySet
from probes.canaries.replay_pairs import Progress
from probes.canaries.schedule import sizes
from probes.enrolment.fault_signatures import Signed, with_signatures
from probes.enrolment.noise_battery import largest, noise_floors, replay_battery
from probes.enrolment.pool import EnrolmentContext, halved, usable
from probes.enrolment.scale_curve import strengths, with_curve
from probes.enrolment.settings import EnrolSettings as EnrolSettings
from probes.errors import Refused, Unreplayable
from probes.golden.codec import from_bytes, to_bytes
from probes.golden.power import Fleet, power
from probes.golden.record import Golden, GoldenCanary, tokenizer_fingerprint
from probes.runner import LoraSettings, Runner, Stop

SAID_ELSEWHERE = ("base", "at", "tolerances", "why", "previous")


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

    Each canary's own check is read once here, so that one of a wrong form is refused before the long part.
    Raises Refused, in words, for an adapter that did not load whole, for numbers that are not finite, for too few
    usable canaries and for an adapter that cannot be told from its base; Unreplayable when files move or when stopped.
    """
    for canary in canaries.canaries:
        checked(canary.expect)
    others = _ready(runner, adapter, others)
    before = runner.identity(adapter)
    asked = EnrolmentContext(runner, adapter, others, progress, stop)
    found = halved(asked, usable(asked, canaries, settings), settings)
    drawn, held = (_lengths(found.usable, half) for half in (CanarySplit.SELECTED, CanarySplit.HELD_OUT))
    draws_per_round = sizes(drawn, held, settings.token_budget)[0]
    rank, alpha = _rank_and_alpha(runner, adapter)
    drafts = with_curve(runner, adapter, found.usable, strengths(rank), others, progress, stop)
    signed = Signed(drafts, ())
    if settings.signatures:
        signed = with_signatures(runner, adapter, drafts, others, progress, stop)
    battery = replay_battery(runner, adapter, drafts, progress, stop, settings.battery)
    if runner.identity(adapter) != before:
        raise Unreplayable(adapter, "its files or those of its base changed during the enrolment: start it again")
    final = _with_noise(signed.canaries, noise_floors(battery))
    pool = [canary.reference for canary in final if canary.half is CanarySplit.SELECTED]
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
        unrecorded=signed.unrecorded,
        hash_scheme=before.scheme,
        tokenizer_files_hash=before.live_tokenizer,
        template_hash=before.live_template,
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
    """Of the LoRA; 0 and 0 where the runner does not know them."""
    return runner.rank_and_alpha(adapter) if isinstance(runner, LoraSettings) else (0, 0.0)


def _lengths(canaries: Sequence[GoldenCanary], half: CanarySplit) -> list[int]:
    return [len(canary.forced) for canary in canaries if canary.half is half]


def _with_noise(canaries: Sequence[GoldenCanary], floors: Mapping[str, NoiseFloor]) -> tuple[GoldenCanary, ...]:
    return tuple(replace(one, reference=replace(one.reference, noise=floors[one.id])) for one in canaries)

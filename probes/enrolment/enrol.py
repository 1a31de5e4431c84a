"""Enrolment: record what an adapter does on its canaries today, how much is noise, and whether a loss would show.

One function a step, in ``_record_all``. Every random choice is seeded by ``EnrolSettings.seed``, so that an enrolment
can be repeated; a change here changes which canaries later records hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from detectors.records import CanarySplit, Identity, Measurement, NoiseFloor
from probes.canaries.answer_check import checked
from probes.canaries.canary_file import CanarySet
from probes.canaries.replay_pairs import Progress
from probes.canaries.schedule import mean_tokens, sizes
from probes.enrolment.candidates import unchecked
from probes.enrolment.fault_signatures import RecordedSignatures, with_signatures
from probes.enrolment.noise_battery import largest, noise_floors, replay_battery
from probes.enrolment.pool import assign_splits, usable_canaries
from probes.enrolment.scale_curve import strengths, with_curve
from probes.enrolment.settings import EnrolmentContext
from probes.enrolment.settings import EnrolSettings as EnrolSettings
from probes.errors import Refused, Unreplayable
from probes.golden.codec import from_bytes, to_bytes
from probes.golden.record import Golden, GoldenCanary, tokenizer_fingerprint
from probes.golden.statistical_power import AlarmSettings, statistical_power
from probes.runner import LoraSettings, Runner, Stop

# Settings that the record holds in fields of their own.
STORED_ELSEWHERE = ("base", "at", "tolerances", "why", "previous")


@dataclass(frozen=True, slots=True, eq=False)
class _Recording:
    """What the steps of one enrolment recorded.

    canaries: with split, scale curve, signatures and noise floors; rank, alpha: of the LoRA, 0 where unknown
    battery: benign configuration -> its measurements; draws_per_round: canary draws that the token budget holds
    excluded, unrecorded: the canaries, and the signatures and checks, that are missing, and why
    """

    canaries: tuple[GoldenCanary, ...]
    rank: int
    alpha: float
    battery: Mapping[str, tuple[Measurement, ...]]
    draws_per_round: int
    excluded: Mapping[str, str]
    unrecorded: tuple[str, ...]


def enrol(
    runner: Runner,
    adapter: str,
    canaries: CanarySet,
    settings: EnrolSettings,
    others: Sequence[str],
    progress: Progress,
    stop: Stop,
) -> Golden:
    """The golden record of an adapter under the files that are in place now; not yet written to a folder.

    others: names of the other registered adapters, recorded on these canaries so that a mix-up can be named
    progress: called with (stage, done, total); stop: looked at between batches

    Raises Refused, in words, for a canary whose own check has a wrong form, an adapter that did not load whole, numbers
    that are not finite, too few usable canaries and an adapter that cannot be distinguished from its base; Unreplayable
    when files change or when stopped.
    """
    _check_expectations(canaries)
    context = EnrolmentContext(runner, adapter, _ready(runner, adapter, others), progress, stop)
    accepted = runner.identity(adapter)
    recording = _record_all(context, canaries, settings)
    if runner.identity(adapter) != accepted:
        raise Unreplayable(adapter, "its files or those of its base changed during the enrolment: start it again")
    golden = _golden(context, accepted, canaries.content_hash, settings, recording)
    # The record that is judged against in memory is bit for bit the one that a later process reads.
    return from_bytes(to_bytes(golden))


def _record_all(context: EnrolmentContext, canaries: CanarySet, settings: EnrolSettings) -> _Recording:
    """Pool, scale curve, signatures, noise battery: each step adds to the canaries of the step before."""
    selection = assign_splits(context, usable_canaries(context, canaries, settings), settings)
    draws_per_round = _draws_per_round(selection.canaries, settings.token_budget)
    rank, alpha = _rank_and_alpha(context.runner, context.adapter)
    drafts = with_curve(context, selection.canaries, strengths(rank))
    signatures = with_signatures(context, drafts) if settings.signatures else RecordedSignatures(drafts, ())
    battery = replay_battery(context.runner, context.adapter, drafts, context.progress, context.stop, settings.battery)
    final = _with_noise(signatures.canaries, noise_floors(battery))
    unrecorded = (*signatures.unrecorded, *unchecked(final, settings.max_new_tokens))
    return _Recording(final, rank, alpha, battery, draws_per_round, selection.excluded, unrecorded)


def _golden(
    context: EnrolmentContext, accepted: Identity, canary_set: str, settings: EnrolSettings, recording: _Recording
) -> Golden:
    """The record of what was recorded, with the statistical power that its selected canaries have."""
    pool = [canary.reference for canary in recording.canaries if canary.split is CanarySplit.SELECTED]
    tokens = mean_tokens(recording.canaries, settings.token_budget)
    alarm = AlarmSettings(settings.log_threshold, recording.draws_per_round, *tokens)
    return Golden(
        adapter=context.adapter,
        base=settings.base,
        base_hash=accepted.live_base,
        tokenizer_hash=tokenizer_fingerprint(context.runner),
        adapter_hash=accepted.live_adapter,
        rank=recording.rank,
        alpha=recording.alpha,
        scales=tuple(float(scale) for scale in recording.canaries[0].reference.scales),
        canaries=recording.canaries,
        canary_set=canary_set,
        tolerances=settings.tolerances,
        noise={name: largest(measurements) for name, measurements in recording.battery.items()},
        power=statistical_power(context.adapter, pool, settings.tolerances, alarm),
        created_at=settings.at,
        why=settings.why,
        previous=settings.previous,
        excluded=recording.excluded,
        unrecorded=recording.unrecorded,
        hash_scheme=accepted.scheme,
        tokenizer_files_hash=accepted.live_tokenizer,
        template_hash=accepted.live_template,
        settings={key: value for key, value in asdict(settings).items() if key not in STORED_ELSEWHERE},
    )


def _check_expectations(canaries: CanarySet) -> None:
    """Read each canary's own check once, before the long part. Raises Refused for one of a wrong form."""
    for canary in canaries.canaries:
        checked(canary.expect)


def _ready(runner: Runner, adapter: str, others: Sequence[str]) -> list[str]:
    """The other adapters that can be replayed; raises for this one and for the base."""
    readiness = runner.refresh()
    for name in (None, adapter):
        if name not in readiness:
            registered = ", ".join(other for other in readiness if other)
            raise Refused("adapter to enrol", name, f"one of {registered}")
        if readiness[name].blocked:
            raise Unreplayable(name or "base", readiness[name].detail or str(readiness[name].blocked))
    facts = runner.facts(adapter)
    if facts:
        raise Refused(f"adapter {adapter}", "; ".join(facts), "every key of the adapter to take effect in this base")
    return [name for name in others if name != adapter and name in readiness and not readiness[name].blocked]


def _rank_and_alpha(runner: Runner, adapter: str) -> tuple[int, float]:
    """Of the LoRA; 0 and 0 where the runner does not know them."""
    return runner.rank_and_alpha(adapter) if isinstance(runner, LoraSettings) else (0, 0.0)


def _draws_per_round(canaries: Sequence[GoldenCanary], token_budget: int) -> int:
    """Raises Refused for a budget that cannot hold the fewest draws of a round."""
    drawn, held_out = (_lengths(canaries, split) for split in (CanarySplit.SELECTED, CanarySplit.HELD_OUT))
    return sizes(drawn, held_out, token_budget)[0]


def _lengths(canaries: Sequence[GoldenCanary], split: CanarySplit) -> list[int]:
    return [len(canary.forced) for canary in canaries if canary.split is split]


def _with_noise(canaries: Sequence[GoldenCanary], floors: Mapping[str, NoiseFloor]) -> tuple[GoldenCanary, ...]:
    return tuple(replace(canary, reference=replace(canary.reference, noise=floors[canary.id])) for canary in canaries)

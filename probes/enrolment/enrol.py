"""Enrolment: record what an adapter does on its canaries today, how much is noise, and whether a loss would show.

One function a step, in ``enrol``; what each records is kept until the record is written (checkpoint.py). Every random
choice is seeded by ``EnrolSettings.seed``, so that an enrolment can be repeated; a change here changes which canaries
later records hold, and raises ``checkpoint.LAYOUT``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from detectors.records import CanarySplit, Identity, Measurement, NoiseFloor, Reference
from probes.canaries.answer_check import checked
from probes.canaries.canary_file import CanarySet
from probes.canaries.rendering import prompt_of
from probes.canaries.replay_pairs import Progress
from probes.canaries.route_probes import drawn, probes_of
from probes.canaries.schedule import mean_tokens, sizes
from probes.enrolment.candidates import unchecked
from probes.enrolment.checkpoint import Checkpoint
from probes.enrolment.mode_noise import with_mode_floors
from probes.enrolment.noise_battery import (
    SecondRunner,
    largest,
    negligible,
    own_floors,
    pooled_floor,
    replay_battery,
    sampled,
)
from probes.enrolment.offline_reference import AGAINST, as_served, difference
from probes.enrolment.other_adapters import left_out, most_alike
from probes.enrolment.pool import assign_splits, usable_canaries
from probes.enrolment.scale_curve import ENDS, FEW, with_curve, with_others
from probes.enrolment.settings import EnrolmentContext
from probes.enrolment.settings import EnrolSettings as EnrolSettings
from probes.errors import Refused, Unreplayable
from probes.golden.codec import from_bytes, to_bytes
from probes.golden.record import Golden, GoldenCanary, tokenizer_fingerprint
from probes.golden.statistical_power import AlarmSettings, StatisticalPower, statistical_power
from probes.runner import Computing, Listing, LoraSettings, Runner, Stop
from probes.serving.probe_check import Probe

# Settings that the record holds in fields of their own.
STORED_ELSEWHERE = ("base", "at", "tolerances", "why", "previous", "composition")
# What is not recorded through an engine that serves an adapter at one strength.
OTHER_STRENGTHS = (
    "other strengths: this engine serves one, so strength is read on the straight line from base to adapter, on which "
    "half a LoRA's scale may read as .7, and one that is too strong shows as distortion alone"
)
# Of a record whose battery is still to come.
NOT_COMPUTED = StatisticalPower(False, 0.0, (), "not computed yet")


class Request(NamedTuple):
    """One adapter to enrol.

    others: names of the other registered adapters; those most like this one are recorded on its canaries, so that a
    mix-up can be named (other_adapters.py)
    progress: called with (stage, done, total); stop: looked at between batches
    offline: a record of the same adapter that was made in process, which a serving engine is measured against; its
    canaries are then taken
    """

    runner: Runner
    adapter: str
    canaries: CanarySet
    settings: EnrolSettings
    others: Sequence[str]
    progress: Progress
    stop: Stop
    offline: Golden | None = None


def enrol(request: Request, *, checkpoint: Checkpoint | None = None, second: SecondRunner | None = None) -> Golden:
    """The golden record of an adapter under the files that are in place now; not yet written to a folder.

    checkpoint: where finished steps are kept, and taken from; None for nowhere
    second: the second runner of the battery, where it is to stay open for other adapters; None opens and closes one

    Raises Refused, in words, for a canary whose own check has a wrong form, an adapter that did not load whole, numbers
    that are not finite, too few usable canaries and an adapter that cannot be distinguished from its base; Unreplayable
    when files change or when stopped.
    """
    runner, adapter, settings = request.runner, request.adapter, request.settings
    started = _started(request)
    curved = _curve_of(started, request, checkpoint)
    with nullcontext(second) if second else SecondRunner(runner) as other:
        golden = _with_noise_and_power(started.context, curved, settings, other)
    sample = sampled(_references(golden), settings.battery_canaries, settings.seed)
    golden, unwatched = with_mode_floors(started.context, golden, sample, settings.tolerances)
    missing = (
        *left_out(started.ready, started.context.others),
        *unchecked(golden.canaries, settings.max_new_tokens),
        *started.findings,
        *unwatched,
        *(_unseen_by_engine(golden) if isinstance(runner, Listing) else ()),
    )
    golden = replace(golden, unrecorded=missing)
    if runner.identity(adapter) != started.accepted:
        raise Unreplayable(adapter, "its files or those of its base changed during the enrolment: start it again")
    # The record that is judged against in memory is bit for bit the one that a later process reads.
    return from_bytes(to_bytes(golden))


def begin(request: Request, checkpoint: Checkpoint) -> None:
    """All of ``enrol`` but the battery, into the checkpoint, from which ``enrol`` then takes it.

    For several adapters of a base: once all of them have begun, one restart serves the batteries of all
    (``SecondRunner.restarts_once``). Raises as ``enrol`` does.
    """
    _curve_of(_started(request), request, checkpoint)


@dataclass(frozen=True, slots=True)
class _Started:
    """An enrolment whose adapter can be replayed.

    ready: the other adapters that can be; accepted: what is in place; findings: of how an engine can be asked, in words
    """

    context: EnrolmentContext
    ready: Sequence[str]
    accepted: Identity
    findings: tuple[str, ...] = ()


def _started(request: Request) -> _Started:
    runner, adapter = request.runner, request.adapter
    _check_expectations(request.canaries)
    ready = _ready(runner, adapter, request.others)
    context = EnrolmentContext(runner, adapter, most_alike(runner, adapter, ready), request.progress, request.stop)
    findings = _route_findings(runner, request) if isinstance(runner, Listing) else ()
    return _Started(context, ready, runner.identity(adapter), findings)


def _route_findings(runner: Listing, request: Request) -> tuple[str, ...]:
    """Have the engine's routes checked for this adapter before anything is recorded through one of them."""
    settings, offline = request.settings, request.offline
    if offline is not None:
        probes = probes_of(offline, settings.seed)
    else:
        canaries = [request.canaries.canaries[index] for index in drawn(len(request.canaries.canaries), settings.seed)]
        answer = settings.max_new_tokens + 1
        probes = [Probe(prompt_of(request.runner, canary.id, canary.messages, answer)) for canary in canaries]
    allowed = settings.tolerances.allowed_deviation(request.adapter)
    return runner.choose_route(request.adapter, probes, allowed, request.stop)


def _unseen_by_engine(golden: Golden) -> tuple[str, ...]:
    """In words, what a record made through a serving engine lacks."""
    if golden.offline:
        return ()
    strengths = () if len(golden.scales) > len(ENDS) else (OTHER_STRENGTHS,)
    return (
        "what this engine always gets wrong: only its own answers are recorded; copy a record of this adapter made in "
        "process into probes.golden_dir and enrol again, to measure the engine against it",
        *strengths,
    )


def _curve_of(started: _Started, request: Request, checkpoint: Checkpoint | None) -> Golden:
    """A record without noise floors and power."""
    context, accepted = started.context, started.accepted
    canaries, settings = request.canaries, request.settings
    steps = _Steps(checkpoint, _made_from(context, accepted, canaries, settings) | _made_on(request))
    if (offline := request.offline) is not None:
        return steps.result("offline", lambda: _offline(context, offline, settings))
    selected = steps.result("pool", lambda: _selected(context, accepted, canaries, settings))
    return steps.result("curve", lambda: _curved(context, selected, settings))


@dataclass(frozen=True, slots=True)
class _Steps:
    """The steps of one enrolment, each as its bytes say, whether it was made now or taken from a checkpoint."""

    checkpoint: Checkpoint | None
    made_from: Mapping[str, object]

    def result(self, name: str, make: Callable[[], Golden]) -> Golden:
        if self.checkpoint is None:
            return from_bytes(to_bytes(make()))
        return self.checkpoint.step(name, self.made_from, make)


def _made_from(
    context: EnrolmentContext, accepted: Identity, canaries: CanarySet, settings: EnrolSettings
) -> dict[str, object]:
    """All that the canaries of a record depend on but for the code and how the runner computes."""
    wanted = {key: value for key, value in asdict(settings).items() if key not in ("at", "why", "previous")}
    others = {name: context.runner.identity(name).live_adapter for name in context.others}
    return {"files": asdict(accepted), "others": others, "canaries": canaries.content_hash, "settings": wanted}


def _made_on(request: Request) -> dict[str, object]:
    """What a record made through a serving engine depends on besides."""
    if not isinstance(request.runner, Listing):
        return {}
    return {
        "engine": request.runner.made_on(request.adapter),
        "listed": request.runner.most_listed(),
        "offline": request.offline.hash if request.offline else "",
    }


def _offline(context: EnrolmentContext, offline: Golden, settings: EnrolSettings) -> Golden:
    """The record made in process, as the engine would have answered it; neither noise nor power yet."""
    golden = as_served(context.runner, offline)
    _draws_per_round(golden.canaries, settings.token_budget)
    return replace(
        golden,
        base=settings.base,
        tolerances=settings.tolerances,
        noise={},
        power=NOT_COMPUTED,
        created_at=settings.at,
        composition=settings.composition,
    )


def _selected(context: EnrolmentContext, accepted: Identity, canaries: CanarySet, settings: EnrolSettings) -> Golden:
    """A record of the canaries in their halves: neither curve nor noise yet. Raises Refused for too few canaries, and
    for a token budget that is too small for them, before the long part."""
    selection = assign_splits(context, usable_canaries(context, canaries, settings), settings)
    _draws_per_round(selection.canaries, settings.token_budget)
    rank, alpha = _rank_and_alpha(context.runner, context.adapter)
    return Golden(
        adapter=context.adapter,
        base=settings.base,
        base_hash=accepted.live_base,
        tokenizer_hash=tokenizer_fingerprint(context.runner),
        adapter_hash=accepted.live_adapter,
        rank=rank,
        alpha=alpha,
        scales=ENDS,
        canaries=tuple(selection.canaries),
        canary_set=canaries.content_hash,
        tolerances=settings.tolerances,
        noise={},
        power=NOT_COMPUTED,
        created_at=settings.at,
        excluded=selection.excluded,
        hash_scheme=accepted.scheme,
        tokenizer_files_hash=accepted.live_tokenizer,
        template_hash=accepted.live_template,
        base_grid=accepted.live_grid,
        composition=settings.composition,
        settings={key: value for key, value in asdict(settings).items() if key not in STORED_ELSEWHERE},
    )


def _curved(context: EnrolmentContext, selected: Golden, settings: EnrolSettings) -> Golden:
    """The same with the scale curve and the other adapters' answers."""
    if isinstance(context.runner, Listing) and not context.runner.takes_strengths():
        return replace(selected, canaries=tuple(with_others(context, selected.canaries)))
    few = [selected.canaries[index] for index in sampled(_references(selected), FEW, settings.seed)]
    tolerance = settings.tolerances.allowed_deviation(context.adapter)
    drafts = with_curve(context, selected.canaries, few, selected.rank, tolerance)
    scales = tuple(float(scale) for scale in drafts[0].reference.scales)
    return replace(selected, canaries=tuple(drafts), scales=scales)


def _with_noise_and_power(
    context: EnrolmentContext, curved: Golden, settings: EnrolSettings, second: SecondRunner
) -> Golden:
    """The same with noise floors, and with the statistical power that its selected canaries have."""
    battery, floors = _noise(context, curved, settings, second)
    present = context.runner.identity(context.adapter)
    final = replace(
        curved,
        canaries=_with_floors(curved.canaries, floors),
        noise={name: largest(measurements) for name, measurements in battery.items()},
        created_at=settings.at,
        why=settings.why,
        previous=settings.previous,
        made_on=context.runner.made_on(context.adapter) if isinstance(context.runner, Listing) else "",
        engine=present.live_engine,
        source=present.live_source,
        kernel=context.runner.kernel() if isinstance(context.runner, Computing) else "",
    )
    pool, draws = [canary.reference for canary in final.pool], _draws_per_round(final.canaries, settings.token_budget)
    alarm = AlarmSettings(settings.log_threshold, draws, *mean_tokens(final.canaries, settings.token_budget))
    return replace(final, power=statistical_power(context.adapter, pool, settings.tolerances, alarm))


def _noise(
    context: EnrolmentContext, curved: Golden, settings: EnrolSettings, second: SecondRunner
) -> tuple[Mapping[str, Sequence[Measurement]], Mapping[str, NoiseFloor]]:
    """The battery's measurements, and each canary's floor: of a sample where noise is negligible, else of all."""

    def replayed(canaries: Sequence[GoldenCanary]) -> dict[str, Sequence[Measurement]]:
        progress, stop = context.progress, context.stop
        return dict(replay_battery(context.runner, context.adapter, canaries, progress, stop, settings.battery, second))

    against: dict[str, Sequence[Measurement]] = {}
    if curved.offline:
        against = {AGAINST.name: difference(context, curved, settings.tolerances)}
    sample = sampled(_references(curved), settings.battery_canaries, settings.seed)
    battery = replayed([curved.canaries[index] for index in sample]) | against
    pooled = pooled_floor(battery)
    if negligible(pooled, settings.tolerances.allowed_deviation(context.adapter)):
        return battery, dict.fromkeys((canary.id for canary in curved.canaries), pooled)
    rest = replayed([canary for index, canary in enumerate(curved.canaries) if index not in sample])
    every = {name: (*measurements, *rest.get(name, ())) for name, measurements in battery.items()}
    return every, own_floors(every)


def _references(golden: Golden) -> list[Reference]:
    return [canary.reference for canary in golden.canaries]


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


def _with_floors(canaries: Sequence[GoldenCanary], floors: Mapping[str, NoiseFloor]) -> tuple[GoldenCanary, ...]:
    return tuple(replace(canary, reference=replace(canary.reference, noise=floors[canary.id])) for canary in canaries)

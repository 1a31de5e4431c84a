"""One replay round of one base: every adapter's canaries, replayed now and measured against what was accepted.

A canary is replayed as a production request is served: its messages are rendered by the present chat template. Where
that gives other token ids than the accepted ones, the accepted ones are replayed beside them as a control
(``Round.raw``), so that a template that changed is measured and not assumed. No clock here:
the caller says when the round began, and measures how long it took.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from detectors.canaries.base_answerer import base_answerer
from detectors.canaries.mode_gap import is_apart
from detectors.canaries.retention import measure, prepare
from detectors.canaries.tolerance import beyond_tolerance
from detectors.records import THE_FILES, BaseRound, Comparison, Identity, Measurement, Reason, Reference, Round
from probes.canaries.kept_answers import KeptAnswers
from probes.canaries.mode_cells import DRAWS, DRAWS_AT_EVENT, CellDraws, cells_of_round, drawn_for_cells
from probes.canaries.rendering import in_words, prompt_of
from probes.canaries.replay_pairs import ReplayPair, ask, replay_pair, summary
from probes.canaries.route_probes import probes_of
from probes.canaries.schedule import RoundPlan, plan_round
from probes.errors import BadNumbers, EngineAway, NoMemory, ProbeError, Refused, Unreplayable, Unsupported
from probes.golden.record import Golden, GoldenCanary, Unmonitorable, check_identity, identity_of
from probes.runner import AnswersInModes, Computing, Listing, PushesOut, Readiness, Replay, Replayed, Runner, Stop
from probes.serving.listed_summary import read_by
from probes.serving.name_check import answerer_in_words


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One adapter's part of the round: how often each pair was drawn (0: held out), its hashes, and facts on its files.

    raw: the same from the accepted token ids, of those canaries that render to other ones now
    answered_by: as of its Round
    in_modes: which of its canaries a serving engine is to answer in other modes too
    """

    golden: Golden
    pairs: tuple[tuple[ReplayPair, int], ...]
    raw: tuple[tuple[ReplayPair, int], ...]
    identity: Identity
    facts: tuple[str, ...]
    answered_by: str
    in_modes: CellDraws = field(default_factory=CellDraws)

    @property
    def replays(self) -> list[Replay]:
        return [replay for canary_pair, _ in (*self.pairs, *self.raw) for replay in canary_pair.replays]


@dataclass(frozen=True, slots=True)
class Scheduled:
    """One scheduled round of one base; number, at and seed determine which canaries are drawn.

    at: when it began, seconds since the epoch; budget: scored positions for each adapter
    """

    base: str
    number: int
    at: float
    budget: int
    seed: int


def replay_base_round(
    runner: Runner,
    goldens: Mapping[str, Golden | Unmonitorable],
    scheduled: Scheduled,
    stop: Stop,
    kept: KeptAnswers | None = None,
) -> BaseRound | None:
    """All canaries of one base's adapters in one scheduled round; None when it was stopped: half a round is no round.

    goldens: adapter -> its golden record, or why there is none, in the order of the config
    kept: answers of earlier rounds, used and added to; None computes all

    Nothing that goes wrong with one adapter silences another: it becomes a blocked Round with a reason in words.
    ``tokens_scored`` counts each position of each replayed canary once, though adapter and base both answer it, and
    by either rendering of its prompt, whether its answer was computed now or kept; ``tokens_processed`` counts every
    token that went through the model: prompts, and forced tokens but the last. ``duration_s`` is left to the caller,
    who has a clock. What a serving engine answers in other modes, or under other adapters' names,
    counts among the tokens processed alone.
    """
    parts, blocked = _parts(runner, goldens, scheduled, stop)
    tokens_beside = 0
    if isinstance(runner, PushesOut):
        parts, tokens_beside = _with_eviction(runner, parts, stop)
    answering = _Answering(runner, scheduled, stop, kept or KeptAnswers(most_bytes=0))
    answers, failures = _answers(answering, parts)
    if stop():
        return None
    measured = {
        adapter: _blocked(adapter, scheduled, failures[adapter], part.identity, part.facts)
        if adapter in failures
        else _measured(adapter, scheduled, part, answers)
        for adapter, part in parts.items()
    }
    for adapter, done in measured.items():
        answering.keep(parts[adapter], done, answers)
    if isinstance(runner, Listing):
        measured = _with_base_answering(measured)
    if isinstance(runner, AnswersInModes):
        measured, tokens_in_modes = _with_cells(runner, measured, parts, scheduled, stop)
        tokens_beside += tokens_in_modes
        if stop():
            return None
    members = tuple((blocked | measured)[adapter] for adapter in goldens)
    scored, processed = _tokens(parts, answers, answering.computed)
    processed += tokens_beside
    return BaseRound(scheduled.base, scheduled.number, scheduled.at, members, scored, processed)


def _parts(
    runner: Runner, goldens: Mapping[str, Golden | Unmonitorable], scheduled: Scheduled, stop: Stop
) -> tuple[dict[str, _Part], dict[str, Round]]:
    """What is to be replayed of each adapter, and the blocked rounds of those of which nothing is."""
    readiness = runner.refresh()
    parts: dict[str, _Part] = {}
    blocked: dict[str, Round] = {}
    for adapter, golden in goldens.items():
        part = _part(runner, adapter, golden, readiness, scheduled, stop)
        if isinstance(part, Unmonitorable):
            identity = (
                identity_of(golden, runner) if isinstance(golden, Golden) and adapter in readiness else Identity()
            )
            blocked[adapter] = _blocked(adapter, scheduled, part, identity)
        else:
            parts[adapter] = part
    return parts, blocked


def _with_eviction(runner: PushesOut, parts: dict[str, _Part], stop: Stop) -> tuple[dict[str, _Part], int]:
    """Before any canary is answered, by time and by turns: nothing that is drawn or measured decides it. The adapter's
    round says so among its facts. With the tokens that this took."""
    done = runner.push_out({adapter: part.replays[0].prompt for adapter, part in parts.items()}, stop)
    if done is None:
        return parts, 0
    part = parts[done.adapter]
    return {**parts, done.adapter: replace(part, facts=(*part.facts, done.words))}, done.tokens


def _tokens(
    parts: Mapping[str, _Part], answers: Mapping[Replay, Replayed], computed: Container[Replay]
) -> tuple[int, int]:
    """Positions scored and tokens processed, as ``replay_base_round`` counts them."""
    replayed = [
        canary_pair for part in parts.values() for canary_pair, _ in part.pairs if canary_pair.adapter in answers
    ]
    scored = sum(len(canary_pair.canary.forced) for canary_pair in replayed)
    processed = sum(len(replay.prompt) + len(replay.forced) - 1 for replay in answers if replay in computed)
    return scored, processed


def _part(
    runner: Runner,
    adapter: str,
    golden: Golden | Unmonitorable,
    readiness: Mapping[str | None, Readiness],
    scheduled: Scheduled,
    stop: Stop,
) -> _Part | Unmonitorable:
    if isinstance(golden, Unmonitorable):
        return golden
    for name in (None, adapter):
        ready = readiness.get(name, Readiness(Reason.UNREADABLE, f"the runner knows no {name or 'base'}"))
        if ready.blocked:
            return Unmonitorable(ready.blocked, ready.detail)
    if not golden.power.monitorable:
        return Unmonitorable(Reason.NO_POWER, golden.power.words)
    try:
        changes = check_identity(golden, runner)
        drawn = plan_round(golden, scheduled.budget, scheduled.seed, scheduled.number, round(1000 * scheduled.at))
        picked = drawn.draws | dict.fromkeys(drawn.held_out, 0)
        counts = {read_by(runner, golden.canary(name)): times for name, times in picked.items()}
        prompts = _rendered(runner, counts)
        if isinstance(runner, Listing):
            noticed, answered_by = _route_facts(runner, golden, scheduled.number, stop)
        else:
            noticed, answered_by = (*_from_files(golden), *_computed_otherwise(runner, golden)), THE_FILES
    except Refused as error:
        return Unmonitorable(Reason.GOLDEN_REFUSED, str(error))
    except (Unreplayable, Unsupported) as error:
        return _refusal(error)
    if isinstance(prompts, Unmonitorable):
        return prompts
    pairs = tuple((replay_pair(canary, adapter, prompts[canary]), times) for canary, times in counts.items())
    raw = tuple(
        (replay_pair(canary, adapter), times) for canary, times in counts.items() if prompts[canary] != canary.prompt
    )
    rerendered = [f"{len(raw)} of {len(counts)} prompts render to other token ids than accepted"] if raw else []
    facts = (*runner.facts(adapter), *changes, *rerendered, *noticed)
    in_modes = _draws_in_modes(runner, golden, drawn, scheduled.budget) if isinstance(runner, AnswersInModes) else None
    return _Part(golden, pairs, raw, identity_of(golden, runner), facts, answered_by, in_modes or CellDraws())


def _draws_in_modes(runner: AnswersInModes, golden: Golden, drawn: RoundPlan, budget: int) -> CellDraws:
    """All that a page takes, after an event at once, and else where half of the first are apart: rare enough for no
    budget. After a round with an answer that was apart as many of the round as the budget holds."""
    most = drawn_for_cells(golden, drawn, None, DRAWS_AT_EVENT)
    if runner.has_news():
        return CellDraws(most, most)
    wanted = len(drawn.picks) if runner.suspects(golden.adapter) else DRAWS
    return CellDraws(drawn_for_cells(golden, drawn, budget, wanted), most)


def _route_facts(runner: Listing, golden: Golden, seed: int, stop: Stop) -> tuple[tuple[str, ...], str]:
    """Have the routes of a serving engine checked for this adapter before a round rests on one; what was noticed, and
    by which engine and route it answers, in words. Raises as ``Listing.choose_route`` does."""
    allowed = golden.tolerances.allowed_deviation(golden.adapter)
    noticed = runner.choose_route(golden.adapter, probes_of(golden, seed), allowed, stop)
    present = runner.made_on(golden.adapter)
    moved = [f"answers come from {present}, accepted were those of {golden.made_on}"]
    return (*noticed, *(moved if golden.made_on not in ("", present) else ())), present


def _from_files(golden: Golden) -> tuple[str, ...]:
    """Two ways to compute differ in every answer: where the record was made on an engine, that is said of the base."""
    return (f"answers come from the files, accepted were those of {golden.made_on}",) if golden.made_on else ()


def _computed_otherwise(runner: Runner, golden: Golden) -> tuple[str, ...]:
    """Noise floors are those of the kernel that the record was made with."""
    present = runner.kernel() if isinstance(runner, Computing) else ""
    if not present or not golden.kernel or present == golden.kernel:
        return ()
    return (f"answers are computed in {present}; the record and its noise floors are of {golden.kernel}",)


def _with_base_answering(measured: Mapping[str, Round]) -> dict[str, Round]:
    """The rounds, or, where an adapter answers under the base's name, none that was measured: every gap in them was
    taken from that adapter's answers."""
    answerers = [base_answerer(round.measurements) for round in measured.values() if round.measurements]
    answerer = next((known for known in answerers if known), None)
    if answerer is None:
        return dict(measured)
    return {
        adapter: replace(
            round,
            measurements=(),
            raw=(),
            blocked=Reason.NOT_SERVED,
            detail=answerer_in_words(round.base, answerer),
        )
        if round.measurements
        else round
        for adapter, round in measured.items()
    }


def _with_cells(
    runner: AnswersInModes, measured: Mapping[str, Round], parts: Mapping[str, _Part], when: Scheduled, stop: Stop
) -> tuple[dict[str, Round], int]:
    """The rounds with some of their canaries answered in other modes too, and the tokens that this took."""
    rounds, tokens = dict(measured), 0
    for adapter, part in parts.items():
        round = measured[adapter]
        if round.blocked is not None or not part.in_modes.first:
            continue
        scored = {m.comparison.reference.canary: m for m in round.measurements}
        pairs = [pair for pair, _ in part.pairs]
        is_far = partial(is_apart, tolerances=part.golden.tolerances)
        cells = cells_of_round(runner, pairs, scored, part.in_modes, when.number, stop, is_far)
        rounds[adapter] = replace(round, cells=tuple(cells.measurements), facts=(*round.facts, *cells.facts))
        if cells.measurements:
            runner.suspect(adapter, any(map(is_far, cells.measurements)))
        tokens += cells.tokens
    return rounds, tokens


def _rendered(runner: Runner, canaries: Iterable[GoldenCanary]) -> dict[GoldenCanary, tuple[int, ...]] | Unmonitorable:
    """Each canary's prompt as production gets it now, or which of them cannot be rendered and why.

    Raises EngineAway.
    """
    prompts, faults = {}, {}
    for canary in canaries:
        try:
            prompts[canary] = present_prompt(runner, canary)
        except EngineAway:
            raise
        except Unreplayable as error:
            faults[canary.id] = error.why
    if faults:
        drawn = len(prompts) + len(faults)
        detail = f"{len(faults)} of {drawn} canaries cannot be replayed: {in_words(faults, drawn)}"
        return Unmonitorable(Reason.REPLAY_FAILED, detail)
    return prompts


def present_prompt(runner: Runner, canary: GoldenCanary) -> tuple[int, ...]:
    """Token ids of the canary's messages by the live tokenizer and template; of older golden records, which do not hold
    the messages, the accepted ids. Raises Unreplayable."""
    if not canary.messages:
        return canary.prompt
    return prompt_of(runner, canary.id, canary.messages, len(canary.forced))


@dataclass(frozen=True, slots=True)
class _Answering:
    """Replays of one round, from the kept answers where they hold. computed: those that were not"""

    runner: Runner
    scheduled: Scheduled
    stop: Stop
    kept: KeptAnswers
    computed: set[Replay] = field(default_factory=set)

    def __call__(self, replays: Sequence[Replay]) -> dict[Replay, Replayed]:
        """See ``replay_pairs.ask``."""
        known = self.kept.known(self.runner, replays, self.scheduled.at)
        wanted = [replay for replay in replays if replay not in known]
        answers = ask(self.runner, wanted, self.stop) if wanted else {}
        self.computed.update(answers)
        return known | answers

    def keep(self, part: _Part, measured: Round, answers: Mapping[Replay, Replayed]) -> None:
        """Of one adapter what was computed in this round and is within tolerance."""
        far = {
            m.comparison.reference.canary for m in measured.measurements if beyond_tolerance(m, part.golden.tolerances)
        }
        near = [replay for replay in part.replays if replay in self.computed and replay.canary not in far]
        if measured.blocked is None:
            self.kept.keep(self.runner, (answers[replay] for replay in near), self.scheduled.at)


def _answers(
    answering: _Answering, parts: Mapping[str, _Part]
) -> tuple[dict[Replay, Replayed], dict[str, Unmonitorable]]:
    """The answers of all adapters in one batched pass; where that fails, adapter by adapter, so that only the one at
    fault is not measured. An engine that is away is left alone until the next round."""
    try:
        return answering([replay for part in parts.values() for replay in part.replays]), {}
    except EngineAway as error:
        return {}, dict.fromkeys(parts, _refusal(error))
    except (Unreplayable, Unsupported) as error:
        # Not the error itself: its frames hold tensors that there may be no room for twice.
        joint = _refusal(error)
    # One look only: a second one right after it would take files that are being written for files at rest.
    readiness = answering.runner.refresh()
    answers: dict[Replay, Replayed] = {}
    failures: dict[str, Unmonitorable] = {}
    for adapter, part in parts.items():
        failed = _why_not_again(answering.runner, adapter, part, readiness)
        if failed is None and len(parts) == 1:
            failed = joint
        if failed is None:
            try:
                answers |= answering(part.replays)
            except (Unreplayable, Unsupported) as error:
                failed = _refusal(error)
        if failed is not None:
            failures[adapter] = failed
    return answers, failures


def _refusal(error: ProbeError) -> Unmonitorable:
    return Unmonitorable(reason_of(error), str(error))


def reason_of(error: Exception) -> Reason:
    """Why nothing could be replayed, by what failed."""
    if isinstance(error, NoMemory | MemoryError):
        return Reason.NO_MEMORY
    if isinstance(error, BadNumbers):
        return Reason.BAD_NUMBERS
    return Reason.ENGINE_AWAY if isinstance(error, EngineAway) else Reason.REPLAY_FAILED


def _why_not_again(
    runner: Runner, adapter: str, part: _Part, readiness: Mapping[str | None, Readiness]
) -> Unmonitorable | None:
    """Why another try makes no sense: the files changed while they were replayed, or are not ready; None else."""
    for name in (None, adapter):
        ready = readiness.get(name, Readiness())
        if ready.blocked:
            return Unmonitorable(ready.blocked, ready.detail)
    if identity_of(part.golden, runner) != part.identity:
        return Unmonitorable(Reason.FILES_CHANGING, "the files changed while they were replayed")
    return None


def _blocked(
    adapter: str, when: Scheduled, why: Unmonitorable, identity: Identity, facts: tuple[str, ...] = ()
) -> Round:
    return Round(adapter, when.base, when.number, when.at, (), identity, facts, why.reason, why.detail)


def _measured(adapter: str, when: Scheduled, part: _Part, answers: Mapping[Replay, Replayed]) -> Round:
    if missing := [replay.canary for replay in part.replays if replay not in answers]:
        # The others are no random draw any more: which replay fails may depend on what is at fault.
        detail = f"the runner left {len(missing)} of {len(part.replays)} replays unanswered, first {missing[0]}"
        return _blocked(adapter, when, Unmonitorable(Reason.REPLAY_FAILED, detail), part.identity, part.facts)
    # Prepared once for the round: raw replays and the diagnosis find them so.
    references = {pair.canary.id: prepare(pair.canary.reference) for pair, _ in part.pairs}
    measurements, raw = (
        tuple(
            _measurement(adapter, canary_pair, references[canary_pair.canary.id], times, answers, when.at)
            for canary_pair, times in pairs
        )
        for pairs in (part.pairs, part.raw)
    )
    if bad := _not_finite(measurements):
        names = ", ".join(bad[:5])
        detail = f"NaN or infinite log-probabilities on {len(bad)} of {len(measurements)} canaries: {names}"
        return _blocked(adapter, when, Unmonitorable(Reason.BAD_NUMBERS, detail), part.identity, part.facts)
    # A control without numbers controls nothing.
    raw = () if _not_finite(raw) else raw
    measured = Round(adapter, when.base, when.number, when.at, measurements, part.identity, part.facts, raw=raw)
    golden, by = part.golden, part.answered_by
    return replace(measured, rank=golden.rank, alpha=golden.alpha, answered_by=by, accepted_on=golden.made_on)


def _measurement(
    adapter: str,
    canary_pair: ReplayPair,
    reference: Reference,
    times: int,
    answers: Mapping[Replay, Replayed],
    at: float,
) -> Measurement:
    served, live_base = (summary(answers[replay]) for replay in canary_pair.replays)
    return measure(Comparison(adapter, reference, times, served, live_base, at))


def _not_finite(measurements: Sequence[Measurement]) -> list[str]:
    return [measured.comparison.reference.canary for measured in measurements if not measured.finite]

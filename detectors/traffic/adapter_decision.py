"""What is decided about an adapter from sampled responses alone? Pure; its counterpart for canaries is
detectors/verdicts/decision.py.

An incident opens at an alarm of a stream that may page. It ends after two good rounds with no bad one between, twice as
many with each reopening (incident.py), and not before as many responses were good in them as make a chance of all
faulty ones having been missed at most 5 %: of one replica in ten, two rounds of a few responses show nothing. The 5 %
is for one try, not for all of an incident's. Where responses have a likelihood along the interpolation path, it also
takes evidence that the fault is over (path_recovery.py, with its null hypothesis and guarantee). Keys of ``to_json``
are in files of saved state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from shlex import quote
from typing import Any

from detectors.diagnosis.response_cause import ResponseCounts, diagnose_responses
from detectors.diagnosis.wording import words_of
from detectors.evidence.alternative import Alternative, AlternativeKind
from detectors.on_call_text import (
    LOOK_AT_AGENT,
    LOOK_AT_REQUESTS,
    MAKE_SCORABLE,
    NO_RESPONSES,
    NONE_SCORED,
    PUT_SAMPLER_BACK,
    RESPONSES_ALSO_UNSCORED,
    RESPONSES_SCORED,
)
from detectors.records import (
    Cause,
    Evidence,
    Identity,
    Interval,
    NamedCause,
    Reason,
    ShareOf,
    Status,
    SubjectKind,
    Verdict,
)
from detectors.traffic.leading_alternative import SUSPECTED, Explanations
from detectors.traffic.path_recovery import PathLikelihood, PathRecovery
from detectors.traffic.response_summary import AGAINST, ResponseSummary
from detectors.traffic.sampler_report import SamplerInForce
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import BY_RESPONSES, Incident, Outcome, RoundResult, Rules, Step, advance
from detectors.verdicts.report import report, unjudged

# The chance that responses still miss a fault when its incident ends.
MISSED = 0.05


@dataclass(frozen=True, slots=True)
class ResponseIncident:
    """What is remembered of one adapter's responses between rounds. counts: since the first bad round

    drawn_at: parameter of the sampler -> its value when an incident opened whose cause it is
    recovery: evidence that the fault is over, while the incident is open
    explanations: by each alternative, of the responses that counted for the evidence
    path: of requests that name the base, the likelihood of responses along a path while there is evidence
    """

    incident: Incident = field(default_factory=Incident)
    counts: ResponseCounts = field(default_factory=ResponseCounts)
    drawn_at: Mapping[str, float] = field(default_factory=dict)
    recovery: PathRecovery = field(default_factory=PathRecovery)
    explanations: Explanations = field(default_factory=Explanations)
    path: PathLikelihood = field(default_factory=PathLikelihood)

    @property
    def open(self) -> bool:
        return self.incident.open

    def to_json(self) -> dict[str, Any]:
        drawn_at = {"drawn_at": dict(self.drawn_at)} if self.drawn_at else {}
        recovery = {"recovery": self.recovery.to_json()} if self.open else {}
        explanations = {"explanations": self.explanations.to_json()} if self.explanations.by else {}
        path = {"path": asdict(self.path)} if self.path.n else {}
        rest = drawn_at | recovery | explanations | path
        return {"incident": self.incident.to_json(), **self.counts.to_json(), **rest}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ResponseIncident:
        """Files of earlier versions hold the onset's estimate beside the incident, as ``began``, and no evidence of
        recovery: there good rounds alone end the incident, as they did then. Nor do they hold explanations."""
        incident = incident_of_responses({"onset_estimate": stored.get("began"), **stored["incident"]})
        recovery = PathRecovery.from_json(stored["recovery"]) if "recovery" in stored else PathRecovery()
        explanations = Explanations.from_json(stored["explanations"]) if "explanations" in stored else Explanations()
        path = PathLikelihood.from_json(stored["path"]) if "path" in stored else PathLikelihood()
        return cls(incident, ResponseCounts.from_json(stored), stored.get("drawn_at", {}), recovery, explanations, path)


def incident_of_responses(stored: Mapping[str, Any]) -> Incident:
    """An incident from saved state. Earlier versions counted rounds without requests as blocked: theirs start at 0."""
    return Incident.from_json({key: value for key, value in stored.items() if key != "blocked_in_a_row"})


@dataclass(frozen=True, slots=True)
class ResponseEstimates:
    """What the detectors estimate beside their evidence.

    strength: how much of the adapter is left, by the responses alone
    onset_at: when the fault began, by the CUSUM statistic
    sampler: in force, where a detector estimates it and may page for it
    """

    strength: Interval | None = None
    onset_at: float | None = None
    sampler: SamplerInForce = field(default_factory=SamplerInForce)


def decide_traffic(
    round: TrafficRound,
    adapter: str,
    evidence: Sequence[Evidence],
    responses: ResponseSummary,
    estimates: ResponseEstimates,
    before: ResponseIncident,
    rules: Rules,
) -> tuple[Verdict, ResponseIncident]:
    """The verdict on one adapter by its responses, and what is remembered of it from now on.

    evidence: the adapter's streams after this round. Without scored responses nothing opens and nothing resolves.
    """
    blank = replace(
        unjudged(SubjectKind.ADAPTER, adapter, round, rules),
        evidence=tuple(evidence),
        retention=estimates.strength,
        identity=round.identities.get(adapter, Identity()),
    )
    if not responses.scored:
        return _unmeasured(blank, responses, before, rules)
    log_e = max((e.log_e for e in evidence if e.pages), default=0.0)
    counts, sampler = counted(before, responses, log_e), estimates.sampler
    good = responses.good and not _still_drawn_otherwise(before, sampler)
    explanations = explained(before, responses, log_e)
    recovery = _recovered_so_far(before, responses, good)
    result = RoundResult(
        at=round.at,
        outcome=Outcome.GOOD if good else Outcome.BAD,
        log_e=log_e,
        onset_at=estimates.onset_at,
        may_end=enough(counts) and sampler.is_back(before.drawn_at) and recovery.shown,
        scores=responses.scores,
        answers=responses.answers,
    )
    step = advance(before.incident, result, rules, BY_RESPONSES)
    drawn_at = before.drawn_at if step.after.open else {}
    # Nothing explains the alarm as well as the way in which tokens are drawn.
    if step.reason is Reason.ALARM and sampler.words and sampler.log_e >= log_e and not responses.bad:
        step, drawn_at = step.with_cause(_by_sampler(adapter, sampler)), sampler.moved
    elif step.shows_cause and (responses.bad or step.after.cause is not Cause.SAMPLING_CHANGED):
        diagnosis = diagnose_responses(adapter, counts, explanations.leading, estimates.strength, blank.identity)
        step, drawn_at = _refined(step.with_cause(words_of(diagnosis)), explanations.leading), {}
    if step.reason is Reason.ALARM:
        recovery = PathRecovery.since(estimates.strength)
    if step.reason is Reason.RESOLVED:
        counts, recovery, explanations = ResponseCounts(), PathRecovery(), Explanations()
    after = ResponseIncident(step.after, counts, drawn_at, recovery, explanations)
    return with_pods(measured(blank, step, responses), counts), after


def _refined(step: Step, leading: Alternative | None) -> Step:
    """A cause that only a suspicion could name comes after the page, whoever has that is told of it."""
    is_new = step.reason is Reason.STILL_DEGRADED and step.after.cause is not step.before.cause
    is_late = leading is not None and leading.kind in (*SUSPECTED, AlternativeKind.FOUR_BITS)
    return replace(step, reason=Reason.CAUSE_REFINED) if is_new and is_late else step


def _recovered_so_far(before: ResponseIncident, responses: ResponseSummary, good: bool) -> PathRecovery:
    if not before.open:
        return PathRecovery()
    return before.recovery.after_good(responses.scored, responses.path) if good else before.recovery.after_bad()


def _still_drawn_otherwise(before: ResponseIncident, sampler: SamplerInForce) -> bool:
    """Does the round show the fault of an incident whose cause is the sampler? By the estimates of what had moved; of
    penalties, and of requests that ask for different values, there are none, and the evidence since the alarm says so.
    """
    if not before.open or before.drawn_at:
        return any(name in sampler.moved for name in before.drawn_at)
    return before.incident.cause is Cause.SAMPLING_CHANGED and sampler.log_e >= AGAINST


def _by_sampler(adapter: str, sampler: SamplerInForce) -> NamedCause:
    action = PUT_SAMPLER_BACK.format(adapter_argument=quote(adapter))
    return NamedCause(Cause.SAMPLING_CHANGED, sampler.words, action)


def counted(before: ResponseIncident, responses: ResponseSummary, log_e: float) -> ResponseCounts:
    """Counts since the first bad round, the good ones between included; they start again where no evidence is left.

    A round that the fault cuts in two counts from the first response against the adapter on: the good ones before it
    are not those of replicas that are well.
    """
    if responses.good and not before.open and log_e <= 0.0:
        return ResponseCounts()
    past = before.counts
    if responses.since_fault and not before.open and not past.against:
        past, responses = ResponseCounts(), responses.since_fault
    favour, pods = past.favour + responses.favour, tuple(sorted({*past.pods, *responses.pods}))
    since = past.since if past.since is not None or responses.answers is None else responses.answers.first
    if responses.good:
        return replace(past, fresh=past.fresh + responses.scored, favour=favour, pods=pods, since=since)
    return ResponseCounts(
        scored=past.scored + past.fresh + responses.scored,
        against=past.against + responses.against,
        favour=favour,
        bad_pods=tuple(sorted({*past.bad_pods, *responses.bad_pods})),
        pods=pods,
        since=since,
    )


def explained(before: ResponseIncident, responses: ResponseSummary, log_e: float) -> Explanations:
    """Since there is evidence; a good round of an open incident shows what is well, and says nothing of the fault."""
    if not before.open and log_e <= 0.0:
        return responses.explanations
    return before.explanations if before.open and responses.good else before.explanations.joined(responses.explanations)


def enough(counts: ResponseCounts) -> bool:
    """Would a fault of that share have shown in the good responses since?"""
    return (1.0 - min(counts.share, 0.95)) ** counts.fresh <= MISSED


def measured(blank: Verdict, step: Step, responses: ResponseSummary) -> Verdict:
    """The verdict of a round with scored responses after its step."""
    share = responses.against / responses.scored
    words = in_words(responses, blank.subject_kind)
    return replace(report(blank, step, words), share_beyond=share, share_of=ShareOf.RESPONSES)


def with_pods(verdict: Verdict, counts: ResponseCounts) -> Verdict:
    """Of an open incident the replicas that it concerns."""
    if verdict.status is not Status.DEGRADED:
        return verdict
    return replace(verdict, bad_pods=counts.bad_pods, pods=counts.pods)


def in_words(responses: ResponseSummary, about: SubjectKind) -> str:
    """ "scored in this round: 12 (340 tokens), 0 clearly not from the accepted adapter"."""
    what = "base" if about is SubjectKind.BASE_REQUESTS else "adapter"
    scored = RESPONSES_SCORED.format(
        scored=responses.scored, tokens=responses.tokens, against=responses.against, what=what
    )
    if not responses.unscored:
        return scored
    return RESPONSES_ALSO_UNSCORED.format(scored_in_words=scored, unscored=responses.unscored, why=responses.why)


def _unmeasured(
    blank: Verdict, responses: ResponseSummary, before: ResponseIncident, rules: Rules
) -> tuple[Verdict, ResponseIncident]:
    """Nothing was scored. Where nothing was requested either, the round changes nothing: a quiet night is no fault."""
    if not responses.unscored:
        quiet = Step(blank.at, Reason.NO_TRAFFIC, before.incident, before.incident)
        return report(blank, quiet, NO_RESPONSES, LOOK_AT_REQUESTS), before
    result = RoundResult(blank.at, Outcome.SILENT, Reason.NOT_SCORED)
    step = advance(before.incident, result, rules, BY_RESPONSES)
    figures = NONE_SCORED.format(unscored=responses.unscored, why=responses.why)
    action = MAKE_SCORABLE.format(adapter_argument=quote(blank.subject))
    if not responses.any_known:
        figures, action = responses.why, LOOK_AT_AGENT
    return report(blank, step, figures, action), replace(before, incident=step.after)

"""When to wake somebody: pure, from verdicts to notices. One verdict's words are in notice_text.py.

One incident per cluster and subject, whatever its cause: the cause may get sharper while the incident is open. A base's
incident speaks for its members. Anything that cannot be judged for three rounds is reported once, as that, and as an
incident of its own; one that comes and goes after twice as many rounds each time within a day, which bounds how often
it pages. How an incident stands, and for how many rounds, is the verdict's to say (detectors/verdicts/incident.py);
here is kept what the on-call person was last told, by whichever pod (alert_state.py, fleet.py).

A page waits for nobody. An incident that another live pod has reported is not reported again, and it is ended from here
by rounds of this pod, once no other live pod shows it: by the first of those that could, or after a while by the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.alerting.alert_state import AlertState, Reported, States
from agent.alerting.changes import NOTHING_OLD, NOTHING_RUNS_OUT, OldGoldens, RunningOut, step_changes
from agent.alerting.fleet import ALONE, Fleet, SentIncident
from agent.alerting.notice import blindness_key, dedup_key, state_key, to_notice
from agent.alerting.notice_text import SENT_BECAUSE, VAGUE, headline, reopened_words, with_changed
from agent.records import Notice, NoticeKind, NoticeReason
from detectors.records import Cause, Reason, Status, SubjectKind, Verdict

# Reasons of a degraded verdict that show no new bad round.
OPENS_NOTHING = (Reason.RECOVERING, Reason.CAUSE_REFINED, Reason.CAUSE_KEPT)
# Why nothing can be told, where that is nothing to wake somebody for, however long.
WAKES_NOBODY = (Reason.NO_TRAFFIC, Reason.PAUSED)
# Seconds after which what another live pod has reported, and cannot get out, is reported from here.
HELD_BACK_S = 300.0


@dataclass(frozen=True, slots=True)
class _Look:
    """One verdict, when it is looked at, and what the store says of the fleet by then; None without an answer.

    speaks: for itself, and a base for its members; False of a base that cannot be judged while its members speak, and
    of requests that name a base where none can be judged
    """

    verdict: Verdict
    now: float
    cluster: str
    fleet: Fleet | None
    speaks: bool = True

    @property
    def key(self) -> str:
        return state_key(self.verdict.subject_kind, self.verdict.subject)

    @property
    def measured(self) -> bool:
        return self.verdict.status is not Status.UNMONITORABLE and self.verdict.reason is not Reason.OUTPUT_DRIFT

    @property
    def degraded(self) -> bool:
        return self.verdict.status is Status.DEGRADED and not self.verdict.covered_by

    @property
    def shown_elsewhere(self) -> bool:
        """May the incident be another live pod's too? Without an answer it may."""
        return self.fleet is None or self.fleet.degraded(self.key)

    @property
    def blind_elsewhere(self) -> bool:
        return self.fleet is None or self.fleet.blind(self.key)

    def is_news(self, reported: Reported) -> bool:
        """Is it to be reported as open? Once more where the pod that did is gone, with an outbox that may not have been
        empty, or has held it back for minutes; to PagerDuty a second trigger of an open incident is none."""
        if self.fleet is None or not reported.is_open or not reported.by:
            return not reported.is_open
        late = reported.held_back and self.now - reported.at >= HELD_BACK_S + self.fleet.wait_s(self.key)
        return late or reported.by not in self.fleet.live

    def ending(self, reported: Reported, shown_elsewhere: bool) -> tuple[Reported, bool]:
        """The report of an incident that is over here, and whether that is to be sent now: at once by the first live
        pod, later by the next ones, to which the store says by then that it was."""
        if shown_elsewhere or self.fleet is None:
            return replace(reported, ends_since=None), False
        since = self.now if reported.ends_since is None else reported.ends_since
        return replace(reported, ends_since=since), self.now - since >= self.fleet.wait_s(self.key)


def step_round(
    states: States,
    verdicts: Sequence[Verdict],
    now: float,
    cluster: str,
    fleet: Fleet | None = ALONE,
    old_goldens: OldGoldens = NOTHING_OLD,
    running_out: RunningOut = NOTHING_RUNS_OUT,
) -> tuple[dict[str, AlertState], tuple[Notice, ...]]:
    """All verdicts of one base's round -> what is sent, and the states after it.

    fleet: None where the store gave no answer in time; old_goldens, running_out: see ``step_changes``
    """
    after, notices = dict(states), []
    speaking = one_voice(verdicts)
    bases = {verdict.subject for verdict in speaking if verdict.subject_kind is SubjectKind.BASE}
    silent = [v for v in verdicts if v.subject_kind is SubjectKind.BASE and v.subject not in bases]
    # Nobody has to ask for a base: that no such response can be scored wakes nobody.
    silent += [v for v in verdicts if v.subject_kind is SubjectKind.BASE_REQUESTS and v not in speaking]
    looks = [_Look(verdict, now, cluster, fleet) for verdict in speaking]
    for look in (*looks, *(_Look(verdict, now, cluster, fleet, speaks=False) for verdict in silent)):
        after[look.key], sent = _step(after.get(look.key, AlertState()), look)
        notices += sent
    after, changes = step_changes(after, speaking, now, cluster, fleet, old_goldens, running_out)
    return after, (*notices, *changes)


def reenrolled(
    state: AlertState, verdict: Verdict, why: str, now: float, cluster: str, fleet: Fleet | None = ALONE
) -> tuple[AlertState, tuple[Notice, ...]]:
    """A new release was accepted: ends the open incident with the reason given, unless another pod has. verdict: the
    latest of that adapter.

    What was said of a change within tolerance was about the former record: nobody is told that it is over.
    """
    state = replace(state, tolerated_change=False)
    key = dedup_key(cluster, verdict.subject_kind, verdict.subject)
    sent = SentIncident() if fleet is None else fleet.incidents.get((key, False), SentIncident())
    if not sent.opened_at and sent.ended_at > state.incident.at:
        state = replace(state, incident=Reported(at=sent.ended_at))
    if not state.incident.is_open:
        return state, ()
    notice = to_notice(verdict, NoticeReason.REENROLLED, cluster, now)
    summary = f"[{cluster}] {headline(verdict, NoticeReason.REENROLLED, why)}"
    explained = replace(notice, summary=summary[:1024], details={**notice.details, "why": why})
    return state.after_notice(verdict, NoticeReason.REENROLLED, now), (explained,)


def with_fleet(state: AlertState, verdict: Verdict, now: float, cluster: str, fleet: Fleet) -> AlertState:
    """With what any pod of the fleet has sent about this subject since."""
    subject = verdict.subject_kind, verdict.subject
    key, nothing = dedup_key(cluster, *subject), SentIncident()
    sent = fleet.incidents.get((key, False), nothing)
    incident = state.incident.with_sent(sent, verdict, now)
    if incident.is_open and sent.opened_at == incident.at > state.incident.at:
        state = replace(state, cause=sent.cause, cause_refined=sent.sharper)
    blind, former = fleet.incidents.get((blindness_key(cluster, *subject), True), nothing), state.former_key
    by_earlier_version = fleet.incidents.get((key, True), nothing)
    if former or (by_earlier_version.opened_at and not blind.opened_at and not state.blindness.is_open):
        blind, former = by_earlier_version, True
    blindness = state.blindness.with_sent(blind, verdict, now)
    return replace(state, incident=incident, blindness=blindness, former_key=former and blindness.is_open)


def _step(state: AlertState, look: _Look) -> tuple[AlertState, list[Notice]]:
    """What is sent for one verdict, in order, and the state after it."""
    sent = []
    if look.fleet is not None:
        before, state = state, with_fleet(state, look.verdict, look.now, look.cluster, look.fleet)
        sent = _ends_of_kept_pages(before, state, look, look.fleet)
    state = replace(state, incident=state.incident.after(look.verdict), past=state.past.after(look.verdict))
    if state.former_key and (look.degraded or state.incident.is_open):
        return _out_of_the_way(state, look)
    for step in (_step_incident, _step_blindness):
        state, reason = step(state, look)
        if reason is not None:
            sent.append(_notice(look, reason, state))
            state = state.after_notice(look.verdict, reason, look.now)
    return state, sent


def _ends_of_kept_pages(before: AlertState, state: AlertState, look: _Look, fleet: Fleet) -> list[Notice]:
    """Ends that another pod has sent, once more from here, behind a page that this pod could not get out yet: it would
    go out after the end that was sent, and nobody would end it."""
    subject, nothing = (look.verdict.subject_kind, look.verdict.subject), SentIncident()
    over = NoticeReason.TAKEN_OVER if look.verdict.covered_by else NoticeReason.RECOVERED
    page = fleet.incidents.get((dedup_key(look.cluster, *subject), False), nothing)
    warning = fleet.incidents.get((blindness_key(look.cluster, *subject), True), nothing)
    ended = []
    if before.incident.is_open and not state.incident.is_open and page.kept_here and not look.degraded:
        ended.append(_notice(look, over, AlertState()))
    if before.blindness.is_open and not state.blindness.is_open and warning.kept_here and look.measured:
        ended.append(_notice(look, NoticeReason.CAN_TELL_AGAIN, AlertState()))
    return ended


def _out_of_the_way(state: AlertState, look: _Look) -> tuple[AlertState, list[Notice]]:
    """A warning of an earlier version lies under the key of the page that is due or open: it would swallow the page, so
    it is ended first, unless that would end the page of another pod."""
    state, sent = _step(replace(state, blindness=Reported(at=look.now), former_key=False), look)
    swallows = any(notice.reason is NoticeReason.DEGRADED for notice in sent) and not look.shown_elsewhere
    return state, [_notice(look, NoticeReason.CAN_TELL_AGAIN, AlertState(former_key=True)), *sent] if swallows else sent


def _step_incident(state: AlertState, look: _Look) -> tuple[AlertState, NoticeReason | None]:
    incident, verdict = state.incident, look.verdict
    if look.degraded:
        return replace(state, incident=replace(incident, ends_since=None)), _of_degraded(state, look)
    if not incident.is_open:
        return state, None
    if verdict.covered_by or incident.is_recovered(verdict):
        incident, now = look.ending(incident, look.shown_elsewhere)
        over = NoticeReason.TAKEN_OVER if verdict.covered_by else NoticeReason.RECOVERED
        return replace(state, incident=incident), over if now else None
    lost = incident.held and not incident.not_judged and _is_silent(state, verdict)
    return replace(state, incident=replace(incident, ends_since=None)), NoticeReason.NO_LONGER_JUDGED if lost else None


def _of_degraded(state: AlertState, look: _Look) -> NoticeReason | None:
    verdict = look.verdict
    if look.is_news(state.incident):
        # Recovering without an open incident: the state was lost, and a bad round would open it again. Of a cause that
        # was named later too: it is about an earlier round, and what was told since may have ended.
        return None if verdict.reason in OPENS_NOTHING else NoticeReason.DEGRADED
    sharper = verdict.cause not in VAGUE and state.cause in VAGUE
    # After a restart faults are replayed again: somebody may have closed the page by hand, and would be paged for that.
    is_old = state.cause_refined and state.cause == verdict.cause.value
    refined = verdict.reason is Reason.CAUSE_REFINED and not is_old
    return NoticeReason.CAUSE_SHARPER if sharper or refined else None


def _step_blindness(state: AlertState, look: _Look) -> tuple[AlertState, NoticeReason | None]:
    blindness = state.blindness
    if look.verdict.status is Status.UNMONITORABLE and look.speaks:
        blindness = replace(blindness, ends_since=None)
        # Of an incident that this pod has shown, its own page says so (``_step_incident``).
        in_page = state.incident.is_open and state.incident.held
        due = not in_page and look.is_news(blindness) and _is_silent(state, look.verdict)
        return replace(state, blindness=blindness), NoticeReason.CANNOT_TELL if due else None
    if not blindness.is_open or (look.speaks and not look.measured):
        return state, None
    blindness, now = look.ending(blindness, look.blind_elsewhere)
    return replace(state, blindness=blindness), NoticeReason.CAN_TELL_AGAIN if now else None


def _is_silent(state: AlertState, verdict: Verdict) -> bool:
    """For too long? Without requests nothing was served wrongly: a quiet night shows as what it is and wakes nobody,
    and so does a watch that somebody has paused."""
    silent = verdict.silent_in_a_row >= state.silent_rounds_needed(verdict.at)
    return verdict.status is Status.UNMONITORABLE and silent and verdict.reason not in WAKES_NOBODY


def _notice(look: _Look, reason: NoticeReason, state: AlertState) -> Notice:
    verdict = look.verdict
    if reason is NoticeReason.NO_LONGER_JUDGED:  # by itself it names none: the incident stays that of its cause
        verdict = replace(verdict, cause=Cause(state.cause))
    notice = to_notice(verdict, reason, look.cluster, look.now)
    if notice.kind is NoticeKind.TRIGGER:
        changed = state.past.in_words(verdict.identity, look.now)
        notice = replace(notice, details=with_changed(notice.details, changed))
    if reason is NoticeReason.DEGRADED and (words := reopened_words(state, look.now)):
        return replace(notice, details={**notice.details, SENT_BECAUSE: words})
    if state.former_key and reason is NoticeReason.CAN_TELL_AGAIN:
        subject = look.verdict.subject_kind, look.verdict.subject
        return replace(notice, dedup_key=dedup_key(look.cluster, *subject))
    return notice


def one_voice(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts that notices are made of, base first. Where several members cannot be judged for one and the same
    reason their base reports it alone; otherwise an unmonitorable base is left out and each member has its own notice.
    """
    members = [v for v in verdicts if v.subject_kind is SubjectKind.ADAPTER]
    bases: list[Verdict] = []
    for base in (v for v in verdicts if v.subject_kind is SubjectKind.BASE):
        own = [v for v in members if v.base == base.subject]
        if base.status is not Status.UNMONITORABLE:
            bases.append(base)
        elif len(own) > 1 and own[0].status is Status.UNMONITORABLE and len({v.reason for v in own}) == 1:
            # It speaks for the members, so their rounds count; its own are silent too where one of them is measured.
            bases.append(replace(base, silent_in_a_row=min(v.silent_in_a_row for v in own)))
            members = [v for v in members if v.base != base.subject]
    requests = (v for v in verdicts if v.subject_kind is SubjectKind.BASE_REQUESTS)
    return [*bases, *members, *(v for v in requests if v.status is not Status.UNMONITORABLE)]

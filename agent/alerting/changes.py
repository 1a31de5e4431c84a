"""What is another one than accepted under subjects that are well: a change event, once for the whole fleet. Pure.

PagerDuty does not deduplicate change events, so the pods do: each looks in the store whether the change was sent, the
first of those that are alive at once, every other one the longer after the change the more come before it by name. One
that the others do not see is sent all the same, by the pod that sees it. A change that is gone by then is not sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from agent.alerting.alert_state import AlertState, States
from agent.alerting.fleet import LONGEST_WAIT_S, Fleet
from agent.alerting.notice import OF_A_BASE, dedup_key, state_key, subject_of, to_notice
from agent.records import Notice, NoticeReason
from detectors.records import Reason, ShareOf, Status, SubjectKind, Verdict

CHANGES_KEPT = 16
OldGoldens = Mapping[str, tuple[str, str]]
"""adapter -> (hash of its golden record, when that was accepted, in words)"""
NOTHING_OLD: OldGoldens = MappingProxyType({})
RunningOut = Mapping[str, Sequence[tuple[str, str]]]
"""adapter -> (name of a warning that its passport's clocks give now, in words)"""
NOTHING_RUNS_OUT: RunningOut = MappingProxyType({})
# Reasons of a healthy verdict that are reported once.
CHANGES = (
    *(Reason.BASE_MOVED, Reason.TOKENIZER_CHANGED, Reason.TEMPLATE_CHANGED, Reason.ADAPTER_MOVED),
    Reason.ENGINE_MOVED,
)
TOLERATED = (NoticeReason.TOLERATED_CHANGE, NoticeReason.TOLERATED_CHANGE_OVER)


@dataclass(frozen=True, slots=True)
class Change:
    """One change in one verdict. name: what ``AlertState.changes`` and the store keep of it; why: for its headline"""

    reason: NoticeReason
    name: str
    verdict: Verdict
    why: str = ""

    @property
    def about(self) -> str:
        """State key of what has changed."""
        return state_key(*subject_of(self.verdict, self.reason))

    @property
    def waits_as(self) -> str:
        return f"{self.reason.value} {self.name}"


def step_changes(
    states: States,
    verdicts: Sequence[Verdict],
    now: float,
    cluster: str,
    fleet: Fleet | None,
    old_goldens: OldGoldens = NOTHING_OLD,
    running_out: RunningOut = NOTHING_RUNS_OUT,
) -> tuple[dict[str, AlertState], tuple[Notice, ...]]:
    """The changes of one base's round that are to be sent now, and the states after it.

    verdicts: those that speak; fleet: None where the store gave no answer in time
    old_goldens: adapters whose golden record is older than the policy allows; running_out: what their passports say
    """
    after, notices, present = dict(states), [], dict[str, set[str]]()
    about_adapters = (*_of_old_goldens(verdicts, old_goldens), *_of_passports(verdicts, running_out))
    for change in (*_changes_of_round(after, verdicts), *about_adapters):
        state = after.get(change.about, AlertState())
        if change.name in state.changes or change.waits_as in present.get(change.about, ()):
            continue
        present.setdefault(change.about, set()).add(change.waits_as)
        since = state.waiting.get(change.waits_as, now)
        is_sent = _was_sent(change, cluster, fleet)
        is_due = now - since >= _wait_s(change, fleet)
        if is_sent or is_due:
            after[change.about] = _without(state, change)
        else:
            after[change.about] = replace(state, waiting={**state.waiting, change.waits_as: since})
        if is_due and not is_sent:
            notices.append(to_notice(change.verdict, change.reason, cluster, now, change.name, change.why))
    return _without_what_is_gone(after, verdicts, present), tuple(notices)


def _changes_of_round(states: States, verdicts: Sequence[Verdict]) -> list[Change]:
    all_healthy = all(verdict.status is Status.HEALTHY for verdict in verdicts)
    changes = []
    for verdict in verdicts:
        changes += [Change(*change, verdict) for change in _replaced(verdict, all_healthy)]
        state = states.get(state_key(verdict.subject_kind, verdict.subject), AlertState())
        if reason := _of_tolerated_change(state, verdict):
            # Of this record: what was said of the one before it is another change.
            against = f"{verdict.identity.golden_adapter} on {verdict.identity.golden_base}"
            changes.append(Change(reason, f"against {against}", verdict))
    return changes


def _of_old_goldens(verdicts: Sequence[Verdict], old: OldGoldens) -> list[Change]:
    """Whatever the verdict on the adapter is: of what it is compared with it says nothing."""
    adapters = [verdict for verdict in verdicts if verdict.subject_kind is SubjectKind.ADAPTER]
    return [
        Change(NoticeReason.GOLDEN_OLD, f"golden {old[v.subject][0]}", v, old[v.subject][1])
        for v in adapters
        if v.subject in old
    ]


def _of_passports(verdicts: Sequence[Verdict], running_out: RunningOut) -> list[Change]:
    """Likewise: that a base is no longer supported next month is no fault of today."""
    return [
        Change(NoticeReason.PASSPORT_CLOCK, f"clock {name}", verdict, words)
        for verdict in verdicts
        if verdict.subject_kind is SubjectKind.ADAPTER
        for name, words in running_out.get(verdict.subject, ())
    ]


def _replaced(verdict: Verdict, all_healthy: bool) -> list[tuple[NoticeReason, str]]:
    """What is another one than accepted under a subject that is well, each with the name that ``changes`` keeps of it.

    all_healthy: are all subjects of the base? What lies under all of them is a harmless change only then.
    """
    identity, reason = verdict.identity, verdict.reason
    if reason not in CHANGES or verdict.covered_by:
        return []
    has_changed = {
        (NoticeReason.BASE_MOVED, identity.live_base): identity.base_moved or reason is Reason.BASE_MOVED,
        (NoticeReason.TOKENIZER_CHANGED, f"tokenizer {identity.live_tokenizer}"): identity.tokenizer_moved,
        (NoticeReason.TEMPLATE_CHANGED, f"template {identity.live_template}"): (
            identity.template_moved or reason is Reason.TEMPLATE_CHANGED
        ),
        (NoticeReason.ADAPTER_MOVED, f"adapter {identity.live_adapter}"): (
            identity.adapter_moved and verdict.subject_kind is SubjectKind.ADAPTER
        ),
        (NoticeReason.ENGINE_MOVED, f"engine {identity.live_engine}"): identity.engine_moved,
        (NoticeReason.SOURCE_MOVED, f"source {identity.live_source}"): (
            identity.source_moved and verdict.subject_kind is SubjectKind.ADAPTER
        ),
    }
    return [change for change, yes in has_changed.items() if yes and (all_healthy or change[0] not in OF_A_BASE)]


def _of_tolerated_change(state: AlertState, verdict: Verdict) -> NoticeReason | None:
    """Said once, and once more when it is over; a verdict that is not healthy says nothing of it, nor does one by
    responses, or on a base that has moved."""
    is_there = bool(verdict.tolerated_change)
    is_measured = verdict.share_of is not ShareOf.RESPONSES and verdict.reason is not Reason.BASE_MOVED
    is_told = verdict.status is Status.HEALTHY and is_measured and not verdict.covered_by
    if not is_told or is_there is state.tolerated_change:
        return None
    return NoticeReason.TOLERATED_CHANGE if is_there else NoticeReason.TOLERATED_CHANGE_OVER


def _was_sent(change: Change, cluster: str, fleet: Fleet | None) -> bool:
    """By any pod. What comes and goes was if that is the latest that was sent of it."""
    if fleet is None:
        return False
    key = dedup_key(cluster, *subject_of(change.verdict, change.reason))
    sent_at = fleet.changes.get((key, change.reason.value, change.name))
    if sent_at is None or change.reason not in TOLERATED:
        return sent_at is not None
    return all(fleet.changes.get((key, other.value, change.name), 0.0) <= sent_at for other in TOLERATED)


def _wait_s(change: Change, fleet: Fleet | None) -> float:
    """How long after it began it is sent, unless another pod did. Without an answer of the store not for ever."""
    if fleet is None:
        return LONGEST_WAIT_S
    if change.reason is NoticeReason.TOLERATED_CHANGE_OVER and fleet.changed(change.about):
        return float("inf")
    return fleet.wait_s(state_key(change.verdict.subject_kind, change.verdict.subject))


def _without(state: AlertState, change: Change) -> AlertState:
    """The state once this was sent, by this pod or another."""
    waiting = {name: since for name, since in state.waiting.items() if name != change.waits_as}
    if change.reason in TOLERATED:
        is_there = change.reason is NoticeReason.TOLERATED_CHANGE
        return replace(state, waiting=waiting, tolerated_change=is_there)
    return replace(state, waiting=waiting, changes=(*state.changes, change.name)[-CHANGES_KEPT:])


def _without_what_is_gone(
    states: dict[str, AlertState], verdicts: Sequence[Verdict], present: Mapping[str, set[str]]
) -> dict[str, AlertState]:
    """A change that waits and that the round does not show is over. A round of responses shows none."""
    by_canaries = [verdict for verdict in verdicts if verdict.share_of is not ShareOf.RESPONSES]
    judged = {state_key(v.subject_kind, v.subject) for v in by_canaries}
    judged |= {state_key(SubjectKind.BASE, verdict.base) for verdict in by_canaries}
    for key in judged & set(states):
        waiting = states[key].waiting
        left = {name: since for name, since in waiting.items() if name in present.get(key, ())}
        if len(left) < len(waiting):
            states[key] = replace(states[key], waiting=left)
    return states

"""Verdicts of then beside those of now: what is compared, what is not, and which monitor judges whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from agent.alerting.hindsight import NOT_REPLAYED, alarms, judged_again, verdict_pairs
from agent.store.stored_rounds import Stored
from agent.store.table_rows import Row
from agent.store.verdict_rows import verdict_row
from detectors.canaries.tolerance import Tolerances
from detectors.monitor import Judged, Monitor
from detectors.records import BaseRound, Identity, Reason
from detectors.traffic_records import TrafficRound
from detectors.verdicts.incident import Rules
from tests.detectors import synthetic
from tests.detectors.responses import FOR, score, traffic_round

Again = list[tuple[Stored, Judged | None]]


def monitor() -> Monitor:
    return Monitor(Rules(Tolerances(), log_threshold=15.0))


def stored(record: BaseRound | TrafficRound, pod: str = "pod-0") -> Stored:
    return Stored(pod, record.base, record.number, record.at, isinstance(record, BaseRound), record)


def told(again: Again) -> list[Row]:
    """As the store has them."""
    return [{"pod": one.pod} | verdict_row(v) for one, judged in again if judged for v in judged.verdicts]


def judged(*records: Stored) -> Again:
    return list(judged_again(records, monitor))


def rounds(fault: str, *numbers: int) -> list[BaseRound]:
    return [synthetic.make_base_round({"router": fault}, number) for number in numbers]


def test_the_same_rounds_differ_in_nothing() -> None:
    again = judged(*map(stored, [*rounds("healthy", 0, 1), *rounds("not_applied", 2)]))
    found = verdict_pairs(again, told(again), since=0.0)
    assert len(found) == 3
    assert not any(one.differs or one.nats_apart or one.why_not for one in found)
    assert [one.round for one in alarms(found, "then")] == [one.round for one in alarms(found, "now")] == [2]


def test_another_word_differs_and_another_level_is_counted_apart() -> None:
    again = judged(*map(stored, rounds("healthy", 0, 1)))
    first, second = told(again)
    found = verdict_pairs(
        again, [first | {"reason": "evidence_growing"}, second | {"log_e": second["log_e"] + 2.0}], 0.0
    )
    assert [one.differs for one in found] == [True, False]
    assert found[0].nats_apart == 0.0 and abs(found[1].nats_apart - 2.0) < 1e-12


def test_a_verdict_that_only_one_side_has_differs() -> None:
    again = judged(*map(stored, rounds("healthy", 0, 1)))
    found = verdict_pairs(again, told(again)[1:], since=0.0)
    assert [(one.then is None, one.differs) for one in found] == [(True, True), (False, False)]


def test_a_round_whose_verdict_said_what_the_one_before_said_is_compared_with_that() -> None:
    """Rows on change and once an hour: those in between hold for an hour, and an alarm for its own round."""
    again = judged(*map(stored, rounds("healthy", *range(65))))
    whole = told(again)
    found = verdict_pairs(again, [whole[0], whole[64]], since=0.0)
    assert [pair.differs for pair in found] == [False] * 61 + [True] * 3 + [False]
    assert {pair.nats_apart for pair in found} == {0.0}
    assert [pair.round for pair in found] == list(range(65))
    suspect = [whole[0], whole[1] | {"status": "suspect"}]
    assert [pair.differs for pair in verdict_pairs(again, suspect, since=0.0)[:5]] == [False, True, True, True, True]
    alarmed = verdict_pairs(again, [whole[0], whole[1] | {"reason": Reason.ALARM.value}], since=0.0)
    assert [pair.round for pair in alarms(alarmed, "then")] == [1]


def test_what_was_not_judged_or_rested_on_embeddings_is_not_compared() -> None:
    whole = [stored(record) for record in rounds("healthy", 0, 1)]
    then = told(judged(*whole))
    lost = replace(whole[0], record=None, why="3 of 24 canaries")
    drifted = then[1] | {"reason": Reason.INPUT_DRIFT.value}
    found = verdict_pairs(judged(lost, whole[1]), [then[0], drifted], since=0.0)
    assert [one.why_not for one in found] == ["3 of 24 canaries", "it rested on embeddings, which are not judged again"]
    assert not any(one.differs or one.nats_apart for one in found)


def test_a_cause_refined_by_replay_is_not_compared_and_anything_else_of_those_rounds_is() -> None:
    again = judged(*map(stored, rounds("scale:0.5", 0, 1, 2)))
    alarm, second, third = told(again)
    named = second | {"reason": Reason.CAUSE_REFINED.value, "at": second["at"] + timedelta(seconds=1), "cause": "other"}
    then = [alarm, second, named, third | {"cause": "other"}]
    found = verdict_pairs(again, then, since=0.0)
    assert [pair.why_not for pair in found] == ["", "", NOT_REPLAYED, NOT_REPLAYED]
    assert not any(pair.differs for pair in found)
    then[-1] = then[-1] | {"status": "healthy"}
    assert [pair.differs for pair in verdict_pairs(again, then, since=0.0)] == [False, False, False, True]


def test_what_lies_before_the_span_is_judged_and_not_shown() -> None:
    again = judged(*map(stored, rounds("scale:0.5", 0, 1, 2)))
    found = verdict_pairs(again, told(again), since=synthetic.EVERY_S)
    assert [one.round for one in found] == [1, 2]


def test_each_pod_has_a_monitor_of_its_own() -> None:
    alone = judged(*map(stored, rounds("scale:0.9", 0, 1)))
    both = [stored(record, pod) for record in rounds("scale:0.9", 0, 1) for pod in ("pod-0", "pod-1")]
    found = verdict_pairs(judged(*both), [row | {"pod": pod} for pod in ("pod-0", "pod-1") for row in told(alone)], 0.0)
    assert len(found) == 4 and not any(one.differs or one.nats_apart for one in found)


def accepted_as(record: BaseRound, golden: str) -> BaseRound:
    (member,) = record.members
    seen = tuple(
        replace(m, comparison=replace(m.comparison, reference=replace(m.comparison.reference, golden=golden)))
        for m in member.measurements
    )
    return replace(record, members=(replace(member, measurements=seen),))


def test_another_golden_record_starts_the_evidence_again() -> None:
    records = rounds("healthy", 0, 1)
    same = judged(*map(stored, records))
    other = judged(stored(records[0]), stored(accepted_as(records[1], "sha256:other")))
    alone = judged(stored(records[1]))
    levels = [told(again)[-1]["log_e"] for again in (same, other, alone)]
    assert levels[1] == levels[2] != levels[0]


def test_other_accepted_files_do_so_where_only_responses_are_judged() -> None:
    def heard(number: int, files: str) -> Stored:
        made = traffic_round(*[score(FOR)] * 4, number=number)
        return stored(replace(made, identities={"router": Identity(golden_adapter=files)}))

    same, other = judged(heard(0, "a"), heard(1, "a")), judged(heard(0, "a"), heard(1, "b"))
    n = [[e.n for e in again[1][1].evidence if e.detector == "traffic_likelihood"] for again in (same, other)]  # type: ignore[union-attr]
    assert max(n[0]) > max(n[1])


def test_an_earlier_verdict_of_the_same_moment_finds_its_own() -> None:
    """Canaries and responses of one round have one time."""
    canaries = synthetic.make_base_round({"router": "not_applied"}, 0)
    responses = traffic_round(*[score((60.0, 20.0, -5.0))] * 8)
    again = judged(stored(canaries), stored(responses))
    assert len(told(again)) >= 1
    found = verdict_pairs(again, list(reversed(told(again))), since=0.0)
    assert len(found) == len(told(again)) and not any(one.differs for one in found)


def test_of_two_verdicts_of_one_moment_that_say_the_same_each_is_compared_with_its_own() -> None:
    """Canaries and responses of one moment, the evidence of one at 3.6 nats: whichever was stored first."""
    again = judged(*map(stored, rounds("healthy", 0)))
    ((head, verdicts),) = again
    assert verdicts is not None
    (verdict,) = verdicts.verdicts
    grown = replace(verdict, round=7, evidence=tuple(replace(own, log_e=3.6) for own in verdict.evidence))
    both: Again = [(head, replace(verdicts, verdicts=(verdict, grown)))]
    first, second = told(both)
    assert second["log_e"] == 3.6 != first["log_e"]
    for then in ([first, second], [second, first]):
        found = verdict_pairs(both, then, since=0.0)
        assert [(pair.nats_apart, pair.differs) for pair in found] == [(0.0, False)] * 2
    (with_row, without) = verdict_pairs(both, [second], since=0.0)
    assert {with_row.then is None, without.then is None} == {False, True}
    assert with_row.nats_apart == without.nats_apart == 0.0

"""Records through the monitor: whose verdict, on which evidence, and what a restart keeps of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace

import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.errors import UnknownDetector
from detectors.evidence.alarm_budget import log_threshold, stream_rounds_per_year
from detectors.kinds import embedding_drift, golden_agreement, logit_shift
from detectors.monitor import Judged, Monitor, default_configs, paging
from detectors.records import BaseRound, Cause, Reason, Status, SubjectKind, Verdict
from detectors.registry import load, names
from detectors.traffic_records import Embedding, TrafficRound
from detectors.verdicts.incident import Rules
from tests.detectors.record_streams import of_second_base
from tests.detectors.record_streams import traffic_round as make_traffic_round
from tests.detectors.responses import AGAINST, FOR, score, traffic_round
from tests.detectors.synthetic import ADAPTERS, EVERY_S, embedding, make_base_round, with_cells

THRESHOLD = log_threshold(stream_rounds_per_year({60.0: 4}), 1.0)
RULES = Rules(Tolerances(), THRESHOLD)
ALL = dict.fromkeys(ADAPTERS, "healthy")


def play(monitor: Monitor, *rounds: Mapping[str, str], first: int = 0) -> list[dict[str, Verdict]]:
    """Verdicts of each round by subject."""
    played = []
    for number, faults in enumerate(rounds, start=first):
        judged = monitor.observe(make_base_round(faults, number))
        played.append({v.subject: v for v in judged.verdicts})
    return played


def test_a_healthy_base_with_three_adapters_gives_four_healthy_verdicts_with_their_evidence() -> None:
    judged = Monitor(RULES).observe(make_base_round(ALL))
    assert [v.subject for v in judged.verdicts] == [*ADAPTERS, "smol"]
    assert {v.status for v in judged.verdicts} == {Status.HEALTHY}
    assert [e.detector for e in judged.evidence if e.pages] == ["adapter_gap"] * 3 + ["base_shift"]
    assert [e.detector for e in judged.evidence if not e.pages] == ["golden_agreement"] * 3 + ["logit_shift"] * 3
    for verdict in judged.verdicts:
        assert sum(e.pages for e in verdict.evidence) == 1
        assert {e.subject for e in verdict.evidence} == {verdict.subject}


def test_one_broken_adapter_pages_in_its_first_round_and_never_opens_the_base() -> None:
    played = play(Monitor(RULES), ALL, *[ALL | {"router": "not_applied"}] * 60)
    assert played[1]["router"].reason is Reason.ALARM
    assert {p["smol"].status for p in played} == {Status.HEALTHY}
    assert {p["rewriter"].status for p in played} == {Status.HEALTHY}
    assert {p["router"].covered_by for p in played} == {""}


def test_a_base_that_takes_all_adapters_with_it_opens_one_incident_on_the_base_in_the_same_round() -> None:
    played = play(Monitor(RULES), ALL, dict.fromkeys(ADAPTERS, "reparameterised"))
    broken = played[1]
    assert broken["smol"].reason is Reason.ALARM
    assert broken["smol"].cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert broken["smol"].members == ADAPTERS
    assert {broken[a].covered_by for a in ADAPTERS} == {"smol"}
    assert {broken[a].status for a in ADAPTERS} == {Status.DEGRADED}


def test_a_base_that_takes_two_of_three_with_it_in_one_round_speaks_for_them() -> None:
    two = ALL | dict.fromkeys(ADAPTERS[:2], "not_applied")
    played = play(Monitor(RULES), ALL, *[two] * 20)
    assert [p["smol"].status for p in played] == [Status.HEALTHY, *[Status.DEGRADED] * 20]
    assert played[1]["smol"].reason is Reason.ALARM and played[1]["smol"].members == ADAPTERS[:2]
    assert {p[a].covered_by for p in played[1:] for a in ADAPTERS} == {"smol"}


def test_of_two_that_a_base_of_four_loses_each_speaks_for_itself() -> None:
    half = {"fourth": "healthy"} | ALL | dict.fromkeys(ADAPTERS[:2], "not_applied")
    played = play(Monitor(RULES), half | ALL, *[half] * 20)
    assert {p["smol"].status for p in played} == {Status.HEALTHY}
    assert [played[1][a].reason for a in ADAPTERS[:2]] == [Reason.ALARM] * 2
    assert {p[a].covered_by for p in played for a in ADAPTERS} == {""}


def test_saved_evidence_of_a_base_against_its_members_median_starts_at_zero() -> None:
    monitor, again = Monitor(RULES), Monitor(RULES)
    play(monitor, ALL, ALL)
    stored = json.loads(json.dumps(monitor.state_json()))
    assert stored["detectors"]["base_shift"]["layout"] == 2
    stored["detectors"]["base_shift"]["layout"] = 1
    again.restore(stored)
    (after,) = play(again, ALL, first=2)
    assert {e.n for e in after["smol"].evidence} == {16}
    assert {e.n for e in after["router"].evidence} == {48}


def test_an_incident_goes_from_alarm_to_resolved_and_members_are_their_own_again() -> None:
    lost = dict.fromkeys(ADAPTERS, "swapped_and_lost")
    played = play(Monitor(RULES), ALL, lost, lost, ALL, ALL, ALL)
    for subject in (*ADAPTERS, "smol"):
        assert [p[subject].reason for p in played] == [
            Reason.WITHIN_TOLERANCE,
            Reason.ALARM,
            Reason.STILL_DEGRADED,
            Reason.RECOVERING,
            Reason.RESOLVED,
            Reason.WITHIN_TOLERANCE,
        ]
    assert [p["router"].covered_by for p in played] == ["", "smol", "smol", "smol", "", ""]


def test_when_the_base_comes_back_a_member_still_broken_speaks_for_itself() -> None:
    lost = dict.fromkeys(ADAPTERS, "swapped_and_lost")
    one = ALL | {"router": "not_applied"}
    played = play(Monitor(RULES), lost, *[one] * 12)
    reasons = [verdicts["smol"].reason for verdicts in played]
    end = reasons.index(Reason.RESOLVED)
    assert set(reasons[1:end]) == {Reason.RECOVERING}
    assert (played[end]["router"].status, played[end]["router"].covered_by) == (Status.DEGRADED, "")
    assert played[end]["router"].cause is Cause.ADAPTER_NOT_APPLIED


def test_a_base_with_one_of_three_adapters_back_has_not_recovered() -> None:
    lost = dict.fromkeys(ADAPTERS, "swapped_and_lost")
    two = dict.fromkeys(ADAPTERS, "not_applied") | {"extractor": "healthy"}
    played = play(Monitor(RULES), lost, *[two] * 40)
    assert {verdicts["smol"].reason for verdicts in played[1:]} == {Reason.STILL_DEGRADED}


@pytest.mark.parametrize("strength", [0.8, 0.9, 1.2])
def test_an_adapter_of_another_strength_pages_although_the_base_moved_a_little(strength: float) -> None:
    """In eight bits the base shift is 3e-5: it hides no loss of a fifth."""
    played = play(Monitor(RULES), ALL, *[dict.fromkeys(ADAPTERS, "int8") | {"router": f"int8+scale:{strength}"}] * 2)
    assert {v.status for v in played[0].values()} == {Status.HEALTHY}
    assert [verdicts["router"].status for verdicts in played[1:]] == [Status.DEGRADED] * 2
    assert {verdicts[name].status for verdicts in played for name in (*ADAPTERS[1:], "smol")} == {Status.HEALTHY}


def test_an_adapter_that_answers_outside_the_kept_tokens_pages_and_says_where_the_probability_is() -> None:
    played = play(Monitor(RULES), ALL, *[ALL | {"router": "elsewhere:0.9999"}] * 2)
    assert [verdicts["router"].status for verdicts in played] == [Status.HEALTHY, *[Status.DEGRADED] * 2]
    assert "of the probability has gone to tokens not compared" in played[1]["router"].explanation
    assert {played[2][name].status for name in ADAPTERS[1:]} == {Status.HEALTHY}
    assert "probability" not in played[0]["router"].explanation


@pytest.mark.parametrize("release", ["int8", "tuned"])
def test_a_harmless_release_stays_healthy(release: str) -> None:
    played = play(Monitor(RULES), ALL, *[dict.fromkeys(ADAPTERS, release)] * 20)
    assert {v.status for verdicts in played for v in verdicts.values()} == {Status.HEALTHY}
    assert {v.reason for verdicts in played[1:] for v in verdicts.values()} == {Reason.BASE_MOVED}
    assert {v.share_beyond for verdicts in played for v in verdicts.values()} == {0.0}


def test_an_improved_base_is_reported_and_never_pages() -> None:
    played = play(Monitor(RULES), ALL, *[dict.fromkeys(ADAPTERS, "improved")] * 80)
    for round in played[1:]:
        assert {(v.status, v.reason) for v in round.values()} == {(Status.HEALTHY, Reason.BASE_MOVED)}


def test_blocked_rounds_move_no_evidence_and_are_visible() -> None:
    monitor = Monitor(RULES)
    play(monitor, ALL)
    before = monitor.state_json()["detectors"]
    played = play(monitor, *[dict.fromkeys(ADAPTERS, "blocked")] * 3, first=1)
    assert monitor.state_json()["detectors"] == before
    assert [p["router"].silent_in_a_row for p in played] == [1, 2, 3]
    assert {v.status for p in played for v in p.values()} == {Status.UNMONITORABLE}


def test_evidence_starts_again_at_zero_after_an_alarm() -> None:
    monitor = Monitor(RULES)
    play(monitor, ALL | {"router": "not_applied"})
    (after,) = play(monitor, ALL, first=1)
    assert after["router"].evidence[0].n == 16


def test_a_new_golden_ends_the_incident_and_its_evidence() -> None:
    monitor = Monitor(RULES)
    play(monitor, ALL, *[ALL | {"router": "scale:0.8"}] * 2)
    monitor.accept_new_golden("router")
    (after,) = play(monitor, ALL, first=3)
    assert (after["router"].status, after["router"].reason) == (Status.HEALTHY, Reason.WITHIN_TOLERANCE)
    assert after["router"].evidence[0].n == 16
    assert after["rewriter"].evidence[0].n == 4 * 16


def test_a_new_golden_starts_the_bank_of_embeddings_again() -> None:
    """The golden base embeds: beside references of the former one, every embedding of the new one looks like drift."""
    drift = embedding_drift.Config(reference_size=64, block=8)
    monitor, untold = (Monitor(RULES, {"embedding_drift": drift}) for _ in range(2))
    for seen in (monitor, untold):
        for number in range(100):
            seen.observe(embedding(0, number))
    monitor.accept_new_golden("router")
    others = [embedding(0, 100 + number, moved=1.5) for number in range(128)]
    levels, mixed = ([seen.observe(record).evidence[0].log_e for record in others] for seen in (monitor, untold))
    assert levels[:64] == [0.0] * 64
    assert max(levels) < 5.0 < max(mixed)


def test_a_base_of_one_adapter_has_no_verdict_of_its_own() -> None:
    assert [v.subject for v in Monitor(RULES).observe(make_base_round({"router": "not_applied"})).verdicts] == [
        "router"
    ]


def test_an_embedding_informs_and_gives_no_verdict() -> None:
    judged = Monitor(RULES).observe(embedding(0, 0))
    assert judged.verdicts == ()
    assert [(e.detector, e.stream, e.pages, e.log_e) for e in judged.evidence] == [
        ("embedding_drift", "prompt", False, 0.0)
    ]


def test_restored_monitor_goes_on_as_if_never_stopped() -> None:
    story = [ALL, ALL | {"router": "scale:0.9"}, ALL, dict.fromkeys(ADAPTERS, "reparameterised"), ALL, ALL, ALL]
    whole, half = Monitor(RULES), Monitor(RULES)
    expected = play(whole, *story)
    for stop in range(len(story)):
        half = Monitor(RULES)
        play(half, *story[:stop])
        again = Monitor(RULES)
        again.restore(json.loads(json.dumps(half.state_json(), allow_nan=False)))
        rest = play(again, *story[stop:], first=stop)
        assert [repr(p) for p in rest] == [repr(p) for p in expected[stop:]]
    assert again.state_json() is not half.state_json()


def test_evidence_of_another_tolerance_starts_at_zero_and_incidents_stay() -> None:
    monitor = Monitor(RULES)
    play(monitor, ALL | {"router": "not_applied"})
    stricter = Monitor(Rules(Tolerances(scale=0.01), THRESHOLD))
    stricter.restore(monitor.state_json())
    assert stricter.state_json()["detectors"]["adapter_gap"]["state"] == {}
    assert stricter.state_json()["detectors"]["golden_agreement"]["state"] != {}  # it knows no tolerance
    assert stricter.incidents[SubjectKind.ADAPTER, "router"].open


def test_evidence_of_another_layout_starts_at_zero_and_incidents_stay() -> None:
    monitor, again = Monitor(RULES), Monitor(RULES)
    play(monitor, ALL | {"router": "not_applied"})
    stored = json.loads(json.dumps(monitor.state_json()))
    stored["detectors"]["adapter_gap"]["layout"] = 0
    again.restore(stored)
    assert again.state_json()["detectors"]["adapter_gap"]["state"] == {}
    assert again.state_json()["detectors"]["base_shift"] == monitor.state_json()["detectors"]["base_shift"]
    assert again.incidents[SubjectKind.ADAPTER, "router"].open


@pytest.mark.parametrize("name", names())
def test_evidence_goes_on_unless_it_was_gathered_by_another_rule(name: str) -> None:
    """Layout 2: what is beyond tolerance depends on the base shift of each canary; drift has banks, and outputs are
    embedded as far as they are scored."""
    assert load(name).State().layout == (2 if name in ("adapter_gap", "base_shift", "embedding_drift") else 1)


def test_configs_choose_the_detectors_and_defaults_carry_the_rules_tolerances() -> None:
    rules = Rules(Tolerances(scale=0.02), THRESHOLD)
    assert default_configs(rules.tolerances)["base_shift"].tolerances.scale == 0.02
    only = Monitor(rules, {"embedding_drift": embedding_drift.Config(reference_size=16)})
    judged = only.observe(make_base_round(ALL))
    assert judged.evidence == ()
    assert [v.evidence for v in judged.verdicts] == [()] * 3
    with pytest.raises(UnknownDetector):
        Monitor(rules, {"nonsense": None})


def test_observing_twice_from_the_same_state_gives_the_same() -> None:
    once, twice = Monitor(RULES), Monitor(RULES)
    record = make_base_round(ALL | {"router": "junk"})
    assert repr([asdict(e) for e in once.observe(record).evidence]) == repr(
        [asdict(e) for e in twice.observe(record).evidence]
    )


def test_a_base_that_can_no_longer_be_judged_keeps_no_member_silent() -> None:
    lost = dict.fromkeys(ADAPTERS, "swapped_and_lost")
    one_left = dict.fromkeys(ADAPTERS, "blocked") | {"router": "not_applied"}
    played = play(Monitor(RULES), ALL, lost, one_left)
    assert played[1]["router"].covered_by == "smol"
    assert played[2]["smol"].status is Status.UNMONITORABLE
    assert (played[2]["router"].status, played[2]["router"].covered_by) == (Status.DEGRADED, "")


def test_a_state_file_of_the_former_layout_gives_its_incidents_and_evidence_from_zero() -> None:
    monitor = Monitor(RULES)
    play(monitor, ALL | {"router": "not_applied"})
    stored = json.loads(json.dumps(monitor.state_json()))
    former = {"router": {"log_m": [-1.5, "-inf", *[0.0] * 6], "n": 16}, "names": {"log_m": [0.0] * 8, "n": 16}}
    detectors = {name: stored["detectors"][name] | {"state": former} for name in ("adapter_gap", "base_shift")}
    drift = monitor.own_past_json()["detectors"]["embedding_drift"] | {"state": {"streams": former, "banks": {}}}
    detectors["embedding_drift"] = drift
    again = Monitor(RULES)
    incidents = [{k: v for k, v in row.items() if k != "onset_estimate"} for row in stored["incidents"]]
    again.restore({"detectors": detectors, "incidents": incidents})
    assert again.incidents[SubjectKind.ADAPTER, "router"].open
    (after,) = play(again, ALL | {"router": "not_applied"}, first=1)
    assert after["router"].reason is Reason.STILL_DEGRADED
    assert {e.n for e in after["rewriter"].evidence} == {16}
    assert after["router"].onset is not None and after["router"].onset.estimate is None


def test_only_what_pages_counts_in_the_budget_and_alarms() -> None:
    known = ("adapter_gap", "base_shift", "embedding_drift", "golden_agreement", "logit_shift")
    configs = {name: default_configs(RULES.tolerances)[name] for name in known}
    assert paging(configs) == (SubjectKind.ADAPTER, SubjectKind.BASE)
    strict = configs | {"logit_shift": logit_shift.Config(pages=True)}
    assert paging(strict) == (SubjectKind.ADAPTER, SubjectKind.BASE, SubjectKind.ADAPTER)
    quiet = {"golden_agreement": golden_agreement.Config(), "logit_shift": logit_shift.Config()}
    assert paging(quiet) == ()
    faults = ALL | {"router": "not_applied"}
    assert [v.status for v in Monitor(RULES, quiet).observe(make_base_round(faults)).verdicts] == [
        Status.SUSPECT,
        Status.HEALTHY,
        Status.HEALTHY,
    ]
    loud = quiet | {"logit_shift": logit_shift.Config(pages=True)}
    assert Monitor(RULES, loud).observe(make_base_round(faults)).verdicts[0].reason is Reason.ALARM


def test_the_estimated_onset_is_reported_until_the_incident_ends_and_over_restarts() -> None:
    """A weak fault, four draws a round: the alarm comes rounds after it began, and the estimate says when it did."""
    monitor = Monitor(RULES)
    for number in range(5):
        monitor.observe(make_base_round(ALL, number, draws=4))
    seen = []
    for number in range(5, 12):
        (*_, verdict) = monitor.observe(make_base_round({"router": "scale:0.8"}, number, draws=4)).verdicts
        seen.append(verdict)
        monitor = _reloaded(monitor)
    alarm = next(i for i, verdict in enumerate(seen) if verdict.reason is Reason.ALARM)
    assert alarm >= 1
    assert {v.onset.estimate for v in seen[alarm:] if v.onset} == {5 * EVERY_S}
    back = [monitor.observe(make_base_round(ALL, number)).verdicts[0] for number in range(12, 15)]
    assert [v.reason for v in back] == [Reason.RECOVERING, Reason.RESOLVED, Reason.WITHIN_TOLERANCE]
    assert back[1].onset is not None and back[1].onset.estimate == 5 * EVERY_S
    assert back[2].onset is None


def test_a_base_reports_its_estimated_onset_too() -> None:
    lost = dict.fromkeys(ADAPTERS, "swapped_and_lost")
    played = play(Monitor(RULES), ALL, ALL, lost, lost)
    assert [p["smol"].onset.estimate for p in played if p["smol"].onset] == [2 * EVERY_S] * 2


def test_retention_over_rounds_starts_again_when_an_incident_opens_and_when_it_ends() -> None:
    broken = ALL | {"router": "not_applied"}
    played = play(Monitor(RULES), *[ALL] * 20, *[broken] * 20, *[ALL] * 20)
    over = [p["router"].retention_over_rounds for p in played]
    assert all(found is not None for found in over)
    assert [found.n for found in over if found] == [8 * k for k in (*range(1, 22), *range(1, 22), *range(1, 19))]
    healthy, lost, again = over[19], over[39], over[59]
    assert healthy is not None and healthy.low < 1.0 < healthy.high < 1.2 and healthy.low > 0.8
    assert lost is not None and lost.high < 0.5
    assert again is not None and again.low > 0.8
    assert [p["smol"].retention_over_rounds for p in played] == [None] * 60


SMALL_BANKS = default_configs(Tolerances()) | {"embedding_drift": embedding_drift.Config(reference_size=16, block=4)}
FIRST = [
    (SubjectKind.BASE, "smol"),
    (SubjectKind.BASE_REQUESTS, "smol"),
    *((SubjectKind.ADAPTER, name) for name in ADAPTERS),
]
SECOND = [(kind, f"{name}2") for kind, name in FIRST]
HALF_WAY = 60


def two_bases() -> list[BaseRound | TrafficRound | Embedding]:
    """Records of two bases in turns: a weak fault, one that opens incidents of both lines, and their end."""
    records: list[BaseRound | TrafficRound | Embedding] = []
    for number in range(45):
        fault = "not_applied" if 8 <= number < 15 else "edge" if number < 8 else "healthy"
        canaries = with_cells(make_base_round(ALL | {"router": fault, "rewriter": "edge"}, number))
        responses = make_traffic_round("broken" if 9 <= number < 12 else "healthy", number, 3)
        requests = make_traffic_round("broken" if 12 <= number < 16 else "healthy", number, 3, "smol", ADAPTERS)
        both = replace(responses, adapters=ADAPTERS, scores=(*responses.scores, *requests.scores))
        own = (canaries, both, embedding(0, number))
        records += [one for record in own for one in (record, of_second_base(record))]
    return records


def subject_names(judged: Judged) -> set[str]:
    return {e.subject for e in judged.evidence} | {v.subject for v in judged.verdicts}


def test_two_bases_judged_by_one_monitor_are_judged_the_same_by_two_with_one_base_handed_over_half_way() -> None:
    records = two_bases()
    alone = Monitor(RULES, SMALL_BANKS)
    expected = [alone.observe(record) for record in records]
    assert {e.detector for judged in expected for e in judged.evidence if e.n and "2" in e.subject} == set(names())
    assert any(v.reason is Reason.RESOLVED for judged in expected for v in judged.verdicts if "2" in v.subject)

    first, second = Monitor(RULES, SMALL_BANKS), Monitor(RULES, SMALL_BANKS)
    found = [first.observe(record) for record in records[:HALF_WAY]]
    assert any("2" in name for _, name in first.open_subjects), "handed over with an open incident"
    second.take(SECOND, first)
    first.take(SECOND, first.blank())
    for record, wanted in zip(records[HALF_WAY:], expected[HALF_WAY:], strict=True):
        of_second = any("2" in name for name in subject_names(wanted))
        found.append((second if of_second else first).observe(record))
    assert [(j.evidence, j.verdicts) for j in found] == [(j.evidence, j.verdicts) for j in expected]
    gone = first.blank()
    gone.take(SECOND, first)
    assert gone.state_json() == first.blank().state_json()
    assert not any("2" in name for _, name in first.open_subjects)


def test_a_base_handed_over_as_saved_state_goes_on_to_the_last_bit_beside_those_of_the_monitor_that_takes_it() -> None:
    records = two_bases()
    alone = Monitor(RULES, SMALL_BANKS)
    expected = [alone.observe(record) for record in records]
    first, second = Monitor(RULES, SMALL_BANKS), Monitor(RULES, SMALL_BANKS)
    for record, judged in zip(records[:HALF_WAY], expected[:HALF_WAY], strict=True):
        (second if any("2" in name for name in subject_names(judged)) else first).observe(record)
    part = second.blank()
    part.take(SECOND, second)
    restored = first.blank()
    restored.restore(json.loads(json.dumps(part.state_json())))
    restored.restore_own_past(json.loads(json.dumps(part.own_past_json())))
    first.take(SECOND, restored)
    found = [first.observe(record) for record in records[HALF_WAY:]]
    assert [judged.evidence for judged in found] == [judged.evidence for judged in expected[HALF_WAY:]]
    reasons = [[(v.subject, v.reason) for v in judged.verdicts] for judged in found]
    assert reasons == [[(v.subject, v.reason) for v in judged.verdicts] for judged in expected[HALF_WAY:]]


def _reloaded(monitor: Monitor) -> Monitor:
    again = Monitor(RULES)
    again.restore(json.loads(json.dumps(monitor.state_json(), allow_nan=False)))
    return again


def test_a_verdict_says_for_how_many_rounds_responses_were_good_whoever_gives_it() -> None:
    """What ends an incident that responses have shown, in a pod that has not seen it (agent/alerting)."""
    monitor = Monitor(RULES)
    counts = []
    for number, log_l in enumerate((FOR, FOR, AGAINST, FOR)):
        responses = [score(log_l[:2])] * 6
        judged = monitor.observe(traffic_round(*responses, number=number, adapters=ADAPTERS))
        counts += [v.good_responses for v in judged.verdicts if v.subject == "router"]
        counts += [v["router"].good_responses for v in play(monitor, ALL, first=number)]
    assert counts == [1, 1, 2, 0, 0, 1, 1]
    (alone,) = play(Monitor(RULES, {"adapter_gap": default_configs(RULES.tolerances)["adapter_gap"]}), ALL)
    assert alone["router"].good_responses is None, "where responses are not judged"

"""What a restart goes on from: state as it is saved now, and as versions before this one saved it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from agent.alerting.checkpoint import StateFile
from agent.alerting.fleet import ALONE, LEAST_FRESH_S, Fleet
from agent.alerting.judge import Judge
from agent.alerting.policy import Policy
from agent.records import (
    AdapterClock,
    Finding,
    GoldenAccepted,
    Notice,
    NoticeKind,
    NoticeReason,
    PassportClocks,
    ScoredResponses,
)
from detectors.canaries.tolerance import Tolerances
from detectors.kinds import traffic_likelihood
from detectors.monitor import Monitor
from detectors.records import THE_FILES, BaseRound, Evidence, FilesReplay, FilesRound, Identity, Verdict
from detectors.traffic_records import Embedding, Side, TrafficScore
from detectors.verdicts.incident import Rules
from tests.detectors.responses import AGAINST, FOR, score, traffic_round
from tests.detectors.synthetic import ADAPTERS, make_base_round

# Saved by version 0.1 after ``STORY``: settings by their repr, onsets apart, counters of rounds among the alerts.
FORMER = Path(__file__).resolve().parents[1] / "golden" / "state_with_config_reprs.json"
HEALTHY = dict.fromkeys(ADAPTERS, "healthy")
BROKEN = HEALTHY | {"router": "not_applied", "extractor": "blocked"}


def responses(number: int, *scores: TrafficScore) -> ScoredResponses:
    record = traffic_round(*scores, number=number, adapters=ADAPTERS)
    return ScoredResponses("smol", record.at, (), record, {})


def of_rewriter(log_l: tuple[float, ...]) -> list[TrafficScore]:
    return [score(log_l[:2], adapter="rewriter")] * 6


STORY: Sequence[BaseRound | ScoredResponses] = (
    make_base_round(HEALTHY, 0),
    make_base_round(HEALTHY | {"router": "not_applied"}, 1),
    responses(1, *of_rewriter(AGAINST)),
    make_base_round(BROKEN, 2),
    make_base_round(BROKEN, 3),
)


def judge(folder: Path, configs: Mapping[str, object] | None = None) -> Judge:
    return Judge(Monitor(Rules(Tolerances(), 20.0), configs), "prod", StateFile(folder), lambda _: ALONE)


@pytest.fixture(params=["as saved now", "as saved before"])
def restarted(tmp_path: Path, request: pytest.FixtureRequest) -> Judge:
    if request.param == "as saved before":
        shutil.copy(FORMER, tmp_path / "monitor.json")
    else:
        before = judge(tmp_path)
        for record in STORY:
            before(record, record.at)
        before.save()
    return judge(tmp_path)


def notices(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(notice.verdict.subject, notice.reason.value) for notice in findings if isinstance(notice, Notice)]


def verdicts(findings: Sequence[Finding]) -> dict[str, Verdict]:
    return {verdict.subject: verdict for verdict in findings if isinstance(verdict, Verdict)}


def test_incidents_counters_and_what_was_told_are_those_of_before(restarted: Judge) -> None:
    findings = restarted(make_base_round(BROKEN, 4), 240.0)
    assert notices(findings) == [("extractor", "cannot_tell")], "its third silent round; nobody is paged twice"
    found = verdicts(findings)
    assert {name: verdict.reason.value for name, verdict in found.items()} == {
        "router": "still_degraded",
        "rewriter": "still_degraded",
        "extractor": "unreadable",
        "smol": "within_tolerance",
    }
    onset = found["router"].onset
    assert onset is not None and (onset.after, onset.by, onset.estimate) == (0.0, 60.0, 60.0)
    assert "no response was scored since the restart" in found["rewriter"].explanation
    recovering = verdicts(restarted(responses(5, *of_rewriter(FOR)), 300.0))["rewriter"]
    assert recovering.reason.value == "recovering"
    assert recovering.onset is not None and (recovering.onset.by, recovering.onset.estimate) == (60.0, 60.0)


def test_good_responses_before_the_first_canary_round_do_not_end_an_incident_of_the_canaries(
    restarted: Judge,
) -> None:
    for number in range(5, 8):
        findings = restarted(responses(number, *[score(FOR[:2], adapter="router")] * 6), 60.0 * number)
        assert notices(findings) == [] and "router" not in verdicts(findings)


def test_where_canaries_were_switched_off_responses_end_their_incident(restarted: Judge, tmp_path: Path) -> None:
    restarted.save()
    alone = judge(tmp_path, {"traffic_likelihood": traffic_likelihood.Config()})
    sent = [notices(alone(responses(n, *[score(FOR[:2], adapter="router")] * 6), 60.0 * n)) for n in (5, 6)]
    assert sent == [[], [("router", "recovered")]]


def test_evidence_goes_on_where_it_was_unless_the_rule_of_its_scores_is_another(
    restarted: Judge, request: pytest.FixtureRequest
) -> None:
    """A state saved before what is beyond tolerance depended on the base shift starts at 0 in those two detectors."""
    findings = restarted(make_base_round(BROKEN, 4), 240.0)
    levels = {(e.subject, e.detector): (e.n, round(e.log_e, 9)) for e in findings if isinstance(e, Evidence)}
    before = "as saved before" in request.node.name
    for detector in ("adapter_gap", "golden_agreement", "logit_shift"):
        fresh = before and detector == "adapter_gap"
        assert levels["router", detector] == (16, 45.073666682), "it restarts while it is above the threshold"
        assert levels["rewriter", detector] == ((16, -1.045117693) if fresh else (80, 0.043943837))
        assert levels["extractor", detector] == ((0, 0.0) if fresh else (32, -0.519045765))


def test_a_bases_evidence_goes_on_where_it_was_and_starts_at_0_where_it_was_against_another_share(
    restarted: Judge, request: pytest.FixtureRequest
) -> None:
    findings = restarted(make_base_round(BROKEN, 4), 240.0)
    (found,) = [e for e in findings if isinstance(e, Evidence) and e.subject == "smol"]
    assert found.n == (16 if "before" in request.node.callspec.id else 80)


@pytest.mark.parametrize("members", [3, 40, 100])
def test_a_base_that_takes_all_its_adapters_with_it_is_one_page(members: int, tmp_path: Path) -> None:
    agent, sent = judge(tmp_path), []
    for number, fault in enumerate(["healthy", "not_applied"]):
        (one,) = make_base_round({"router": fault}, number).members
        everybody = tuple(replace(one, adapter=f"adapter-{i}") for i in range(members))
        sent.append(notices(agent(BaseRound("smol", number, one.at, everybody), one.at)))
    assert sent == [[], [("smol", "degraded")]]


FOREIGN: Mapping[str, object] = {
    "another program's": {"jobs": []},
    "no monitor": {"alerts": {}, "goldens": {}},
    "a monitor of another shape": {
        "alerts": {},
        "goldens": {},
        "monitor": {"detectors": {}, "incidents": [{"kind": "adapter"}]},
    },
    "alerts of another shape": {"alerts": {"adapter/router": {}}, "goldens": {}, "monitor": {}},
}


@pytest.mark.parametrize("state", FOREIGN.values(), ids=FOREIGN)
def test_a_state_that_cannot_be_read_is_set_aside_and_judging_begins_anew(tmp_path: Path, state: object) -> None:
    path = tmp_path / "monitor.json"
    path.write_bytes(orjson.dumps({"version": 2, "state": state}))
    foreign = path.read_bytes()
    fresh, given = judge(tmp_path / "fresh"), judge(tmp_path)
    assert path.with_suffix(".damaged").read_bytes() == foreign
    for record in STORY:
        assert given(record, record.at) == fresh(record, record.at)


def test_half_a_restored_monitor_is_as_if_nothing_was_restored(tmp_path: Path) -> None:
    """The evidence comes first in the file: what follows may be what cannot be read."""
    before = judge(tmp_path)
    for record in STORY:
        before(record, record.at)
    before.save()
    path = tmp_path / "monitor.json"
    stored = orjson.loads(path.read_bytes())
    stored["state"]["monitor"]["incidents"][0]["kind"] = "tenant"
    path.write_bytes(orjson.dumps(stored))
    fresh, given = judge(tmp_path / "fresh"), judge(tmp_path)
    for record in STORY:
        assert given(record, record.at) == fresh(record, record.at)


def test_another_number_of_pods_moves_the_threshold_and_keeps_evidence_and_incidents(tmp_path: Path) -> None:
    alone, shared = judge(tmp_path / "a"), judge(tmp_path / "b")
    for record in STORY:
        alone(record, record.at)
        shared(record, record.at)
    shared.share_budget(20, Monitor(Rules(Tolerances(), 23.0)))
    assert (alone.log_threshold, shared.log_threshold, shared.pods) == (20.0, 23.0, 20)
    following = make_base_round(BROKEN, 4)
    before, after = (one(following, following.at) for one in (alone, shared))
    assert levels(before) == levels(after)
    told = [[(v.subject, v.status, v.reason) for v in found if isinstance(v, Verdict)] for found in (before, after)]
    assert told[0] == told[1]
    sent = [[(one.dedup_key, one.reason) for one in found if isinstance(one, Notice)] for found in (before, after)]
    assert sent[0] == sent[1] and not [key for key, reason in sent[1] if reason is NoticeReason.DEGRADED]
    shared.save()
    assert judge(tmp_path / "b").pods == 20, "while the store is away a restart knows it"


def test_another_number_of_pods_is_no_restart(tmp_path: Path) -> None:
    """Where the threshold stays, too, all that is said is the same: of an adapter that canaries cannot judge good
    responses do not say that it can be, and nobody is told of a restart."""
    of_extractor = [score(FOR[:2], adapter="extractor")] * 6
    following: Sequence[BaseRound | ScoredResponses] = (
        responses(4, *of_extractor),
        make_base_round(BROKEN, 4),
        responses(5, *of_rewriter(FOR)),
    )
    told = []
    for pods in (1, 20):
        judging = judge(tmp_path / str(pods))
        for record in STORY:
            judging(record, record.at)
        judging.share_budget(pods, Monitor(Rules(Tolerances(), 20.0)))
        told.append([judging(record, record.at) for record in following])
    assert [list(map(str, found)) for found in told[1]] == [list(map(str, found)) for found in told[0]]
    assert "extractor" not in verdicts(told[1][0])
    assert "restart" not in verdicts(told[1][1])["rewriter"].explanation


def levels(found: Sequence[Finding]) -> list[tuple[str, str, float]]:
    """Of the canaries: what one response adds follows from the threshold."""
    evidence = [one for one in found if isinstance(one, Evidence) and one.detector != "traffic_likelihood"]
    return [(one.subject, one.detector, one.log_e) for one in evidence]


def embedded(first: int, n: int) -> ScoredResponses:
    """Prompts of the router, one of each offset."""
    random = np.random.default_rng(first)
    vectors = random.standard_normal((n, 8)).astype(np.float32)
    prompts = tuple(
        Embedding("router", Side.PROMPT, f"r{first + i}", v, float(first + i)) for i, v in enumerate(vectors)
    )
    return ScoredResponses("smol", float(first), prompts, None, {("t", 0, "router"): first + n})


def references(agent: Judge) -> int:
    """Of the router's prompts, in the bank of embedding drift."""
    own = agent._monitor._detectors["embedding_drift"].state.banks
    return sum(len(bank.references) for bank in own.values())


def test_after_a_crash_no_embedding_is_counted_twice_and_those_of_ten_minutes_are_left_out(tmp_path: Path) -> None:
    before = judge(tmp_path)
    before(embedded(0, 5), 0.0)
    before.save()
    before(embedded(5, 5), 60.0)
    before.save()
    after = judge(tmp_path)
    assert (after.judged, references(after)) == ({("t", 0, "router"): 10}, 5)
    before.save(closing=True)
    assert references(judge(tmp_path)) == 10


def test_references_of_another_golden_record_are_not_gone_on_with(tmp_path: Path) -> None:
    before = judge(tmp_path)
    before(GoldenAccepted("router", "smol", "sha256:a", "", "first", 0.0, b""), 0.0)
    before(embedded(0, 5), 0.0)
    before.save()
    of_the_former = (tmp_path / "own_past.json").read_bytes()
    before(GoldenAccepted("router", "smol", "sha256:b", "sha256:a", "release", 0.0, b""), 0.0)
    before(embedded(5, 3), 60.0)
    before.save()
    assert references(judge(tmp_path)) == 3, "written at once"
    (tmp_path / "own_past.json").write_bytes(of_the_former)  # a crash between the two files
    assert references(judge(tmp_path)) == 0


def test_a_file_of_an_earlier_version_has_the_references_within(tmp_path: Path) -> None:
    before = judge(tmp_path)
    before(embedded(0, 5), 0.0)
    before.save()
    path = tmp_path / "monitor.json"
    stored = orjson.loads(path.read_bytes())
    own_past = orjson.loads((tmp_path / "own_past.json").read_bytes())["state"]
    before(embedded(5, 5), 60.0)
    before.save(closing=True)  # by a later version, before this one was put in place again
    stored["state"]["monitor"]["detectors"] |= own_past["detectors"]
    stored["state"]["monitor"]["drift"] = own_past["drift"]
    path.write_bytes(orjson.dumps(stored))
    assert references(judge(tmp_path)) == 5


ENGINE = "vllm 0.33.0, scoring in the prompt"
GOLDEN = make_base_round(HEALTHY).members[0].measurements[0].comparison.reference.golden


def asked(by: str, faults: Mapping[str, str], number: int) -> BaseRound:
    round = make_base_round(faults, number)
    return replace(round, members=tuple(replace(member, answered_by=by) for member in round.members))


def of_engine(folder: Path, fleet: Fleet | None = ALONE) -> Judge:
    """After a healthy round of its engine; the golden records in force are those of the rounds."""
    made = Judge(Monitor(Rules(Tolerances(), 20.0)), "prod", StateFile(folder), lambda _: fleet)
    for name in ADAPTERS:
        made(GoldenAccepted(name, "smol", GOLDEN, "", "", 0.0, b""), 0.0)
    made(asked(ENGINE, HEALTHY, 0), 0.0)
    return made


def page(findings: Sequence[Finding]) -> Notice:
    (notice,) = [finding for finding in findings if isinstance(finding, Notice)]
    return notice


def all_of(notice: Notice) -> str:
    """What was seen: in short, and the rest."""
    return "; ".join(notice.details[name] for name in ("seen", "in detail") if name in notice.details)


def test_a_page_says_what_this_pod_has_replayed_from_the_files_beside_its_engine(tmp_path: Path) -> None:
    made = of_engine(tmp_path)
    files = made(FilesRound(asked(THE_FILES, HEALTHY, 1)), 60.0)
    assert [type(finding) for finding in files] == [FilesReplay] * 3
    opened = page(made(asked(ENGINE, HEALTHY | {"router": "not_applied"}, 2), 120.0))
    sentence = "the files are as accepted (replayed in this pod at 00:01 UTC) and the engine serves the base"
    assert sentence in all_of(opened)
    assert opened.details["canaries answered by"] == ENGINE


def test_files_at_fault_beside_an_engine_that_holds_the_former_ones_are_said_and_page_nobody(tmp_path: Path) -> None:
    made = of_engine(tmp_path)
    made(FilesRound(asked(THE_FILES, HEALTHY | {"router": "not_applied"}, 1)), 60.0)
    findings = made(asked(ENGINE, HEALTHY, 2), 120.0)
    assert notices(findings) == [] and verdicts(findings)["router"].status.value == "healthy"
    assert "the engine answers as accepted and the files do not" in verdicts(findings)["router"].explanation
    assert "files" not in verdicts(findings)["rewriter"].explanation


@pytest.mark.parametrize(
    ("fleet", "said"),
    [
        (None, "whether the files are as accepted is not known"),
        (Fleet(), "whether the files are as accepted is not known"),
        (Fleet(files={"router": FilesReplay("router", "smol", GOLDEN, 90.0, True, 0.0, Identity(), "witness-0")}),
         "the files are as accepted (replayed by witness-0 at 00:01 UTC)"),
        (Fleet(files={"router": FilesReplay("router", "smol", "of another record", 90.0, True, 0.0, Identity(), "w")}),
         "whether the files are as accepted is not known"),
    ],
)  # fmt: skip
def test_a_page_goes_out_with_what_the_store_knows_of_the_files_or_without(
    tmp_path: Path, fleet: Fleet | None, said: str
) -> None:
    opened = page(of_engine(tmp_path, fleet)(asked(ENGINE, HEALTHY | {"router": "not_applied"}, 1), 120.0))
    assert opened.reason is NoticeReason.DEGRADED and said in all_of(opened)


def test_a_store_that_does_not_answer_is_taken_at_its_last_word_while_that_is_fresh(tmp_path: Path) -> None:
    told = FilesReplay("router", "smol", GOLDEN, 0.0, True, 0.0, Identity(), "witness-0")
    answers: list[Fleet | None] = [Fleet(files={"router": told}), None, None]
    made = Judge(Monitor(Rules(Tolerances(), 20.0)), "prod", StateFile(tmp_path), lambda _: answers.pop(0))
    made(GoldenAccepted("router", "smol", GOLDEN, "", "", 0.0, b""), 0.0)
    made(asked(ENGINE, HEALTHY, 0), 0.0)
    broken = HEALTHY | {"router": "not_applied"}
    assert "replayed by witness-0 at 00:00 UTC" in all_of(page(made(asked(ENGINE, broken, 1), 60.0)))
    late = verdicts(made(asked(ENGINE, broken, 2), LEAST_FRESH_S + 60.0))["router"]
    assert "whether the files are as accepted is not known" in late.explanation


def test_a_replay_by_the_record_that_the_engine_was_measured_against_counts_and_by_another_one_does_not(
    tmp_path: Path,
) -> None:
    """A witness compares the files with the one made in process, and sidecars the engine with the one made on it."""
    said = []
    for number, golden in enumerate((OFFLINE := "sha256:made in process", "sha256:of a former release", "")):
        told = FilesReplay("router", "smol", golden, 90.0, True, 0.0, Identity(), "witness-0")
        made = of_engine(tmp_path / str(number), Fleet(files={"router": told}))
        made(GoldenAccepted("router", "smol", GOLDEN, "", "", 0.0, b"", made_on=ENGINE, offline=OFFLINE), 0.0)
        opened = page(made(asked(ENGINE, HEALTHY | {"router": "not_applied"}, 1), 120.0))
        said.append("the files are as accepted (replayed by witness-0" in all_of(opened))
    assert said == [True, False, False]


def test_what_this_pod_replayed_counts_before_another_and_not_for_ever(tmp_path: Path) -> None:
    told = FilesReplay("router", "smol", GOLDEN, 90.0, True, 0.0, Identity(), "witness-0")
    made, late = of_engine(tmp_path, Fleet(files={"router": replace(told, at=LEAST_FRESH_S)})), LEAST_FRESH_S + 120.0
    made(FilesRound(asked(THE_FILES, HEALTHY | {"router": "not_applied"}, 1)), 60.0)
    opened = page(made(asked(ENGINE, HEALTHY | {"router": "not_applied"}, 2), 120.0))
    assert "the files do not answer as accepted either (replayed in this pod" in all_of(opened)
    later = verdicts(made(asked(ENGINE, HEALTHY | {"router": "not_applied"}, 3), late))["router"]
    assert "the files are as accepted (replayed by witness-0" in later.explanation


def test_a_golden_record_older_than_the_policy_is_one_change_event(tmp_path: Path) -> None:
    monitor = Monitor(Rules(Tolerances(), 20.0))
    agent = Judge(monitor, "prod", StateFile(tmp_path), lambda _: ALONE, golden_max_age_s=90 * 86_400.0)
    day_s, now = 86_400.0, 1_790_000_000.0
    for adapter, age in (("router", 91), ("rewriter", 89)):
        agent(GoldenAccepted(adapter, "smol", f"sha256:{adapter}", "", "first", now - age * day_s, b""), now)
    found = [notices(agent(make_base_round(HEALTHY, number), now + 60 * number)) for number in range(3)]
    assert found == [[("router", "golden_old")], [], []]


def test_what_a_passport_says_runs_out_is_one_change_event_and_is_handed_on(tmp_path: Path) -> None:
    agent = Judge(Monitor(Rules(Tolerances(), 20.0)), "prod", StateFile(tmp_path), lambda _: ALONE)
    near = AdapterClock("router", "data_expiry", 1e9, "7 days", "data_expiry 2026-12-05 7 days", "its data expires")
    far = AdapterClock("rewriter", "data_expiry", 2e9, "", "data_expiry 2030-01-01 ", "its data expires")
    read = PassportClocks(0.0, (near, far))
    assert agent(read, 0.0) == [read]
    found = [notices(agent(make_base_round(HEALTHY, number), 60.0 * number)) for number in range(3)]
    assert found == [[("router", "passport_clock")], [], []]


@pytest.mark.parametrize(
    ("lost", "subject", "words"),
    [
        (HEALTHY | {"router": "not_applied"}, "router", "5.5% in 9 draws"),
        (dict.fromkeys(ADAPTERS, "not_applied"), "smol", "rewriter not known; router 5.5% in 9 draws"),
    ],
)
def test_a_notice_that_all_is_well_says_how_small_a_loss_would_be_noticed(
    lost: Mapping[str, str], subject: str, words: str, tmp_path: Path
) -> None:
    """Of the adapter, and of a base by each adapter whose record is known; a page of a fault says nothing of it."""
    own = judge(tmp_path)
    for adapter, loss in (("router", 0.055), ("rewriter", None)):
        own(GoldenAccepted(adapter, "smol", f"sha256:{adapter}", "", "first", 0.0, b"", loss, 9), 0.0)
    story = [HEALTHY, *[lost] * 3, *[HEALTHY] * 8]
    sent = [
        notice
        for number, answers in enumerate(story)
        for notice in own(make_base_round(answers, number), 60.0 * number)
        if isinstance(notice, Notice)
    ]
    assert [(notice.verdict.subject, notice.reason) for notice in sent] == [
        (subject, NoticeReason.DEGRADED),
        (subject, NoticeReason.RECOVERED),
    ]
    page, end = sent
    assert "pages for a loss of" not in page.details
    assert end.details["pages for a loss of"] == words


def test_a_page_says_how_the_team_rolls_back_behind_what_to_do_first_and_its_end_does_not(tmp_path: Path) -> None:
    policy = Policy(rollback="kubectl rollout undo deploy/llm")
    made = Judge(Monitor(Rules(Tolerances(), 20.0)), "prod", StateFile(tmp_path), lambda _: ALONE, policy=policy)
    notices = [
        finding
        for number in range(1, 12)
        for finding in made(
            make_base_round(HEALTHY | ({"router": "not_applied"} if number < 4 else {}), number), 60.0 * number
        )
        if isinstance(finding, Notice)
    ]
    opened, *_, ended = notices
    assert list(opened.details)[:3] == ["seen", "first action", "roll back"]
    assert opened.details["roll back"] == "kubectl rollout undo deploy/llm"
    assert ended.kind is NoticeKind.RESOLVE and "roll back" not in ended.details

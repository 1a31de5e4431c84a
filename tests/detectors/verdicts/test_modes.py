"""Incidents of a serving mode: opened by its own stream, named by the mode that makes the difference, ended by its own
draws, and never about files."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_process_bank import EProcessBank
from detectors.monitor import Monitor
from detectors.records import (
    THE_FILES,
    BaseRound,
    Cause,
    Measurement,
    Mode,
    Reason,
    Round,
    Status,
    SubjectKind,
    Verdict,
)
from detectors.verdicts.incident import Incident, Outcome, RoundResult, Rules, advance
from detectors.verdicts.modes import is_rare_in_a_mode, of_all_members, of_modes
from detectors.verdicts.recovery import DrawCounts
from tests.detectors.synthetic import make_round

T = Tolerances()
RULES = Rules(T, 15.0)
WRITTEN, STREAMED, CHAT, WARM, LONG = Mode
FACTORS = (CHAT, STREAMED, WARM)
ROUTER = (SubjectKind.ADAPTER, "router")
PAIRS = tuple(
    (kept, tuple(m for m in FACTORS if m not in kept)) for kept in ((), (STREAMED,), (CHAT,), (CHAT, STREAMED))
)


def in_pairs(
    number: int,
    at_fault: Mode | None,
    fault: str = "healthy",
    canaries: int = 16,
    floor: bool = True,
    adapter: str = "router",
) -> Round:
    """Each of the first drawn canaries in two cells; the one mode is apart, WRITTEN in both."""
    plain = make_round(adapter, fault, number)
    drawn = [m for m in plain.measurements if m.comparison.draws][:canaries]
    cells = [
        cell(m, tuple(sorted((*chosen, WRITTEN))), at_fault, floor)
        for i, m in enumerate(drawn)
        for chosen in PAIRS[(number + i) % 4]
    ]
    return replace(plain, cells=tuple(cells))


def cell(scored: Measurement, modes: tuple[Mode, ...], at_fault: Mode | None, floor: bool) -> Measurement:
    floors = dict.fromkeys(Mode, 0.0) if floor else {}
    reference = replace(scored.comparison.reference, mode_floors=floors)
    return replace(
        scored,
        comparison=replace(scored.comparison, modes=modes, reference=reference),
        mode_shift=float(at_fault in modes),
    )


def played(*rounds: Round) -> tuple[Monitor, list[Verdict]]:
    monitor, verdicts = Monitor(RULES), []
    for round in rounds:
        judged = monitor.observe(BaseRound("smol", round.number, round.at, (round,)))
        verdicts += [verdict for verdict in judged.verdicts if verdict.subject == "router"]
    return monitor, verdicts


@pytest.mark.parametrize(
    "mode, cause",
    [
        (WARM, Cause.SHARED_CACHE),
        (STREAMED, Cause.SERVING_PATH),
        (CHAT, Cause.SERVING_PATH),
        (WRITTEN, Cause.SERVING_PATH),
    ],
)
def test_a_mode_at_fault_alone_alarms_in_the_first_whole_grid_and_is_the_cause(mode: Mode, cause: Cause) -> None:
    monitor, [verdict] = played(in_pairs(0, mode))
    assert (verdict.status, verdict.reason, verdict.cause) == (Status.DEGRADED, Reason.ALARM, cause)
    assert monitor.incidents[ROUTER].mode is mode
    assert verdict.retention is not None and verdict.retention.mean == pytest.approx(1.0, abs=0.01)
    assert "file" not in verdict.explanation
    assert verdict.onset is not None and verdict.onset.latest is None, "the scored draws do not date it"


def test_modes_without_a_measured_noise_inform_and_page_nobody() -> None:
    monitor, verdicts = played(*(in_pairs(number, WARM, floor=False) for number in range(4)))
    assert {verdict.status for verdict in verdicts} == {Status.HEALTHY}
    levels = {e.stream: (e.log_e, e.pages) for e in verdicts[-1].evidence if e.detector == "serving_modes"}
    assert levels["warm"][0] > RULES.log_threshold and not levels["warm"][1]
    assert not monitor.open_subjects
    assert (
        "as a stream, at its chat endpoint, through its cache of prefixes can page nobody" in verdicts[-1].explanation
    )


def test_where_every_mode_may_page_nothing_is_said_of_that() -> None:
    _, verdicts = played(in_pairs(0, None))
    assert "page nobody" not in verdicts[-1].explanation


def test_an_adapter_that_is_lost_in_every_mode_is_that_and_no_mode() -> None:
    monitor, verdicts = played(*(in_pairs(number, None, "not_applied") for number in range(2)))
    assert verdicts[-1].cause is Cause.ADAPTER_NOT_APPLIED
    assert monitor.incidents[ROUTER].mode is None


def test_where_both_alarm_the_scored_answers_are_the_fault() -> None:
    monitor, [verdict] = played(in_pairs(0, WARM, "not_applied"))
    assert verdict.cause is Cause.ADAPTER_NOT_APPLIED and monitor.incidents[ROUTER].mode is None


def test_it_ends_by_draws_of_that_mode_and_not_without_any() -> None:
    rounds = [in_pairs(0, WARM), *(in_pairs(number, None, canaries=0) for number in range(1, 5))]
    _, verdicts = played(*rounds)
    assert [verdict.reason for verdict in verdicts[1:]] == [Reason.RECOVERING] * 4
    _, verdicts = played(*rounds, *(in_pairs(number, None) for number in range(5, 7)))
    assert verdicts[5].reason is Reason.RESOLVED
    _, verdicts = played(*rounds, *(in_pairs(number, WARM, canaries=4) for number in range(5, 9)))
    assert {verdict.reason for verdict in verdicts[5:]} == {Reason.STILL_DEGRADED}


def without_floor(round: Round, unmeasured: Mode) -> Round:
    def without(m: Measurement) -> Measurement:
        floors = {mode: floor for mode, floor in m.comparison.reference.mode_floors.items() if mode is not unmeasured}
        return replace(
            m, comparison=replace(m.comparison, reference=replace(m.comparison.reference, mode_floors=floors))
        )

    return replace(round, cells=tuple(map(without, round.cells)))


def test_a_mode_whose_noise_was_not_measured_pages_nobody_by_way_of_another() -> None:
    monitor, verdicts = played(*(without_floor(in_pairs(number, CHAT), CHAT) for number in range(4)))
    assert {verdict.status for verdict in verdicts} == {Status.HEALTHY} and not monitor.open_subjects


def after_long_prompts(round: Round, apart: bool) -> Round:
    """A pool with too few long prompts to measure LONG has them in every other mode."""
    long = []
    for m in round.cells[:16]:
        modes = tuple(sorted((*m.comparison.modes, LONG)))
        long.append(replace(m, mode_shift=float(apart), comparison=replace(m.comparison, modes=modes)))
    return without_floor(replace(round, cells=(*long, *round.cells[16:])), LONG)


def test_an_incident_is_of_a_mode_that_can_end_it() -> None:
    rounds = [after_long_prompts(in_pairs(0, None), apart=True)]
    rounds += [after_long_prompts(in_pairs(number, None), apart=False) for number in range(1, 8)]
    _, verdicts = played(*rounds)
    assert verdicts[0].reason is Reason.ALARM and verdicts[0].cause is Cause.SERVING_PATH
    assert "where they are long" in verdicts[0].explanation
    assert Reason.RESOLVED in [verdict.reason for verdict in verdicts]


def test_one_ends_by_scored_draws_once_its_canaries_are_replayed_from_the_files() -> None:
    rounds = [in_pairs(0, WARM), *(replace(in_pairs(n, None, canaries=0), answered_by=THE_FILES) for n in (1, 2, 3))]
    _, verdicts = played(*rounds)
    assert Reason.RESOLVED in [verdict.reason for verdict in verdicts]


def test_few_draws_apart_are_in_the_words_and_a_rare_many_is_suspect() -> None:
    _, [verdict] = played(in_pairs(0, CHAT, canaries=1))
    assert verdict.status is Status.HEALTHY
    assert "draws answered at its chat endpoint 1 differ from what the engine scores" in verdict.explanation
    _, [verdict] = played(in_pairs(0, CHAT, canaries=3))
    assert (verdict.status, verdict.reason) == (Status.SUSPECT, Reason.EVIDENCE_GROWING)


def test_a_healthy_round_is_suspect_by_its_modes_with_chance_one_in_a_hundred_at_most() -> None:
    """Exactly, at the edge of the null, for every number of draws; the sum over the modes bounds any dependence."""
    for drawn in range(1, 33):
        beyond = next(k for k in range(drawn + 2) if k > drawn or is_rare_in_a_mode(DrawCounts(drawn, k, T.share)))
        chance = sum(
            float(np.prod([(drawn - i) / (i + 1) for i in range(k)])) * T.share**k * (1 - T.share) ** (drawn - k)
            for k in range(beyond, drawn + 1)
        )
        assert len(Mode) * chance <= 0.01


def test_only_modes_that_may_page_decide() -> None:
    assert set(of_modes(in_pairs(0, None), T)) == {WRITTEN, STREAMED, CHAT, WARM}
    assert not of_modes(in_pairs(0, None, floor=False), T)


def test_an_incident_remembers_its_mode_and_one_of_an_earlier_version_has_none() -> None:
    open = Incident(open=True, mode=WARM)
    assert Incident.from_json(open.to_json()) == open
    former = {name: value for name, value in open.to_json().items() if name != "mode"}
    assert Incident.from_json(former).mode is None


def reasons_of_a_lasting_fault(share: float, seed: int, rounds: int, draws: int = 4) -> list[Reason]:
    """A mode in which this share of the pool is apart from the first round on, until the last one."""
    generator, bank, incident = np.random.default_rng(seed), EProcessBank[Mode](), Incident()
    reasons: list[Reason] = []
    for at in range(rounds):
        scores = generator.random(draws) < share
        bank.advance({WARM: scores}, T.share, 8, float(at))
        counts = DrawCounts(draws, int(scores.sum()), T.share)
        onset, outcome = bank.onset(WARM), Outcome.BAD if counts.share > T.share else Outcome.GOOD
        result = RoundResult(
            float(at),
            outcome,
            log_e=bank.level(WARM),
            onset_at=None if onset is None else onset.at,
            draws=counts,
            scores=DrawCounts(16, 0, T.share),
            mode=incident.mode or WARM,
            in_modes={WARM: counts},
        )
        step = advance(incident, result, Rules(T, 21.5))
        incident = step.after
        reasons.append(step.reason)
        if step.reason in (Reason.ALARM, Reason.RESOLVED):
            bank.restart(WARM)
    return reasons


@pytest.mark.parametrize("share", [0.2, 0.3, 0.5, 1.0])
def test_a_fault_of_some_canaries_in_a_mode_does_not_end_by_the_luck_of_its_alarm(share: float) -> None:
    """Four draws a round: those of the alarm alone say too much. 20 faults, 150 rounds each; the bound on the chance of
    a false end is 150 / 1,000 for each, and what is met is far below it."""
    played = [reasons_of_a_lasting_fault(share, seed, 150) for seed in range(20)]
    assert all(Reason.ALARM in reasons for reasons in played)
    assert sum(Reason.RESOLVED in reasons for reasons in played) <= 2


def test_the_rounds_of_a_mode_are_saved_and_forgotten_at_the_alarm() -> None:
    counts = {WARM: DrawCounts(4, 2, T.share)}
    open_ = advance(Incident(), RoundResult(1.0, Outcome.BAD, in_modes=counts), RULES).after
    assert Incident.from_json(json.loads(json.dumps(open_.to_json()))) == open_ and open_.recent_in_modes
    alarmed = advance(open_, RoundResult(2.0, Outcome.BAD, log_e=20.0, in_modes=counts, mode=WARM), RULES).after
    assert alarmed.open and alarmed.recent_in_modes == ()


MEMBERS = ("extractor", "rewriter", "router")


def of_engine(number: int, faulty: tuple[str, ...], canaries: int = 16) -> BaseRound:
    """A round of three adapters of one base, some of which the engine streams otherwise than it scores them."""
    members = [
        in_pairs(number, STREAMED if name in faulty else None, canaries=canaries, adapter=name) for name in MEMBERS
    ]
    return BaseRound("smol", number, number * 60.0, tuple(members))


def test_a_mode_that_is_at_fault_for_all_adapters_of_an_engine_is_one_page_of_their_base() -> None:
    monitor = Monitor(RULES)
    judged = {v.subject: v for v in monitor.observe(of_engine(0, MEMBERS)).verdicts}
    assert {v.status for v in judged.values()} == {Status.DEGRADED}
    assert {name for name, v in judged.items() if not v.covered_by} == {"smol"}
    base = judged["smol"]
    assert base.reason is Reason.ALARM and base.cause is Cause.SERVING_PATH and "streamed" in base.explanation
    assert "affected: 3 of 3 adapters of smol" in base.explanation
    drawn = of_all_members(of_engine(0, MEMBERS), T)[STREAMED].drawn
    assert f"of {drawn} draws answered as a stream {drawn} differ from what the engine scores" in base.explanation
    assert monitor.incidents[SubjectKind.BASE, "smol"].mode is STREAMED
    reasons = [
        next(v.reason for v in monitor.observe(of_engine(number, ())).verdicts if v.subject == "smol")
        for number in range(1, 8)
    ]
    assert Reason.RESOLVED in reasons


@pytest.mark.parametrize("faulty", [(), ("router",)])
def test_a_mode_that_is_at_fault_for_one_adapter_is_not_its_bases(faulty: tuple[str, ...]) -> None:
    monitor, pages = Monitor(RULES), set()
    for number in range(6):
        judged = monitor.observe(of_engine(number, faulty)).verdicts
        pages |= {v.subject for v in judged if v.status is Status.DEGRADED and not v.covered_by}
    assert pages == set(faulty)


def test_a_base_whose_mode_is_not_had_any_more_stays_as_it_is() -> None:
    monitor = Monitor(RULES)
    monitor.observe(of_engine(0, MEMBERS))
    for number in range(1, 6):
        verdicts = monitor.observe(of_engine(number, (), canaries=0)).verdicts
    assert {v.reason for v in verdicts if v.subject == "smol"} == {Reason.RECOVERING}

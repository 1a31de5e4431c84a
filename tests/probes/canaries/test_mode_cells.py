"""Which canaries are answered in which modes, and what an engine's faults in one mode look like beside its scores."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.mode_gap import FACTORS, faulty_mode, is_apart
from detectors.canaries.tolerance import Tolerances
from detectors.evidence.e_detector import grid
from detectors.records import BaseRound, Mode, Round
from probes.canaries import mode_cells
from probes.canaries.mode_cells import DRAWS, DRAWS_AT_EVENT, drawn_for_cells, mean_scored, two_cells
from probes.canaries.round import Scheduled, replay_base_round
from probes.canaries.schedule import RoundPlan, plan_round
from probes.errors import EngineAway
from probes.golden.record import Golden
from probes.runners.served import SUSPECT_ROUNDS, Config, Runner
from probes.serving.engine import Answered, Request
from tests.probes.worlds import ADAPTERS, enrolled, never
from tests.serving_engines.in_process import Engine
from tests.serving_engines.toy_engine import ToyEngine

T = Tolerances()
WRITTEN, STREAMED, CHAT, WARM, LONG = Mode
BUDGET = 256


def engine(*modes: Mode) -> Engine:
    behind = Engine(ToyEngine(adapters=dict(ADAPTERS)))
    behind.modes = modes or FACTORS
    return behind


def opened(behind: Engine) -> Runner:
    limits = {"tokens_a_minute": 10**9, "requests_a_minute": 10**6}  # no test waits for the next minute
    config = Config({"url": "http://toy"}, behind.toy.base, {"alpha": ""}, limits=limits)
    runner = Runner(config, lambda *_: behind)
    runner.open()
    return runner


def golden(floor: float = 0.0) -> Golden:
    known = enrolled("alpha")
    floors = dict.fromkeys(Mode, floor)
    canaries = [replace(c, reference=replace(c.reference, mode_floors=floors)) for c in known.canaries]
    return replace(known, canaries=tuple(canaries))


def round_of(runner: Runner, number: int = 0, budget: int = BUDGET) -> Round:
    done = replay_base_round(runner, {"alpha": golden()}, Scheduled("toy", number, 0.0, budget, 1), never)
    assert isinstance(done, BaseRound)
    return done.members[0]


def after_a_healthy_one(behind: Engine, fault: str, value: object = True) -> Round:
    """A round before which a fault began without an event: with one, the route would be checked again first."""
    runner = opened(behind)
    round_of(runner)
    setattr(behind.toy.faults, fault, value)
    return round_of(runner, 1)


def apart(round: Round, mode: Mode) -> set[bool]:
    return {is_apart(m, T) for m in round.cells if mode in m.comparison.modes}


@pytest.mark.parametrize("modes", [FACTORS, (CHAT, WARM), (WARM,)])
def test_each_factor_is_in_one_of_two_cells_and_every_choice_has_its_turn(modes: tuple[Mode, ...]) -> None:
    cells = [cell for number in range(2 ** (len(modes) - 1)) for cell in two_cells(modes, number)]
    assert len(set(cells)) == len(cells) == 2 ** len(modes)
    for number in range(8):
        one, other = two_cells(modes, number)
        assert set(one) | set(other) == set(modes) and not set(one) & set(other)


def test_an_engine_that_streams_no_chats_is_asked_for_either() -> None:
    cells = [two_cells(FACTORS, number, streams_chats=False) for number in range(4)]
    assert len(set(cells)) == 2
    for one, other in cells:
        assert set(one) | set(other) == set(FACTORS) and not set(one) & set(other)
        assert {Mode.STREAMED, CHAT} not in ({*one} & {Mode.STREAMED, CHAT}, {*other} & {Mode.STREAMED, CHAT})


def test_the_first_draws_are_had_in_modes_as_often_as_each_was_drawn() -> None:
    known = golden()
    a, b, c, *others = (canary.id for canary in known.pool)
    plan = RoundPlan({}, (), (a, b, a, c, a, *others[:12]))
    assert DRAWS == 4 and drawn_for_cells(known, plan, 2048, DRAWS) == {a: 2, b: 1, c: 1}
    assert drawn_for_cells(known, plan, None, DRAWS_AT_EVENT) == dict(Counter(plan.picks[:DRAWS_AT_EVENT])) | {a: 3}


@pytest.mark.parametrize("budget", [256, 512, 1024])
def test_answers_in_modes_are_in_the_budget_of_a_round_on_average(budget: int) -> None:
    known = golden()
    plans = [plan_round(known, budget, 1, number) for number in range(300)]
    lengths = {canary.id: len(canary.forced) for canary in known.canaries}
    scored = [sum(lengths[name] for name in (*plan.draws, *plan.held_out)) for plan in plans]
    assert np.mean(scored) == pytest.approx(mean_scored(known, plans[0]), rel=0.05)
    for most in (DRAWS, DRAWS_AT_EVENT, 99):
        had = [drawn_for_cells(known, plan, budget, most) for plan in plans]
        written = [2 * sum(lengths[name] for name in each) for each in had]
        # The last draw may go beyond what is left, by its own length.
        assert np.mean(scored) + np.mean(written) <= budget + max(lengths.values())
        assert np.mean([sum(each.values()) for each in had]) >= min(6, most - 0.1)


def test_whether_a_draw_is_had_in_modes_does_not_depend_on_its_own_length() -> None:
    """Of 1,500 rounds whose budget ends after some draws, the last that was had is long as often as the pool is."""
    known, budget = golden(), 96
    lengths = {canary.id: len(canary.forced) for canary in known.pool}
    long = set(sorted(lengths, key=lengths.__getitem__)[len(lengths) // 2 :])
    plans = [plan_round(known, 512, 2, number) for number in range(1500)]
    within = round(mean_scored(known, plans[0])) + budget
    had = [sum(drawn_for_cells(known, plan, within, DRAWS_AT_EVENT).values()) for plan in plans]
    assert {2, 3, 4, 5} < set(had)
    for place in (1, 2, 3):
        there = [plan.picks[place] in long for plan, draws in zip(plans, had, strict=True) if draws > place]
        assert abs(np.mean(there) - 0.5) < 4 * 0.5 / len(there) ** 0.5


def test_an_answer_apart_has_the_round_and_those_after_it_ask_the_whole_grid() -> None:
    """A fault without an event: more draws in its own round, and fewer again once nothing is apart for some."""
    behind = engine()
    runner = opened(behind)
    round_of(runner)

    def draws(number: int) -> int:
        cells = round_of(runner, number, 1024).cells
        per_canary = {m.comparison.reference.canary: m.comparison.draws for m in cells}
        assert Counter(m.comparison.reference.canary for m in cells) == dict.fromkeys(per_canary, 2)
        return sum(per_canary.values())

    assert draws(1) == DRAWS
    behind.toy.faults.streams_base = True
    assert draws(2) == DRAWS_AT_EVENT, "in its own round, whatever the budget"
    behind.toy.faults.streams_base = False
    last = [draws(number) for number in range(3, 4 + SUSPECT_ROUNDS)]
    assert min(last[:-1]) > DRAWS and last[-1] == DRAWS


def test_an_engine_that_goes_away_while_more_is_asked_leaves_no_half_of_it() -> None:
    behind = engine()
    runner = opened(behind)
    round_of(runner)
    behind.toy.faults.streams_base = True
    generate, before = behind.generate, len(behind.written)

    def away_after_the_first(request: Request, tokens: int) -> Answered:
        if len(behind.written) - before >= 3 * DRAWS:  # two cells each, and a request that warms one of them
            raise EngineAway("http://toy", "503")
        return generate(request, tokens)

    behind.generate = away_after_the_first  # type: ignore[method-assign]
    assert round_of(runner, 1, 1024).cells == ()


def test_a_round_that_goes_on_after_answers_apart_is_as_fair_a_bet() -> None:
    """At the edge of the null: the mean factor of rounds that have 12 draws where two of 4 are apart, exactly."""
    share = T.share
    for stake in grid(share):
        one, none = 1 + stake * (1 - share), 1 - stake * share
        further = (share * one + (1 - share) * none) ** (DRAWS_AT_EVENT - DRAWS)
        mean = sum(
            math.comb(DRAWS, k)
            * (share * one) ** k
            * ((1 - share) * none) ** (DRAWS - k)
            * (further if k >= 2 else 1.0)
            for k in range(DRAWS + 1)
        )
        assert mean == pytest.approx(1.0, abs=1e-12)


def test_the_first_round_asks_the_whole_grid_and_the_next_ones_part_of_it() -> None:
    runner = opened(engine())
    first, second = round_of(runner, 0), round_of(runner, 1)
    drawn = {m.comparison.reference.canary: m.comparison.draws for m in first.measurements if m.comparison.draws}
    had = {m.comparison.reference.canary: m.comparison.draws for m in first.cells}
    assert Counter(m.comparison.reference.canary for m in first.cells) == dict.fromkeys(had, 2)
    assert all(times <= drawn[name] for name, times in had.items())
    assert sum(had.values()) == min(DRAWS_AT_EVENT, sum(drawn.values()))
    for factor in FACTORS:
        assert sum(factor in m.comparison.modes for m in first.cells) == len(had)
    assert len({m.comparison.modes for m in first.cells}) == 8
    per_canary = {m.comparison.reference.canary: m.comparison.draws for m in second.cells}
    assert sum(per_canary.values()) == DRAWS


def test_an_event_asks_the_whole_grid_again() -> None:
    behind = engine()
    runner = opened(behind)
    round_of(runner, 0)
    round_of(runner, 1)
    assert not runner.has_news()
    behind.toy.adapters["delta"] = "delta-v1"
    again = round_of(runner, 2)
    drawn = sum(m.comparison.draws for m in again.measurements)
    assert sum(m.comparison.draws for m in again.cells) == 2 * min(DRAWS_AT_EVENT, drawn)


def test_a_healthy_engine_answers_alike_in_every_mode() -> None:
    round = round_of(opened(engine()))
    assert round.cells and all(m.mode_shift < 1e-5 and m.finite for m in round.cells)
    assert faulty_mode(round.cells, T) is None


@pytest.mark.parametrize("fault, mode", [("streams_base", STREAMED), ("chats_base", CHAT), ("writes_base", WRITTEN)])
def test_a_fault_in_one_mode_is_apart_there_and_nowhere_else(fault: str, mode: Mode) -> None:
    round = after_a_healthy_one(engine(), fault)
    assert apart(round, mode) == {True} and faulty_mode(round.cells, T) is mode
    assert not any(is_apart(m, T) for m in round.cells if mode not in m.comparison.modes)
    assert all(scored.retention == pytest.approx(1.0, abs=1e-4) for scored in round.measurements)


def test_a_fault_of_prefill_that_begins_with_a_restart_is_measured_against_the_record() -> None:
    """Nothing scores what is written then; what is written is not what was accepted either."""
    behind = engine()
    runner = opened(behind)
    round_of(runner)
    behind.version = "2"
    behind.toy.faults.of_adapter["alpha"] = "not_in_prefill"
    round = round_of(runner, 1)
    assert round.blocked is None and {round.retention < 0.05 for round in round.measurements} == {True}
    assert any("is not what was accepted either" in fact for fact in round.facts)


def test_a_route_that_begins_to_score_wrongly_is_no_fault_of_an_adapter_that_writes_as_accepted() -> None:
    behind = engine()
    runner = opened(behind)
    round_of(runner)
    behind.version = "2"
    behind.toy.faults.scored_as_base.add("alpha")
    round = round_of(runner, 1)
    assert round.blocked is not None and "is blind for alpha" in round.detail


def test_long_prompts_have_a_mode_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = sorted(len(canary.prompt) for canary in enrolled("alpha").pool)
    monkeypatch.setattr(mode_cells, "LONGEST_BLOCK", lengths[len(lengths) // 2])
    round = after_a_healthy_one(engine(), "base_after", mode_cells.LONGEST_BLOCK)
    assert apart(round, LONG) == {True} and faulty_mode(round.cells, T) is LONG
    assert not any(is_apart(m, T) for m in round.cells if LONG not in m.comparison.modes)


def test_a_stale_cache_is_apart_warm_alone_after_a_reload_in_place() -> None:
    behind = engine()
    behind.toy.faults.stale_cache = True
    before = opened(behind)
    behind.toy.reload("alpha", "alpha-v0")
    round_of(before)  # what is cached now is of the former version
    behind.toy.reload("alpha", ADAPTERS["alpha"])
    round = round_of(opened(behind))
    assert faulty_mode(round.cells, T) is WARM
    assert not any(is_apart(m, T) for m in round.cells if WARM not in m.comparison.modes)


def test_a_chat_endpoint_that_does_not_answer_is_said_and_left_out() -> None:
    behind = engine()
    behind.no_chat = "no chat template"
    round = round_of(opened(behind))
    assert round.facts[-1] == "what it answers at its chat endpoint is not known: no chat template"
    assert not [m for m in round.cells if CHAT in m.comparison.modes]
    had = Counter(m.comparison.reference.canary for m in round.cells)
    assert set(had.values()) == {2}
    for factor in (STREAMED, WARM):
        assert {m.comparison.reference.canary for m in round.cells if factor in m.comparison.modes} == set(had)


def test_what_was_written_is_compared_up_to_its_first_other_token() -> None:
    round = after_a_healthy_one(engine(), "writes_base")
    whole = {m.comparison.reference.canary: len(m.comparison.served.rest) for m in round.measurements}
    lengths = [(len(m.comparison.served.rest), whole[m.comparison.reference.canary]) for m in round.cells]
    assert all(1 <= n <= all_of_it for n, all_of_it in lengths) and any(n < all_of_it for n, all_of_it in lengths)


@pytest.mark.parametrize("fault", ["not_applied", "wrong_adapter:beta", "scale:0.5"])
def test_an_adapter_that_is_wrong_in_every_mode_is_apart_in_none(fault: str) -> None:
    """Its words are others than the accepted ones, and what is scored is no further from them than what is written."""
    behind = engine()
    behind.toy.faults.of_adapter["alpha"] = fault
    round = round_of(opened(behind))
    assert len(round.cells) > 10 and max(m.mode_shift for m in round.cells) < 1e-5
    whole = {m.comparison.reference.canary: len(m.comparison.served.rest) for m in round.measurements}
    assert any(len(m.comparison.served.rest) < whole[m.comparison.reference.canary] for m in round.cells)


def test_warm_answers_come_from_a_prefix_that_is_there_and_cold_ones_are_salted() -> None:
    behind = engine()
    round_of(opened(behind))
    warm, cold = ([r for r in behind.written if r.warm is warm] for warm in (True, False))
    assert not any(r.salt for r in warm) and all(r.salt for r in cold if r.model == "alpha")
    asked = [r.prompt for r in warm]
    assert asked[::2] == asked[1::2], "once for the prefix, and then for what is compared"

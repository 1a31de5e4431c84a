"""Enrolment through a serving engine measures the noise of each mode, and says what it could not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.canaries.mode_gap import FACTORS, LEAST_FLOOR
from detectors.canaries.tolerance import Tolerances
from detectors.records import Mode
from probes.enrolment import mode_noise
from probes.enrolment.enrol import Request as EnrolRequest
from probes.enrolment.enrol import enrol
from probes.enrolment.mode_noise import had_in_modes, with_mode_floors
from probes.enrolment.settings import EnrolmentContext
from probes.errors import Unreplayable
from probes.golden.record import Golden
from probes.runner import Stop
from probes.runners.served import Config, Runner
from probes.serving.engine import Answered, Request
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, enrolled, never, silent
from tests.serving_engines.in_process import Engine
from tests.serving_engines.toy_engine import ToyEngine

T = Tolerances()
SAMPLE = tuple(range(0, 48, 4))


def served(noise: float = 0.0, modes: tuple[Mode, ...] = FACTORS) -> tuple[Runner, Engine]:
    behind = Engine(ToyEngine(adapters=dict(ADAPTERS), noise=noise))
    behind.modes = modes
    runner = Runner(Config({"url": "http://toy"}, behind.toy.base, dict.fromkeys(ADAPTERS, "")), lambda *_: behind)
    runner.open()
    return runner, behind


def floors_of(runner: Runner, stop: Stop = never) -> tuple[dict[Mode, float], tuple[str, ...]]:
    context = EnrolmentContext(runner, "alpha", (), silent, stop)
    golden, words = with_mode_floors(context, enrolled("alpha"), SAMPLE, T)
    (floors,) = {tuple(canary.reference.mode_floors.items()) for canary in golden.canaries}
    return dict(floors), words


def test_without_noise_each_mode_that_the_engine_has_gets_the_least_floor() -> None:
    floors, words = floors_of(served()[0])
    assert floors == dict.fromkeys((Mode.WRITTEN, *FACTORS), LEAST_FLOOR) and words == ()
    floors, _ = floors_of(served(modes=(Mode.WARM,))[0])
    assert floors == dict.fromkeys((Mode.WRITTEN, Mode.WARM), LEAST_FLOOR)


def test_noise_of_every_request_is_in_the_floor() -> None:
    (quiet, _), (loud, _) = (floors_of(served(noise)[0]) for noise in (0.003, 0.03))
    for mode in (Mode.WRITTEN, *FACTORS):
        assert 5 < loud[mode] / quiet[mode] < 20, "ten times the noise"


def test_a_mode_that_is_wrong_at_the_enrolment_has_no_floor_and_is_named() -> None:
    runner, behind = served()
    behind.toy.faults.streams_base = True
    floors, words = floors_of(runner)
    assert floors == {}, "each other mode was had streamed too"
    assert any("what it answers as a stream: it is apart from what is scored by" in each for each in words)


def test_a_chat_endpoint_that_fails_is_named_and_an_engine_that_goes_away_gives_no_floor() -> None:
    runner, behind = served()
    behind.no_chat = "no chat template"
    floors, words = floors_of(runner)
    assert set(floors) == {Mode.WRITTEN, Mode.STREAMED, Mode.WARM}
    assert words == ("what it answers at its chat endpoint is not known: no chat template",)


def test_the_whole_pool_is_had_where_the_tokens_last_and_a_random_part_of_it_where_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    golden = enrolled("alpha")
    runner, behind = served()
    floors_of(runner)
    pool = {canary.prompt for canary in golden.pool} | {golden.canaries[index].prompt for index in SAMPLE}
    assert {request.prompt for request in behind.written} == pool
    monkeypatch.setattr(mode_noise, "MOST_TOKENS", 1500)
    part = had_in_modes(golden, SAMPLE)
    assert part[: len(SAMPLE)] == [golden.canaries[index] for index in SAMPLE]
    rest = part[len(SAMPLE) :]
    assert rest and 4 * sum(len(canary.prompt) + len(canary.forced) for canary in rest) <= 1500
    assert len(part) < len(pool) and rest != [canary for canary in golden.pool if canary in rest]


def test_noise_of_one_canary_of_the_pool_that_a_dozen_would_have_missed_is_in_the_floor() -> None:
    """Of a share of a tenth none is in a dozen with chance .28, and such a share pages sooner or later."""
    golden = enrolled("alpha")
    noisy = next(canary for canary in golden.pool if golden.canaries.index(canary) not in SAMPLE)
    runner, behind = served()
    generate = behind.generate

    def streams_the_base_after_one_prompt(request: Request, tokens: int) -> Answered:
        behind.toy.faults.streams_base = request.prompt == noisy.prompt
        return generate(request, tokens)

    behind.generate = streams_the_base_after_one_prompt  # type: ignore[method-assign]
    floors, words = floors_of(runner)
    assert Mode.STREAMED not in floors
    assert any("what it answers as a stream: it is apart from what is scored by" in each for each in words)


def test_stopping_leaves_no_record() -> None:
    runner, _ = served()
    with pytest.raises(Unreplayable, match="stopped"):
        floors_of(runner, lambda: True)


def test_long_prompts_page_where_the_pool_has_twenty_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = sorted(len(canary.prompt) for canary in enrolled("alpha").pool)
    for block, has_floor in ((lengths[0] - 1, True), (lengths[-1] - 1, False)):
        for module in ("enrolment.mode_noise", "canaries.mode_cells"):
            monkeypatch.setattr(f"probes.{module}.LONGEST_BLOCK", block)
        assert (Mode.LONG in floors_of(served()[0])[0]) is has_floor


@pytest.mark.parametrize(("turns", "has_floor"), [(0, False), (19, False), (20, True)])
def test_chat_pages_where_twenty_of_a_mixed_pool_have_turns(turns: int, has_floor: bool) -> None:
    """Records of earlier versions have none, and a set may be made of both."""
    golden = enrolled("alpha")
    names = {canary.id for canary in golden.pool[turns:]}
    canaries = tuple(replace(canary, messages=()) if canary.id in names else canary for canary in golden.canaries)
    context = EnrolmentContext(served()[0], "alpha", (), silent, never)
    mixed, words = with_mode_floors(context, replace(golden, canaries=canaries), SAMPLE, T)
    assert (Mode.CHAT in mixed.canaries[0].reference.mode_floors) is has_floor
    assert {Mode.WRITTEN, Mode.STREAMED, Mode.WARM} <= set(mixed.canaries[0].reference.mode_floors)
    assert [word.startswith("what it answers at its chat endpoint: too few") for word in words] == [True] * (
        not has_floor
    )


def test_an_enrolment_through_an_engine_records_them_and_one_in_process_does_not() -> None:
    runner, _ = served()
    golden: Golden = enrol(EnrolRequest(runner, "alpha", canary_set(), SETTINGS, list(ADAPTERS), silent, never))
    assert all(set(c.reference.mode_floors) == {Mode.WRITTEN, *FACTORS} for c in golden.canaries)
    assert not any(c.reference.mode_floors for c in enrolled("alpha").canaries)

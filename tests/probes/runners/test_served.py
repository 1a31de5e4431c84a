"""The served runner: what it asks an engine, what it makes of the answers, and what it refuses to conclude."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent.clock import HandClock
from detectors.canaries.retention import measure
from detectors.records import Comparison, Measurement, Reason, Round
from probes.canaries.log_prob_summary import summarise
from probes.canaries.replay_pairs import ask, replay_pair, summary
from probes.canaries.round import Scheduled, replay_base_round
from probes.errors import EngineAway, Unreplayable, Unsupported
from probes.golden.record import GoldenCanary, check_identity, tokenizer_fingerprint
from probes.model import toy_language as toy
from probes.runner import Readiness, Replay, SeesEvents, Target
from probes.runners.served import Config, Runner
from probes.serving.engine import Answered, Between, Request, Route, at_once
from probes.serving.listed_summary import read_by
from probes.serving.probe_check import Probe
from tests.probes.worlds import ADAPTERS, enrolled, never
from tests.serving_engines.in_process import Engine
from tests.serving_engines.shim import Server, serving
from tests.serving_engines.toy_engine import ToyEngine

URL = {"url": "http://toy"}


def engine(**faults: str) -> Engine:
    behind = Engine(ToyEngine(adapters=dict(ADAPTERS)))
    behind.toy.faults.of_adapter |= faults
    return behind


def opened(behind: Engine, listed: int = 20) -> Runner:
    runner = Runner(Config(URL, behind.toy.base, dict.fromkeys(ADAPTERS, ""), listed), lambda *_: behind)
    runner.open()
    return runner


def canaries(runner: Runner, count: int = 6) -> list[GoldenCanary]:
    return [read_by(runner, canary) for canary in enrolled("alpha").canaries[:count]]


def measured(runner: Runner) -> list[Measurement]:
    """Canaries of a record that the memory runner made, answered by the engine."""
    pairs = [replay_pair(canary, "alpha") for canary in canaries(runner)]
    answers = ask(runner, [replay for pair in pairs for replay in pair.replays], never)
    sides = [[summary(answers[replay]) for replay in pair.replays] for pair in pairs]
    return [
        measure(Comparison("alpha", pair.canary.reference, 1, served, base, 0.0))
        for pair, (served, base) in zip(pairs, sides, strict=True)
    ]


@pytest.mark.parametrize("listed", [20, 5])
def test_an_engine_that_serves_what_was_accepted_answers_as_the_record_says(listed: int) -> None:
    for each in measured(opened(engine(), listed)):
        assert abs(each.scale - 1) < 1e-5 and each.distortion < 1e-9 and each.base_shift < 1e-9
        assert each.mass_outside < 2e-6 and each.top1_agreement == 1


@pytest.mark.parametrize("listed", [20, 5])
def test_an_adapter_that_the_engine_does_not_apply_has_nothing_left(listed: int) -> None:
    for each in measured(opened(engine(alpha="not_applied"), listed)):
        assert abs(each.retention) < 1e-6 and each.base_shift < 1e-9 and each.gap_ratio == 0


def test_the_answers_of_adapter_and_base_to_one_canary_are_asked_for_in_a_row_and_cold() -> None:
    behind = engine()
    runner = opened(behind)
    pairs = [replay_pair(canary, "alpha") for canary in canaries(runner, 3)]
    of_adapter, of_base = zip(*(pair.replays for pair in pairs), strict=True)
    answers = list(runner.run([*of_adapter, *of_base], never))
    models = [request.model for request, _ in behind.requests]
    assert models == ["alpha", behind.toy.base] * 3
    assert [answer.replay.canary for answer in answers[::2]] == [answer.replay.canary for answer in answers[1::2]]
    assert len({request.salt for request, _ in behind.requests} - {""}) == 6
    assert {request.listed for request, _ in behind.requests} == {20}


def test_a_record_that_was_read_through_fewer_tokens_is_answered_through_as_many() -> None:
    behind = engine()
    runner = opened(behind)
    (canary,) = (read_by(opened(engine(), 7), canary) for canary in enrolled("alpha").canaries[:1])
    (answer, _) = runner.run(replay_pair(canary, "alpha").replays, never)
    assert behind.requests[0][0].listed == 7 and answer.summary is not None
    assert np.allclose(answer.summary.log_probs, canary.reference.golden_adapter.log_probs, atol=1e-5)


def test_an_engine_that_lists_fewer_tokens_than_a_record_needs_is_refused_and_not_compared() -> None:
    behind = engine()
    behind.most_listed = 5
    runner = opened(behind)
    assert runner.most_listed() == 5
    replay = replay_pair(read_by(opened(engine(), 7), enrolled("alpha").canaries[0]), "alpha").adapter
    with pytest.raises(Unreplayable, match="7 tokens are wanted at each position, the engine lists 5"):
        list(runner.run([replay], never))


def test_an_engine_that_is_away_blocks_all_with_its_words_and_is_measured_once_it_is_back() -> None:
    behind = engine()
    behind.away = "connection refused"
    runner = opened(behind)
    looks = runner.refresh()
    assert set(looks) == {None, *ADAPTERS}
    assert {ready.blocked for ready in looks.values()} == {Reason.ENGINE_AWAY}
    assert "connection refused" in looks["alpha"].detail
    with pytest.raises(EngineAway):
        runner.encode("text")
    behind.away = ""
    assert set(runner.refresh().values()) == {Readiness()}
    assert len(measured(runner)) == 6


def test_a_model_that_is_not_listed_or_twice_is_blocked_by_that_reason() -> None:
    behind = engine()
    del behind.toy.adapters["beta"]
    behind.listed_twice = "gamma"
    looks = opened(behind).refresh()
    assert {name: ready.blocked for name, ready in looks.items()} == {
        None: None,
        "alpha": None,
        "beta": Reason.NOT_SERVED,
        "gamma": Reason.NOT_SERVED,
    }
    assert "does not list it" in looks["beta"].detail and "2 models of that name" in looks["gamma"].detail
    behind.listed_twice = behind.toy.base
    base = opened(behind).refresh()[None]
    assert base.blocked is Reason.NOT_SERVED and "in its base's place" in base.detail


def test_an_engine_that_was_started_again_with_other_settings_is_looked_at_again() -> None:
    behind = engine()
    runner = opened(behind)
    behind.most_listed = 5
    runner.refresh()
    assert runner.most_listed() == 20, "what an engine can do is asked once"
    behind.version = "2"
    runner.refresh()
    assert runner.most_listed() == 5


def test_a_route_that_is_set_for_an_adapter_is_taken_and_others_stay() -> None:
    behind = Engine(ToyEngine(adapters=dict(ADAPTERS)), routes=(Route.PROMPT, Route.WALK, Route.GENERATED))
    runner = opened(behind)
    runner.take_route("alpha", Route.WALK)
    list(runner.run(replay_pair(canaries(runner, 1)[0], "alpha").replays, never))
    assert [route for _, route in behind.requests] == [Route.WALK, Route.PROMPT]


def test_an_engine_without_log_probabilities_of_a_given_text_is_no_way_to_replay() -> None:
    behind = Engine(ToyEngine(adapters=dict(ADAPTERS)), routes=(Route.TEXT,))
    with pytest.raises(Unreplayable, match="no log-probabilities of a given text"):
        measured(opened(behind))


def test_other_strengths_and_an_overlong_text_are_refused() -> None:
    runner = opened(engine())
    with pytest.raises(Unsupported, match=r"a strength of 0\.5"):
        list(runner.run([Replay("c", (1,), (2,), Target("alpha", scale=0.5))], never))
    with pytest.raises(Unreplayable, match="2050 tokens, the engine's context holds 2048"):
        list(runner.run([Replay("c", (1,) * 2049, (2,), Target("alpha"))], never))


def test_the_whole_vocabulary_is_answered_where_the_engine_lists_it() -> None:
    behind = engine()
    behind.most_listed = toy.VOCABULARY
    canary = enrolled("alpha").canaries[0]
    (answer,) = opened(behind).run([Replay("c", canary.prompt, canary.forced, Target("alpha"))], never)
    assert answer.full is not None
    kept = canary.reference.kept
    assert np.allclose(summarise(answer.full, kept).log_probs, canary.reference.golden_adapter.log_probs, atol=1e-5)


def test_files_of_an_adapter_that_are_at_hand_name_it_and_no_others_are_read(tmp_path: Path) -> None:
    from tests.probes.tiny import tiny_adapter, tiny_base

    folder = tiny_adapter(tmp_path / "alpha", tiny_base(tmp_path / "base"))
    behind = engine()
    runner = Runner(
        Config(URL, behind.toy.base, {"alpha": str(folder), "beta": str(tmp_path / "gone")}), lambda *_: behind
    )
    runner.open()
    first = runner.identity("alpha").live_adapter
    assert first.startswith("sha256:") and runner.identity("alpha").live_adapter == first
    assert runner.identity("beta").live_adapter == "" and runner.identity(None).live_base == ""
    config = folder / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": ', '"r": 1'))
    assert runner.identity("alpha").live_adapter != first


def test_what_the_engine_says_of_an_adapter_is_named_where_it_is_not_as_configured() -> None:
    behind = engine()
    runner = Runner(Config(URL, behind.toy.base, {"alpha": "/mnt/alpha", "beta": "/mnt/beta-v2"}), lambda *_: behind)
    runner.open()
    assert runner.facts("alpha") == ()
    assert runner.facts("beta") == (
        "the engine says that it loaded it from /adapters/beta, configured is /mnt/beta-v2",
    )


def test_a_round_on_an_engine_measures_each_adapter_and_says_why_it_cannot() -> None:
    goldens = {name: enrolled(name) for name in ("alpha", "beta")}
    when = Scheduled("toy", 0, 1_700_000_000.0, 1024, 5)
    behind = engine(beta="not_applied")
    runner = opened(behind)
    done = replay_base_round(runner, goldens, when, never)
    assert done is not None
    alpha, beta = done.members
    assert max(abs(each.scale - 1) for each in alpha.measurements) < 1e-5
    assert max(abs(each.retention) for each in beta.measurements) < 1e-6
    assert {each.comparison.reference.listed for each in alpha.measurements} == {20}
    behind.away = "503"
    done = replay_base_round(runner, goldens, replace(when, number=1), never)
    assert done is not None and {member.blocked for member in done.members} == {Reason.ENGINE_AWAY}


class Forgetful(Engine):
    """Holds one adapter at a time. ``lost``: the one that is without effect once it was loaded again"""

    def __init__(self, lost: str) -> None:
        super().__init__(ToyEngine(adapters=dict(ADAPTERS)))
        self.lost, self.held = lost, ""
        self.slots: int | None = 1

    def adapter_slots(self) -> int | None:
        return self.slots

    def score(
        self, request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        self._hold(request.model)
        return super().score(request, continuation, route, between)

    def generate(self, request: Request, tokens: int) -> Answered:
        self._hold(request.model)
        return super().generate(request, tokens)

    def _hold(self, model: str) -> None:
        if model not in self.toy.adapters or model == self.held:
            return
        if self.held == self.lost:
            self.toy.faults.of_adapter[self.lost] = "not_applied"
        self.held = model


def forgetful_rounds(behind: Forgetful, every_s: float | None) -> list[Round]:
    """Of alpha alone, which stays in use: three of them, an hour apart."""
    clock = HandClock()
    runner = Runner(Config(URL, behind.toy.base, {"alpha": ""}, evict_every_s=every_s), lambda *_: behind, clock)
    runner.open()
    rounds: list[Round] = []
    for number in range(3):
        done = replay_base_round(runner, {"alpha": enrolled("alpha")}, Scheduled("toy", number, 0.0, 256, 5), never)
        assert done is not None
        rounds += done.members
        clock.advance(3600.0)
    return rounds


def retentions(of: Round) -> set[float]:
    return {round(each.retention, 3) for each in of.measurements}


def pushed_out(of: Round) -> list[str]:
    return [fact for fact in of.facts if "asked just before, as many as the engine holds" in fact]


def others_asked(behind: Forgetful) -> set[str]:
    return {request.model for request in behind.written} & (set(behind.toy.adapters) - {"alpha"})


def test_an_adapter_that_is_lost_when_it_is_loaded_again_shows_in_the_round_that_pushes_it_out() -> None:
    first, second, third = forgetful_rounds(Forgetful("alpha"), every_s=7200.0)
    assert retentions(first) == retentions(second) == {1.0} and not pushed_out(second)
    assert retentions(third) == {0.0}
    assert len(pushed_out(third)) == 1


@pytest.mark.parametrize("slots", [None, 2, 99])
def test_nothing_is_pushed_out_where_the_engine_holds_all_or_does_not_say(slots: int | None) -> None:
    behind = Forgetful("alpha")
    behind.slots = slots if slots != 2 else len(ADAPTERS)
    assert [retentions(each) for each in forgetful_rounds(behind, every_s=1.0)] == [{1.0}] * 3
    assert not others_asked(behind)


def test_nothing_is_pushed_out_where_that_is_switched_off() -> None:
    behind = Forgetful("alpha")
    assert [retentions(each) for each in forgetful_rounds(behind, every_s=None)] == [{1.0}] * 3
    assert not others_asked(behind)


def test_an_engine_that_goes_away_in_a_round_is_not_asked_on() -> None:
    goldens = {name: enrolled(name) for name in ("alpha", "beta")}
    behind = engine()
    runner = opened(behind)
    score, calls = behind.score, []

    def away_at_the_third_canary(
        request: Request, continuation: Sequence[int], route: Route, between: Between = at_once
    ) -> Answered:
        # Routes are checked before, with one listed token.
        calls.extend([request] if request.listed > 1 else [])
        if len(calls) >= 3:
            raise EngineAway("http://toy", "503: overloaded")
        return score(request, continuation, route, between)

    behind.score = away_at_the_third_canary  # type: ignore[method-assign]
    done = replay_base_round(runner, goldens, Scheduled("toy", 0, 1_700_000_000.0, 1024, 5), never)
    assert done is not None and {member.blocked for member in done.members} == {Reason.ENGINE_AWAY}
    assert "overloaded" in done.members[0].detail and len(calls) == 3


def test_numbers_that_are_none_are_no_verdict() -> None:
    goldens = {"alpha": enrolled("alpha")}
    done = replay_base_round(
        opened(engine(alpha="not_a_number")), goldens, Scheduled("toy", 0, 1_700_000_000.0, 1024, 5), never
    )
    assert done is not None and done.members[0].blocked is Reason.BAD_NUMBERS
    assert "the engine's answer" in done.members[0].detail and "NaN" in done.members[0].detail
    assert "canaries" not in done.members[0].detail


def test_over_http_numbers_that_are_none_are_the_engines_bad_numbers(server: Server) -> None:
    server.engine.faults.of_adapter["alpha"] = "not_a_number"
    try:
        done = replay_base_round(
            over_http(server), {"alpha": enrolled("alpha")}, Scheduled("toy", 0, 1_700_000_000.0, 1024, 5), never
        )
    finally:
        server.engine.faults.of_adapter.clear()
    assert done is not None and done.members[0].blocked is Reason.BAD_NUMBERS
    assert "/v1/completions: the engine's answer holds a number that is NaN" in done.members[0].detail


def test_the_tokens_of_a_tokenizer_are_looked_at_one_by_one_once_for_as_long_as_one_engine_answers(
    server: Server,
) -> None:
    runner = over_http(server)
    first = tokenizer_fingerprint(runner)
    runner.refresh()
    before = len(server.bodies("/detokenize"))
    assert tokenizer_fingerprint(runner) == first
    assert [len(body["tokens"]) > 1 for body in server.bodies("/detokenize")[before:]] == [True]
    server.settings.started += 1
    try:
        runner.refresh()
        assert tokenizer_fingerprint(runner) == first
        assert len(server.bodies("/detokenize")) > before + 40, "another engine may have another tokenizer"
    finally:
        server.settings.started -= 1


def test_a_runner_that_is_closed_leaves_no_connection_and_may_be_opened_again() -> None:
    behind = engine()
    runner = opened(behind)
    runner.close()
    assert behind.closed == 1
    runner.open()
    runner.close()
    assert behind.closed == 2


def test_an_engine_that_takes_strengths_is_asked_at_them_and_the_base_has_none() -> None:
    behind = engine()
    behind.strengths = True
    runner = opened(behind)
    canary = enrolled("alpha").canaries[0]
    kept, targets = canary.reference.kept, [Target("alpha", scale=0.5), Target("alpha", scale=0.0), Target(None)]
    answers = list(runner.run([Replay("c", canary.prompt, canary.forced, own, kept) for own in targets], never))
    assert [request.strength for request, _ in behind.requests] == [0.5, 1.0, 1.0]
    assert [request.model for request, _ in behind.requests] == ["alpha", behind.toy.base, behind.toy.base]
    behind.toy.faults.of_adapter["alpha"] = "scale:0.5"
    (halved,) = runner.run([Replay("c", canary.prompt, canary.forced, Target("alpha"), kept)], never)
    assert answers[0].summary is not None and halved.summary is not None
    assert np.array_equal(answers[0].summary.log_probs, halved.summary.log_probs)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(ToyEngine(adapters=dict(ADAPTERS))) as running:
        yield running


def over_http(server: Server) -> Runner:
    runner = Runner(Config({"url": server.url}, server.engine.base, dict.fromkeys(ADAPTERS, "")))
    runner.open()
    assert set(runner.refresh().values()) == {Readiness()}
    return runner


def test_over_http_the_same_is_answered_as_without(server: Server) -> None:
    runner, direct = over_http(server), opened(engine())
    assert runner.most_listed() == direct.most_listed() == 20
    replays = [replay for canary in canaries(runner, 3) for replay in replay_pair(canary, "alpha").replays]
    answers, wanted = ask(runner, replays, never), ask(direct, replays, never)
    for replay in replays:
        got, same = summary(answers[replay]), summary(wanted[replay])
        assert np.allclose(got.log_probs, same.log_probs, atol=1e-6) and np.allclose(got.rest, same.rest, atol=1e-3)
        assert np.array_equal(got.top1, same.top1)
    made = runner.generate(Target("alpha"), replays[0].prompt, 40, never)
    assert made == direct.generate(Target("alpha"), replays[0].prompt, 40, never) and made[-1] == toy.END
    assert check_identity(enrolled("alpha"), runner) == [], "the engine's tokenizer is that of the record"
    assert runner.facts("alpha") == () and runner.identity("alpha").live_adapter == ""
    messages = [{"role": "user", "content": "Where is it?"}]
    assert runner.encode_chat(messages) == direct.encode_chat(messages)


def test_over_http_a_stop_ends_a_run_before_the_next_request(server: Server) -> None:
    runner = over_http(server)
    replays = replay_pair(canaries(runner, 1)[0], "alpha").replays
    before = len(server.bodies("/v1/completions"))
    looks = iter([False, True])
    assert len(list(runner.run(replays, lambda: next(looks)))) == 1
    assert len(server.bodies("/v1/completions")) == before + 1


def test_over_http_a_server_that_starts_is_away_and_one_that_is_ready_is_measured(server: Server) -> None:
    runner = over_http(server)
    server.settings.ready = False
    try:
        assert {ready.blocked for ready in runner.refresh().values()} == {Reason.ENGINE_AWAY}
    finally:
        server.settings.ready = True
    assert set(runner.refresh().values()) == {Readiness()}
    server.settings.twice = "beta"
    try:
        looks = runner.refresh()
    finally:
        server.settings.twice = ""
    assert looks["beta"].blocked is Reason.NOT_SERVED and looks["alpha"].blocked is None


def test_a_round_over_http_has_one_request_in_flight_at_a_time(server: Server) -> None:
    """Checks of routes and names among them."""
    runner, goldens = over_http(server), {name: enrolled(name) for name in ADAPTERS}
    server.most_at_once = 0
    done = replay_base_round(runner, goldens, Scheduled("toy", 0, 1_700_000_000.0, 1024, 5), never)
    assert done is not None and all(member.blocked is None for member in done.members)
    assert server.most_at_once == 1


def test_a_round_takes_no_more_of_a_minute_than_its_budget_and_its_canaries_are_measured_alike() -> None:
    goldens, clock = {"alpha": enrolled("alpha")}, HandClock()
    began = clock.steady()
    rounds = []
    for limits in ({}, {"requests_a_minute": 10}, {"most_logit_bytes": 10_000}):
        behind = engine()
        behind.routes = (Route.PROMPT, Route.WALK)
        config = Config(URL, behind.toy.base, dict.fromkeys(ADAPTERS, ""), limits=limits)
        runner = Runner(config, lambda *_, behind=behind: behind, clock)
        runner.open()
        done = replay_base_round(runner, goldens, Scheduled("toy", 0, 1_700_000_000.0, 512, 5), never)
        assert done is not None and done.members[0].blocked is None
        rounds.append(([m.retention for m in done.members[0].measurements], clock.steady() - began, behind.requests))
        began = clock.steady()
    (by_default, no_wait, _), (slowly, waited_s, sent), (walked, _, steps) = rounds
    assert by_default == slowly == walked
    assert no_wait == 0.0 and waited_s >= 60.0 * (len(sent) // 10 - 1) > 0.0
    assert {route for _, route in steps} == {Route.WALK}


def test_a_stop_ends_a_round_that_waits() -> None:
    behind, clock = engine(), HandClock()
    config = Config(URL, behind.toy.base, dict.fromkeys(ADAPTERS, ""), limits={"requests_a_minute": 1})
    runner = Runner(config, lambda *_: behind, clock)
    runner.open()
    replays, began = replay_pair(canaries(runner, 1)[0], "alpha").replays, clock.steady()
    assert len(list(runner.run(replays, lambda: clock.steady() - began > 5.0))) == 1
    assert len(runner.listings(replays, lambda: clock.steady() - began > 5.0)) == 0
    began = clock.steady()
    assert runner.generate(Target("alpha"), (1, 2), 4, lambda: clock.steady() - began > 5.0) == ()
    probe = Probe(replays[0].prompt)
    began = clock.steady()
    with pytest.raises(Unreplayable, match="stopped while a request waited"):
        runner.choose_route("alpha", [probe], 0.05, lambda: clock.steady() - began > 5.0)
    assert clock.steady() - began < 60.0


def test_what_a_sidecars_file_wants_stands_beside_what_is_served(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "loras.yaml"
    file.write_text("vLLMLoRAConfig: {ensureExist: {models: [{id: alpha, source: /adapters/new}, {id: delta}]}}")
    served = {"url": server.url, "desired_file": str(file)}
    runner = Runner(Config(served, server.engine.base, {"alpha": "", "delta": ""}))
    runner.open()
    assert "the engine does not list it; it lists" in runner.refresh()["delta"].detail
    assert f"{file} wants delta, and" in runner.refresh()["delta"].detail
    (fact,) = runner.facts("alpha")
    assert fact.startswith(f"{file} wants alpha from /adapters/new, the engine loaded it from /adapters/")
    assert not runner.refresh()["alpha"].blocked
    runner.close()


def test_while_its_pause_file_exists_an_engine_is_asked_nothing_and_all_say_so(server: Server, tmp_path: Path) -> None:
    pause, goldens = tmp_path / "pause", {"alpha": enrolled("alpha")}
    served = {"url": server.url, "pause_file": str(pause)}
    runner = Runner(Config(served, server.engine.base, dict.fromkeys(ADAPTERS, "")))
    runner.open()
    pause.touch()
    before = len(server.questions)
    looks = runner.refresh()
    assert set(looks) == {None, *ADAPTERS} and {ready.blocked for ready in looks.values()} == {Reason.PAUSED}
    assert looks["alpha"].detail == f"{server.url} is asked nothing while {pause} exists; remove it to go on"
    done = replay_base_round(runner, goldens, Scheduled("toy", 0, 1_700_000_000.0, 1024, 5), never)
    assert done is not None and done.members[0].blocked is Reason.PAUSED
    assert runner.event() == "" and len(server.questions) == before
    pause.unlink()
    assert set(runner.refresh().values()) == {Readiness()}


def test_settings_that_make_no_sense_are_refused() -> None:
    for served, listed in (({}, 20), ({"url": ""}, 20), (URL, 0)):
        with pytest.raises(ValueError, match="wanted"):
            Config(served, "base", {}, listed)


def test_what_happens_at_the_engine_is_an_event_until_the_next_look_whose_facts_hold_it() -> None:
    behind = engine()
    runner = opened(behind)
    assert isinstance(runner, SeesEvents) and runner.event() == ""
    behind.toy.adapters["gamma-2"] = "gamma-v2"
    behind.version = "2"
    words = "the engine is toy 2, was toy 1", "the engine lists gamma-2, which it did not"
    assert runner.event() == "; ".join(words) == runner.event()
    runner.refresh()
    assert runner.facts("alpha") == words and runner.event() == ""
    runner.refresh()
    assert runner.facts("alpha") == ()


def test_an_engine_that_is_away_is_no_event_and_that_it_answers_again_is_one() -> None:
    behind = engine()
    runner = opened(behind)
    behind.away = "no connection"
    assert runner.event() == ""
    runner.refresh()
    assert runner.event() == ""
    behind.away = ""
    assert runner.event() == "the engine answers again" and runner.event() == ""


def test_an_unknown_name_is_tried_once_and_again_after_an_event() -> None:
    behind = engine()
    runner = opened(behind)
    probes = [Probe(canary.prompt) for canary in enrolled("alpha").pool[:2]]

    def strangers() -> int:
        runner.choose_route("alpha", probes, 0.05, never)
        return sum(request.model.startswith("gapwatch-") for request in behind.written)

    assert strangers() == strangers() == 1
    runner.refresh()
    assert strangers() == 1, "nothing has happened"
    behind.toy.adapters["delta"] = "delta-v1"
    runner.refresh()
    assert strangers() == 2

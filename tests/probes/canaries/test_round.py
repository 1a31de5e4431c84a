from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from typing import TypeVar

import numpy as np
import pytest

from detectors.canaries import retention
from detectors.canaries.retention import Doubles
from detectors.canaries.tolerance import Tolerances, draw_scores
from detectors.monitor import Monitor
from detectors.records import THE_FILES, BaseRound, Cause, Reason, Reference, Round
from detectors.verdicts.changes import change_of
from detectors.verdicts.incident import Rules
from probes.canaries.round import Scheduled, replay_base_round
from probes.errors import Unreplayable
from probes.golden.record import Golden, Unmonitorable
from probes.runner import BatchShape, Replay, Replayed, Stop, Weights
from probes.runners.memory import Config, Runner
from tests.probes.serving.toy_runner import ToyRunner, served
from tests.probes.worlds import ADAPTERS, CountingRunner, enrolled, never, opened

BUDGET = 512


def goldens() -> dict[str, Golden | Unmonitorable]:
    return {name: enrolled(name) for name in ADAPTERS}


def replayed(
    runner: Runner,
    number: int = 0,
    known: dict[str, Golden | Unmonitorable] | None = None,
    stop: Callable[[], bool] = never,
) -> BaseRound | None:
    return replay_base_round(runner, known or goldens(), Scheduled("toy", number, 100.0, BUDGET, 7), stop)


def members(subject: str | None = None, fault: str = "none") -> dict[str, Round]:
    runner = opened()
    runner.inject(subject, fault)
    done = replayed(runner)
    assert done is not None
    return {member.adapter: member for member in done.members}


def mean(round: Round, figure: str) -> float:
    return float(np.mean([getattr(one, figure) for one in round.measurements]))


def test_a_healthy_round_is_one_in_every_figure() -> None:
    done = replayed(opened(), number=3)
    assert done is not None
    assert [member.adapter for member in done.members] == list(ADAPTERS)
    assert (done.base, done.number, done.at) == ("toy", 3, 100.0)
    for member in done.members:
        assert member.blocked is None and member.facts == () and not member.identity.base_moved
        assert (member.number, member.at, member.base) == (3, 100.0, "toy")
        assert not draw_scores(member, Tolerances()).any()
        assert mean(member, "retention") == pytest.approx(1, abs=1e-3)
        drawn = [one.comparison.draws for one in member.measurements]
        assert sum(drawn) >= 9 and drawn.count(0) >= 2
        assert all(one.comparison.adapter == member.adapter for one in member.measurements)


def test_tokens_are_counted_and_scored_ones_stay_within_the_budget() -> None:
    runner = opened_as(CountingRunner)
    done = replayed(runner)
    assert done is not None
    assert done.tokens_scored == sum(len(one.comparison.served.rest) for m in done.members for one in m.measurements)
    assert done.tokens_scored <= BUDGET * len(ADAPTERS)
    assert runner.tokens_scored == 2 * done.tokens_scored
    assert done.tokens_processed == runner.tokens_processed


@pytest.mark.parametrize(
    ("fault", "retention", "scale", "beyond"),
    [
        ("not_applied", 0.0, 0.0, True),
        ("mismatched", 0.0, 0.0, True),
        ("scale:0.5", 0.5, 0.5, True),
        ("scale:0.9", 0.9, 0.9, True),
        ("scale:0.97", 0.97, 0.97, False),
        ("scale:2", 2.0, 2.0, True),
    ],
)
def test_a_fault_of_one_adapter_shows_in_that_adapter_alone(
    fault: str, retention: float, scale: float, beyond: bool
) -> None:
    # Retention is the strength itself here: this toy's adapter moves logits, and log-probabilities by a constant more.
    seen = members("alpha", fault)
    assert mean(seen["alpha"], "retention") == pytest.approx(retention, abs=0.01)
    assert mean(seen["alpha"], "scale") == pytest.approx(scale, abs=0.01)
    assert draw_scores(seen["alpha"], Tolerances()).all() == beyond
    assert draw_scores(seen["alpha"], Tolerances()).any() == beyond
    for other in ("beta", "gamma"):
        assert not draw_scores(seen[other], Tolerances()).any()


def test_another_adapter_under_the_name_leaves_nothing_of_the_effect() -> None:
    alpha = members("alpha", "wrong_adapter:beta")["alpha"]
    assert abs(mean(alpha, "retention")) < 0.2
    assert mean(alpha, "gap_ratio") > 0.3
    assert "adapter files" in alpha.facts[0]
    assert alpha.identity.adapter_moved


def test_a_swapped_base_is_measured_and_not_refused() -> None:
    for member in members(None, "base_swapped:0.3").values():
        assert member.blocked is None and member.identity.base_moved
        assert "base weights" in member.facts[0]
        assert mean(member, "base_shift") > 0.01
        assert mean(member, "retention") == pytest.approx(1, abs=0.01)
    for member in members(None, "swapped_and_lost").values():
        assert member.identity.base_moved
        assert mean(member, "retention") == pytest.approx(0, abs=0.01)


def test_rounds_of_one_number_begun_at_other_times_draw_other_canaries() -> None:
    def drawn(at: float) -> list[str]:
        done = replay_base_round(opened(), {"alpha": enrolled("alpha")}, Scheduled("toy", 0, at, BUDGET, 7), never)
        assert done is not None
        return [one.comparison.reference.canary for one in done.members[0].measurements]

    assert drawn(100.0) == drawn(100.0) != drawn(160.0)


def test_facts_of_the_adapter_travel_with_the_round() -> None:
    assert members("alpha", "mismatched")["alpha"].facts == ("3 of 3 modules match nothing in this base",)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unreadable", Reason.UNREADABLE),
        ("files_changing", Reason.FILES_CHANGING),
        ("failing", Reason.REPLAY_FAILED),
        ("not_a_number", Reason.BAD_NUMBERS),
    ],
)
def test_what_blocks_one_adapter_leaves_the_others_measured(fault: str, reason: Reason) -> None:
    seen = members("beta", fault)
    assert seen["beta"].blocked is reason and seen["beta"].detail and not seen["beta"].measurements
    assert seen["alpha"].blocked is None and seen["alpha"].measurements
    assert seen["gamma"].blocked is None and seen["gamma"].measurements


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("unreadable", Reason.UNREADABLE),
        ("files_changing", Reason.FILES_CHANGING),
        ("failing", Reason.REPLAY_FAILED),
    ],
)
def test_what_blocks_the_base_blocks_everybody(fault: str, reason: Reason) -> None:
    assert {member.blocked for member in members(None, fault).values()} == {reason}


def test_a_golden_record_that_is_away_refused_foreign_or_weak_is_said() -> None:
    alpha, beta = enrolled("alpha"), enrolled("beta")
    known: dict[str, Golden | Unmonitorable] = {
        "alpha": replace(alpha, tokenizer_hash="sha256:" + "0" * 64),
        "beta": replace(beta, power=replace(beta.power, monitorable=False, words="no power here")),
        "gamma": Unmonitorable(Reason.NO_GOLDEN, "none in folder"),
    }
    done = replayed(opened(), known=known)
    assert done is not None
    assert [member.blocked for member in done.members] == [Reason.GOLDEN_REFUSED, Reason.NO_POWER, Reason.NO_GOLDEN]
    assert [member.detail for member in done.members][1:] == ["no power here", "none in folder"]
    assert "--replace" in done.members[0].detail
    assert done.tokens_scored == done.tokens_processed == 0


def test_an_adapter_that_the_runner_does_not_know_is_said() -> None:
    done = replayed(opened(), known={"delta": replace(enrolled("alpha"), adapter="delta")})
    assert done is not None
    assert done.members[0].blocked is Reason.UNREADABLE and "delta" in done.members[0].detail


def test_a_budget_that_holds_no_round_is_said() -> None:
    done = replay_base_round(opened(), goldens(), Scheduled("toy", 0, 0.0, 50, 0), never)
    assert done is not None
    assert {member.blocked for member in done.members} == {Reason.GOLDEN_REFUSED}
    assert "token budget" in done.members[0].detail


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_stopped_round_is_no_round(after: int) -> None:
    asked = iter(range(1000))
    assert replayed(opened(), stop=lambda: next(asked) >= after) is None


class Moving(Runner):
    """Its base is replaced under its first replay, which it tells at the end, as the in-process runner does."""

    moved = False

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        yield from super().run(replays, stop, shape)
        if not self.moved:
            self.moved = True
            self.inject(None, "base_swapped:0.3")
            raise Unreplayable(self.config.base, "changed while replaying")


def test_a_round_whose_files_moved_is_dropped_and_the_next_one_measures() -> None:
    runner = Moving(Config(adapters=dict(ADAPTERS)))
    runner.open()
    first, second = replayed(runner, number=0), replayed(runner, number=1)
    assert first is not None and second is not None
    assert {member.blocked for member in first.members} == {Reason.FILES_CHANGING}
    assert {member.blocked for member in second.members} == {None}


class Forgetful(Runner):
    """Leaves the last replays of one adapter out, without a word."""

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        left_out = [replay for replay in replays if replay.target.adapter == "gamma"][-2:]
        yield from super().run([replay for replay in replays if replay not in left_out], stop, shape)


def test_canaries_without_an_answer_block_their_adapter_and_no_other() -> None:
    runner = Forgetful(Config(adapters=dict(ADAPTERS)))
    runner.open()
    done = replayed(runner)
    assert done is not None
    blocked = {member.adapter: (member.blocked, member.detail) for member in done.members}
    reason, detail = blocked.pop("gamma")
    assert reason is Reason.REPLAY_FAILED and "left 2 of" in detail
    assert {reason for reason, _ in blocked.values()} == {None}


class Heavy(Runner):
    """Its joint pass fails with something large in its frames; alive: how much of that is left at each later pass."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.held: weakref.ref[np.ndarray] | None = None  # type: ignore[type-arg]
        self.alive: list[bool] = []

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        if self.held is None:
            tensor = np.zeros(1000)
            self.held = weakref.ref(tensor)
            raise Unreplayable("device", f"out of memory beside {tensor.size} numbers")
        self.alive.append(self.held() is not None)
        yield from super().run(replays, stop, shape)


def test_what_a_failed_pass_held_is_let_go_before_the_next_one() -> None:
    runner = Heavy(Config(adapters=dict(ADAPTERS)))
    runner.open()
    done = replayed(runner)
    assert done is not None and {member.blocked for member in done.members} == {None}
    assert runner.alive == [False] * len(ADAPTERS)


class Dated(CountingRunner):
    """Its template writes the date before the first turn."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        return super().encode_chat([{"role": "system", "content": "Monday"}, *messages], weights, day)


class Broken(Runner):
    """Its template raises."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        raise LookupError(f"no role after {len(messages)} turns for {weights} on {day}")


AnyRunner = TypeVar("AnyRunner", bound=Runner)


def opened_as(kind: type[AnyRunner]) -> AnyRunner:
    runner = kind(Config(adapters=dict(ADAPTERS)))
    runner.open()
    return runner


def test_prompts_that_render_otherwise_are_measured_as_production_gets_them_beside_the_accepted_ones() -> None:
    before, runner = replayed(opened()), opened_as(Dated)
    after = replayed(runner)
    assert before is not None and after is not None
    for was, now in zip(before.members, after.members, strict=True):
        count = len(now.measurements)
        assert now.facts == (f"{count} of {count} prompts render to other token ids than accepted",)
        assert was.raw == () and len(now.raw) == count
        # The witness is what a round with the accepted template measures, and healthy.
        assert [one.retention for one in now.raw] == [one.retention for one in was.measurements]
        assert [one.comparison.draws for one in now.raw] == [one.comparison.draws for one in now.measurements]
        assert mean(now, "base_shift") > 100 * mean(was, "base_shift")
        assert change_of(now, Tolerances()) is Reason.TEMPLATE_CHANGED and change_of(was, Tolerances()) is None
    # Scored positions are those of the canaries; what is processed more than doubles, the rendering being longer.
    assert after.tokens_scored == before.tokens_scored
    assert after.tokens_processed == runner.tokens_processed > 2 * before.tokens_processed


def test_a_round_prepares_each_reference_once_from_its_replay_to_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[str] = []
    weights = retention.weights

    def counted(reference: Reference) -> Doubles:
        prepared.append(f"{reference.golden} {reference.canary}")
        return weights(reference)

    monkeypatch.setattr(retention, "weights", counted)
    runner = opened_as(Dated)
    runner.inject("alpha", "scale:0.5")
    done = replayed(runner)
    assert done is not None and all(member.raw for member in done.members)
    judged = Monitor(Rules(Tolerances(), log_threshold=0.1)).observe(done)
    assert {verdict.subject: verdict.cause for verdict in judged.verdicts}["alpha"] is Cause.WRONG_STRENGTH
    assert len(prepared) == sum(len(member.measurements) for member in done.members)
    assert len(set(prepared)) == len(prepared)


def test_records_without_messages_are_replayed_from_their_token_ids() -> None:
    alpha = enrolled("alpha")
    older = replace(alpha, canaries=tuple(replace(canary, messages=()) for canary in alpha.canaries))
    done = replayed(opened_as(Dated), known={"alpha": older})
    assert done is not None
    assert done.members[0].facts == () and done.members[0].raw == ()
    assert mean(done.members[0], "retention") == pytest.approx(1, abs=1e-3)


def test_a_template_that_cannot_render_blocks_in_words() -> None:
    done = replayed(opened_as(Broken))
    assert done is not None
    assert {member.blocked for member in done.members} == {Reason.REPLAY_FAILED}
    assert "chat template cannot render" in done.members[0].detail and "no role" in done.members[0].detail


class Picky(Runner):
    """Its template takes no system turn."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        if messages[0]["role"] == "system":
            raise RuntimeError("System role not supported")
        return super().encode_chat(messages, weights, day)


def test_a_canary_that_cannot_be_asked_blinds_its_own_adapter_and_no_other() -> None:
    alpha = enrolled("alpha")
    bad = [replace(one, messages=({"role": "system", "content": "x"}, *one.messages)) for one in alpha.canaries[:30]]
    known: dict[str, Golden | Unmonitorable] = {
        "alpha": replace(alpha, canaries=(*bad, *alpha.canaries[30:])),
        "beta": enrolled("beta"),
    }
    done = replayed(opened_as(Picky), known=known)
    assert done is not None
    blocked, measured = done.members
    assert blocked.blocked is Reason.REPLAY_FAILED
    assert "cannot be replayed: the chat template cannot render it (System role not supported): c0" in blocked.detail
    assert measured.blocked is None and mean(measured, "retention") == pytest.approx(1, abs=1e-3)


def served_round(runner: ToyRunner, number: int = 0) -> dict[str, Round]:
    """A round through a serving engine, against records made in process."""
    done = replayed(runner, number)
    assert done is not None
    return {member.adapter: member for member in done.members}


def test_a_round_through_an_engine_is_healthy_and_has_nothing_to_say() -> None:
    for member in served_round(served()).values():
        assert member.blocked is None and member.facts == ()
        assert mean(member, "scale") == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("number", range(10))
def test_an_adapter_that_is_scored_wrongly_is_measured_by_another_route_and_never_degraded(number: int) -> None:
    members = served_round(served(noise=0.01, blind=frozenset({"alpha"})), number)
    assert not draw_scores(members["alpha"], Tolerances()).any()
    assert "scoring in the prompt is blind for alpha" in members["alpha"].facts[0]
    assert members["beta"].facts == () and members["beta"].blocked is None


@pytest.mark.parametrize("answering", ADAPTERS)
def test_an_adapter_under_the_bases_name_is_named_in_the_first_round_and_no_gap_is_computed(answering: str) -> None:
    for member in served_round(served(under_base=answering)).values():
        assert member.blocked is Reason.NOT_SERVED and member.measurements == ()
        assert f"under the base's name toy the adapter {answering} answers" in member.detail


def test_a_record_of_another_engine_is_compared_and_the_difference_is_said() -> None:
    known: dict[str, Golden | Unmonitorable] = {"alpha": replace(enrolled("alpha"), made_on="toy 0.9, prompt")}
    done = replayed(served(), known=known)
    assert done is not None
    assert done.members[0].facts == ("answers come from toy 1.0, prompt, accepted were those of toy 0.9, prompt",)
    assert (done.members[0].answered_by, done.members[0].accepted_on) == ("toy 1.0, prompt", "toy 0.9, prompt")
    from_files = replayed(opened(), known=known)
    assert from_files is not None
    assert (from_files.members[0].answered_by, from_files.members[0].accepted_on) == (THE_FILES, "toy 0.9, prompt")


def test_routes_are_checked_once_until_the_engine_may_have_changed() -> None:
    runner = served()
    served_round(runner)
    before = runner.engine.requests
    served_round(runner)
    after_one = runner.engine.requests - before
    runner.check.forget()
    before = runner.engine.requests
    served_round(runner)
    assert runner.engine.requests - before > after_one

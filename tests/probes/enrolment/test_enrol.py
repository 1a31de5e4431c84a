from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.canaries.retention import energy, prepare
from detectors.records import Band, CanarySplit, NoiseFloor
from probes.canaries.canary_file import CanarySet
from probes.canaries.schedule import mean_tokens
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.noise_battery import LEAST
from probes.enrolment.pool import NOT_CHOSEN
from probes.enrolment.settings import EnrolSettings
from probes.errors import Refused, Unreplayable
from probes.golden.codec import from_bytes, to_bytes
from probes.golden.record import Golden, check_identity
from probes.model.toy_language import END
from probes.runner import BatchShape, Replay, Replayed, Stop, Target
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, enrolled, never, opened, silent


class ShapesRunner(Runner):
    """Remembers each replay, and the batch shape that it was asked for in."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.replayed: list[tuple[BatchShape | None, Replay]] = []

    def run(self, replays: Sequence[Replay], stop: Stop, shape: BatchShape | None = None) -> Iterator[Replayed]:
        self.replayed += [(shape, replay) for replay in replays]
        return super().run(replays, stop, shape)


def attempt(settings: EnrolSettings = SETTINGS, fault: str = "none", canaries: CanarySet | None = None) -> None:
    runner = opened()
    runner.inject("alpha", fault)
    enrol(Request(runner, "alpha", canaries or canary_set(), settings, list(ADAPTERS), silent, never))


def test_enrolment_records_what_the_adapter_does() -> None:
    golden = enrolled("alpha")
    assert len(golden.pool) == len(golden.held_out) == 24
    assert golden.power.monitorable
    assert golden.base_hash.startswith("sha256:") and golden.adapter_hash.startswith("sha256:")
    assert golden.canary_set == canary_set().content_hash
    for canary in golden.canaries:
        reference = canary.reference
        assert reference.split is canary.split and reference.golden == golden.hash and reference.canary == canary.id
        assert 12 <= len(canary.continuation) <= 40
        assert 3 <= len(canary.forced) == reference.kept.shape[0] <= len(canary.continuation)
        assert list(reference.scales) == sorted(set(reference.scales.tolist()))
        assert reference.curve.shape == (len(golden.scales), *reference.kept.shape)
        assert set(reference.others) == {"beta", "gamma"}
        assert energy(reference) >= SETTINGS.min_energy * len(canary.forced)
        assert reference.noise.scale >= LEAST.scale
        kept = reference.kept >= 0
        assert all(np.isin(canary.forced[i], reference.kept[i]) for i in range(len(canary.forced)))
        assert np.isfinite(reference.curve[:, kept]).all()


def replayed_one_row(noise: float) -> tuple[Golden, list[Replay]]:
    """A record, and the replays of its battery in the configuration of one row."""
    runner = ShapesRunner(opened(noise=noise).config)
    runner.open()
    golden = enrol(Request(runner, "alpha", canary_set(), SETTINGS, [], silent, never))
    return golden, [replay for shape, replay in runner.replayed if shape == BatchShape(rows=1)]


def test_twelve_canaries_are_replayed_in_the_battery_and_every_canary_gets_their_floor() -> None:
    golden, one_row = replayed_one_row(noise=0.008)
    floors = {canary.reference.noise for canary in golden.canaries}
    worst = {
        name: max(getattr(floor, name) for floor in (LEAST, *golden.noise.values())) for name in NoiseFloor.__slots__
    }
    assert floors == {NoiseFloor(**worst)} and worst["base_shift"] > LEAST.base_shift
    halves = [golden.canary(name).split for name in {replay.canary for replay in one_row}]
    assert len(one_row) == 24 and len(halves) == 12 and halves.count(CanarySplit.SELECTED) == 6


def test_where_noise_is_not_negligible_all_canaries_are_replayed_once_and_each_gets_its_own_floor() -> None:
    golden, one_row = replayed_one_row(noise=0.05)
    assert len(one_row) == 96 and len({(replay.canary, replay.target) for replay in one_row}) == 96
    floors = [canary.reference.noise for canary in golden.canaries]
    assert len({floor.base_shift for floor in floors}) == 48
    # The figures of a configuration are the largest of all canaries, so that the largest floors are among them.
    assert max(floor.base_shift for floor in floors) == max(floor.base_shift for floor in golden.noise.values())


def test_a_quarter_of_each_half_is_scored_whole_and_the_others_by_their_first_tokens() -> None:
    golden = enrolled("alpha")
    for half in (golden.pool, golden.held_out):
        whole = [canary for canary in half if not canary.unscored]
        assert len(whole) == 6
        assert np.mean([len(canary.forced) for canary in half if canary.unscored]) < 8
        assert min(len(canary.forced) for canary in whole) >= 12
    assert golden.settings["whole_share"] == 0.25
    long_before = enrol(Request(opened(), "alpha", canary_set(), replace(SETTINGS, whole_share=1.0), [], silent, never))
    assert not any(canary.unscored for canary in long_before.canaries)
    assert {c.id: (c.split, c.continuation) for c in long_before.canaries} == {
        c.id: (c.split, c.continuation) for c in golden.canaries
    }


class Endless(Runner):
    """Its answers never end: a letter stands in place of each end of text."""

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        text: list[int] = []
        while len(text) < max_new_tokens:
            text += super().generate(target, (*prompt, *text), max_new_tokens - len(text), stop)
            text[-1] = 40 if text[-1] == END else text[-1]
        return tuple(text)


def test_a_bound_beyond_128_tokens_fills_the_band_of_late_positions() -> None:
    settings = replace(SETTINGS, per_half=4, min_pool=4, max_new_tokens=136, token_budget=2048, battery=("one row",))
    runner = Endless(Config(adapters=dict(ADAPTERS)))
    runner.open()
    golden = enrol(Request(runner, "alpha", canary_set(), settings, [], silent, never))
    late = [canary for canary in golden.canaries if any(b.band is Band.LATE for b in prepare(canary.reference).bands)]
    assert len(late) == 2 and all(canary.cut and len(canary.forced) == 136 for canary in late)


def test_power_says_what_a_round_takes() -> None:
    golden = enrolled("alpha")
    scored, processed = mean_tokens(golden.canaries, SETTINGS.token_budget)
    words = f"a round scores about {scored:.0f} positions and processes {processed:.0f} tokens for them"
    assert words in golden.power.words


def test_the_forced_continuation_is_the_adapter_s_own_greedy_one() -> None:
    canary = enrolled("alpha").canaries[0]
    assert np.array_equal(canary.reference.golden_adapter.top1, canary.forced)
    assert not np.array_equal(canary.reference.golden_base.top1, canary.forced)


def test_the_record_in_memory_is_the_one_that_a_later_process_reads() -> None:
    golden = enrolled("alpha")
    assert from_bytes(to_bytes(golden)).hash == golden.hash
    again = enrol(Request(opened(), "alpha", canary_set(), SETTINGS, list(ADAPTERS), silent, never))
    assert again.hash == golden.hash


def test_halves_are_drawn_by_the_seed_and_not_by_the_order_of_the_file() -> None:
    other = enrol(Request(opened(), "alpha", canary_set(), replace(SETTINGS, seed=1), [], silent, never))
    splits = {canary.id: canary.split for canary in enrolled("alpha").canaries}
    assert splits != {canary.id: canary.split for canary in other.canaries}
    in_file_order = [splits[name] for name in sorted(splits)]
    assert in_file_order != sorted(in_file_order, key=lambda split: split is CanarySplit.HELD_OUT)


def test_an_enrolled_adapter_has_its_own_identity() -> None:
    golden, runner = enrolled("alpha"), opened()
    assert check_identity(golden, runner) == []
    runner.inject(None, "base_swapped:0.3")
    assert "base weights" in check_identity(golden, runner)[0]


def test_another_tokenizer_is_refused_with_what_to_do() -> None:
    golden = replace(enrolled("alpha"), tokenizer_hash="sha256:" + "0" * 64)
    with pytest.raises(Refused, match="gapwatch enrol alpha --replace"):
        check_identity(golden, opened())


def test_progress_runs_through_every_stage_to_its_end() -> None:
    seen: list[tuple[str, int, int]] = []
    small = replace(SETTINGS, per_half=3, min_pool=3)
    enrol(Request(opened(), "alpha", canary_set(8), small, [], lambda *step: seen.append(step), never))
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["continuations", "scale curve and other adapters", "battery"]
    for stage in stages:
        steps = [(done, total) for name, done, total in seen if name == stage]
        assert steps == sorted(steps)
        assert steps[0][0] == 0 and steps[-1][0] == steps[-1][1]


def test_an_adapter_that_did_not_load_whole_is_refused() -> None:
    with pytest.raises(Refused, match="3 of 3 modules match nothing"):
        attempt(fault="mismatched")


def test_an_adapter_like_its_base_is_unmonitorable() -> None:
    with pytest.raises(Refused, match=r"unmonitorable: saw answers that cannot be distinguished from its base's"):
        attempt(fault="not_applied")


@pytest.mark.parametrize("stage", ["scale curve and other adapters", "battery"])
def test_numbers_that_are_not_finite_are_refused(stage: str) -> None:
    runner = opened()

    def overflow(name: str, done: int, total: int) -> None:
        if name == stage and done == 2:
            runner.inject("alpha", "not_a_number")

    with pytest.raises(Refused, match="NaN or infinite"):
        enrol(Request(runner, "alpha", canary_set(), SETTINGS, ["beta"], overflow, never))


def test_another_adapter_with_bad_numbers_is_refused_by_its_name() -> None:
    runner = opened()
    runner.inject("beta", "not_a_number")
    with pytest.raises(Refused, match=r"under beta.*NaN"):
        enrol(Request(runner, "alpha", canary_set(), SETTINGS, ["beta"], silent, never))


@pytest.mark.parametrize("fault", ["unreadable", "files_changing", "failing"])
def test_files_that_cannot_be_replayed_now_say_try_again(fault: str) -> None:
    with pytest.raises(Unreplayable):
        attempt(fault=fault)


def test_too_few_canaries_are_refused_with_how_many_are_missing() -> None:
    with pytest.raises(Refused, match=r"wanted 48, 24 to draw from and as many held out: 8 are missing"):
        attempt(canaries=canary_set(40))


def test_continuations_that_are_too_short_are_excluded_with_the_reason() -> None:
    with pytest.raises(Refused, match="64 x shorter than 35 tokens"):
        attempt(replace(SETTINGS, min_tokens=35))


def test_continuations_that_do_not_end_within_the_bound_are_cut_there_and_used() -> None:
    whole = {canary.id: canary for canary in enrolled("alpha").canaries}
    bound = int(np.median([len(canary.continuation) for canary in whole.values()]))
    golden = enrol(Request(opened(), "alpha", canary_set(), replace(SETTINGS, max_new_tokens=bound), [], silent, never))
    assert {canary.id: canary.split for canary in golden.canaries} == {name: c.split for name, c in whole.items()}
    assert not golden.excluded
    for canary in golden.canaries:
        complete = whole[canary.id].continuation
        assert canary.continuation == complete[:bound]
        assert canary.cut == (len(complete) > bound)
        assert canary.golden_text == opened().decode(complete[:bound])
    assert 0 < sum(canary.cut for canary in golden.canaries) < len(golden.canaries)
    assert [canary.cut for canary in from_bytes(to_bytes(golden)).canaries] == [c.cut for c in golden.canaries]


def test_a_check_of_an_answer_that_was_cut_is_named_as_missing() -> None:
    checked = CanarySet(tuple(replace(c, expect={"check": {"contains": ["x"]}}) for c in canary_set().canaries))
    small = replace(SETTINGS, per_half=3, min_pool=3, battery=("one row",))
    for bound, missing in ((40, ()), (12, ("checks of 6 canaries: their answers do not end within 12 tokens",))):
        golden = enrol(Request(opened(), "alpha", checked, replace(small, max_new_tokens=bound), [], silent, never))
        assert golden.unrecorded == missing


def test_a_budget_that_cannot_hold_nine_draws_is_refused_before_the_long_part() -> None:
    seen: list[str] = []
    with pytest.raises(Refused, match="token budget of a round"):
        settings = replace(SETTINGS, token_budget=100)
        enrol(Request(opened(), "alpha", canary_set(), settings, [], lambda stage, *_: seen.append(stage), never))
    assert set(seen) == {"continuations"}


def test_an_unknown_adapter_is_refused_with_those_known() -> None:
    with pytest.raises(Refused, match="alpha, beta, gamma"):
        enrol(Request(opened(), "delta", canary_set(), SETTINGS, [], silent, never))


@pytest.mark.parametrize("after", [0, 30, 200])
def test_a_stop_leaves_no_record(after: int) -> None:
    asked = iter(range(10_000))
    with pytest.raises(Unreplayable, match="stopped"):
        enrol(Request(opened(), "alpha", canary_set(), SETTINGS, [], silent, lambda: next(asked) >= after))


def test_files_that_move_during_the_enrolment_leave_no_record() -> None:
    runner = opened()

    def swap(stage: str, done: int, total: int) -> None:
        if stage == "battery" and done == 3:
            runner.inject(None, "base_swapped:0.3")

    with pytest.raises(Unreplayable, match="changed during the enrolment"):
        enrol(Request(runner, "alpha", canary_set(), SETTINGS, [], swap, never))


@pytest.mark.parametrize("changed", [{"min_pool": 1}, {"per_half": 10}, {"min_tokens": 0}, {"min_tokens": 41}])
def test_settings_that_make_no_sense_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        replace(SETTINGS, **changed)


def test_messages_and_checks_are_kept_and_a_check_of_another_form_is_refused_first() -> None:
    own = canary_set(64).canaries
    known = {canary.id: canary for canary in own}
    assert all(canary.messages == known[canary.id].messages for canary in enrolled("alpha").canaries)
    with pytest.raises(Refused, match="check of a canary"):
        attempt(canaries=CanarySet((replace(own[0], expect={"check": {"sounds": "right"}}), *own[1:])))


def chosen(**changed: Any) -> Golden:
    settings = replace(SETTINGS, per_half=12, min_pool=8, token_budget=300, select=True, **changed)
    return enrol(Request(opened(), "alpha", canary_set(), settings, list(ADAPTERS), silent, never))


def unusable(golden: Golden) -> int:
    return sum(why != NOT_CHOSEN for why in golden.excluded.values())


def test_a_chosen_pool_keeps_its_budget_and_leaves_the_held_out_half_to_chance() -> None:
    tight, wide = chosen(pool_tokens=500), chosen(pool_tokens=1000)
    for golden, budget in ((tight, 500), (wide, 1000)):
        assert sum(len(canary.prompt) + len(canary.forced) for canary in golden.pool) <= budget
        assert sum(not canary.unscored for canary in golden.pool) >= 2
        assert len(golden.pool) >= 8 and len(golden.held_out) == 12
        assert list(golden.excluded.values()).count(NOT_CHOSEN) == 64 - 12 - len(golden.pool) - unusable(golden)
    # Whatever is chosen, the held-out half is the one that was drawn before.
    assert {canary.id for canary in tight.held_out} == {canary.id for canary in wide.held_out}
    assert len(tight.pool) < len(wide.pool)


def test_a_chosen_pool_takes_fewer_tokens_than_a_random_one_of_as_many_canaries() -> None:
    def mean_cost(golden: Golden) -> float:
        return float(np.mean([len(canary.prompt) + len(canary.forced) for canary in golden.pool]))

    assert mean_cost(chosen(pool_tokens=600)) < mean_cost(enrolled("alpha"))


def test_a_pool_that_cannot_hold_the_least_number_is_refused() -> None:
    with pytest.raises(Refused, match="canaries to choose from"):
        chosen(pool_tokens=60)

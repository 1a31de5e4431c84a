"""Enrolment through a serving engine: with nothing but its own answers, and against a record made in process."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from probes.canaries.canary_file import CanarySet
from probes.enrolment.enrol import Request, enrol
from probes.enrolment.noise_battery import LEAST, SERVED
from probes.enrolment.offline_reference import AGAINST
from probes.errors import Refused
from probes.golden.codec import from_bytes, to_bytes
from probes.golden.record import Golden
from tests.probes.goldens import assert_same
from tests.probes.serving.toy_runner import ToyRunner, served
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, enrolled, never, silent

NOISE = 0.01  # nats on every logit of every request


def record(runner: ToyRunner, offline: Golden | None = None, canaries: CanarySet | None = None) -> Golden:
    others = list(ADAPTERS)
    return enrol(Request(runner, "alpha", canaries or canary_set(), SETTINGS, others, silent, never, offline))


@lru_cache(maxsize=1)
def alone() -> Golden:
    return record(served(noise=NOISE))


@lru_cache(maxsize=1)
def against_offline() -> Golden:
    return record(served(noise=NOISE), enrolled("alpha"))


def test_a_record_of_an_engine_alone_holds_what_it_lists_and_two_strengths() -> None:
    golden = alone()
    assert golden.made_on == "toy 1.0, prompt" and golden.offline == ""
    assert golden.scales == (0.0, 1.0)
    assert len(golden.pool) == len(golden.held_out) == 24 and golden.power.monitorable
    for canary in golden.canaries:
        reference = canary.reference
        assert reference.listed == 20 and reference.kept.shape[1] == 41
        assert set(reference.others) == {"beta", "gamma"}
        assert np.isfinite(reference.curve[:, reference.kept >= 0]).all()
        assert all(token in reference.kept[row] for row, token in enumerate(canary.forced))


def test_it_says_that_it_is_blind_to_what_the_engine_always_gets_wrong() -> None:
    assert any("what this engine always gets wrong" in words for words in alone().unrecorded)
    assert any("other strengths" in words for words in alone().unrecorded)
    assert not any("always gets wrong" in words for words in against_offline().unrecorded)


def test_its_noise_is_that_of_its_route() -> None:
    assert set(alone().noise) == {configuration.name for configuration in SERVED}
    floors = [floor.scale for floor in alone().noise.values()]
    assert all(0 < floor < 0.05 for floor in floors)


def test_it_is_read_again_as_it_was_made_and_is_the_same_when_made_again() -> None:
    golden = alone()
    assert_same(golden, from_bytes(to_bytes(golden)))
    assert {canary.reference.listed for canary in from_bytes(to_bytes(golden)).canaries} == {20}
    assert record(served(noise=NOISE)).hash == golden.hash


def test_against_a_record_made_in_process_its_canaries_are_kept_and_the_difference_is_noise() -> None:
    offline, golden = enrolled("alpha"), against_offline()
    assert golden.offline == offline.hash and golden.made_on == "toy 1.0, prompt"
    assert [canary.id for canary in golden.canaries] == [canary.id for canary in offline.canaries]
    assert golden.scales == offline.scales and golden.base_hash == offline.base_hash
    assert AGAINST.name in golden.noise and golden.noise[AGAINST.name].scale > 0
    assert all(canary.reference.noise.scale >= LEAST.scale for canary in golden.canaries)
    assert golden.power.monitorable


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("not_applied", "the adapter is not applied: the base answers"),
        ("wrong_adapter:beta", "the adapter beta answers in its place"),
        ("scale:0.5", "the adapter is applied at another strength (strength 0.5"),
        ("without:part.0", "in part or otherwise"),
    ],
)
def test_an_engine_that_was_always_wrong_is_refused_and_what_differs_is_named(fault: str, words: str) -> None:
    """With its own answers alone the third and the fourth are accepted as they are (vllm-project/vllm#48974)."""
    runner = served(noise=NOISE)
    runner.engine.models_behind.inject("alpha", fault)
    with pytest.raises(Refused) as refused:
        record(runner, enrolled("alpha"))
    assert words in str(refused.value)


def test_an_engine_with_another_base_is_refused() -> None:
    runner = served(noise=NOISE)
    runner.engine.models_behind.inject(None, "base_swapped:0.3")
    with pytest.raises(Refused, match="another base answers"):
        record(runner, enrolled("alpha"))


def test_an_engine_that_renders_prompts_otherwise_is_refused() -> None:
    offline = enrolled("alpha")
    canaries = tuple(replace(canary, prompt=(*canary.prompt, 65)) for canary in offline.canaries)
    with pytest.raises(Refused, match="48 of 48 prompts render to other token ids"):
        record(served(), replace(offline, canaries=canaries))


def test_a_small_fault_within_the_tolerance_is_recorded_as_the_engines_noise() -> None:
    runner = served()
    runner.engine.models_behind.inject("alpha", "scale:0.98")
    golden = record(runner, enrolled("alpha"))
    assert golden.noise[AGAINST.name].scale == pytest.approx(0.02, abs=0.005)
    assert all(canary.reference.noise.scale >= 0.015 for canary in golden.canaries)


def test_an_adapter_that_the_engine_does_not_apply_is_not_enrolled_on_its_answers_alone() -> None:
    runner = served()
    runner.engine.models_behind.inject("alpha", "not_applied")
    with pytest.raises(Refused, match="cannot be distinguished from its base"):
        record(runner)


def test_an_adapter_that_is_scored_wrongly_is_enrolled_by_the_next_route_and_the_record_says_so() -> None:
    golden = record(served(noise=NOISE, blind=frozenset({"alpha"})))
    assert golden.made_on == "toy 1.0, walk" and golden.power.monitorable
    assert any("scoring in the prompt is blind for alpha" in words for words in golden.unrecorded)


def test_noise_as_wide_as_the_tolerance_leaves_the_adapter_unmonitorable() -> None:
    assert Tolerances().scale == 0.05
    assert not record(served(noise=0.6)).power.monitorable

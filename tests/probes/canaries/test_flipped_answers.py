from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from detectors.records import Reason, Round
from probes.canaries.flipped_answers import flips
from probes.canaries.round import Scheduled, replay_base_round
from probes.enrolment.enrol import Request, enrol
from probes.errors import Unsupported
from probes.golden.record import Golden, Unmonitorable
from probes.runner import Stop, Target
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, SETTINGS, canary_set, enrolled, never, opened, silent


def goldens() -> dict[str, Golden | Unmonitorable]:
    return {name: enrolled(name) for name in ADAPTERS}


def alpha_round(runner: Runner, known: dict[str, Golden | Unmonitorable] | None = None) -> Round:
    done = replay_base_round(runner, known or goldens(), Scheduled("toy", 0, 100.0, 512, 7), never)
    assert done is not None
    return done.members[0]


def unapplied() -> Runner:
    runner = opened()
    runner.inject("alpha", "not_applied")
    return runner


def test_flips_show_the_worst_canaries_before_and_after() -> None:
    runner = unapplied()
    seen = alpha_round(runner)
    found = flips(runner, seen, goldens(), 3, never)
    assert 1 <= len(found) <= 3
    for flip in found:
        canary = enrolled("alpha").canary(flip.canary)
        assert (flip.prompt, flip.golden_text) == (canary.prompt_text, canary.golden_text)
        assert flip.present_text != flip.golden_text
        assert flip.retention == pytest.approx(0, abs=0.01)
    assert flips(runner, seen, goldens(), 3, lambda: True) == []
    runner.inject("alpha", "unreadable")
    assert flips(runner, seen, goldens(), 3, never) == []


def test_flips_pass_over_canaries_of_a_record_that_was_replaced_and_end_at_any_failure() -> None:
    runner = unapplied()
    seen = alpha_round(runner)
    worst = flips(runner, seen, goldens(), 1, never)[0].canary
    alpha = enrolled("alpha")
    later = replace(alpha, canaries=tuple(canary for canary in alpha.canaries if canary.id != worst))
    found = flips(runner, seen, {"alpha": later}, 3, never)
    assert found and worst not in [flip.canary for flip in found]
    unsupported = Unready(Config(adapters=dict(ADAPTERS)))
    unsupported.open()
    assert flips(unsupported, seen, goldens(), 3, never) == []


class Unready(Runner):
    """Its adapter was replaced by one with a feature that is not done."""

    def generate(self, target: Target, prompt: Sequence[int], max_new_tokens: int, stop: Stop) -> tuple[int, ...]:
        raise Unsupported(str(target.adapter), f"use_qalora ({len(prompt)}, {max_new_tokens}, {stop()})")


def cut(bound: int) -> Golden:
    settings = replace(SETTINGS, max_new_tokens=bound)
    golden = enrol(Request(opened(), "alpha", canary_set(), settings, list(ADAPTERS), silent, never))
    assert all(canary.cut for canary in golden.canaries)
    return golden


def test_an_answer_that_was_cut_is_compared_as_far_as_it_was_recorded_and_not_checked() -> None:
    check = {"check": {"matches": ".*"}}
    recorded = cut(12)
    canaries = tuple(replace(canary, expect=check) for canary in recorded.canaries)
    known: dict[str, Golden | Unmonitorable] = {"alpha": replace(recorded, canaries=canaries)}
    healthy = opened()
    assert flips(healthy, alpha_round(healthy, known), known, 3, never) == []
    broken = unapplied()
    flipped = flips(broken, alpha_round(broken, known), known, 3, never)
    assert flipped
    for flip in flipped:
        prompt = recorded.canary(flip.canary).prompt
        assert flip.present_text == broken.decode(broken.generate(Target("alpha"), prompt, 12, never))
        assert (flip.golden_passes, flip.present_passes) == (None, None)


def test_a_healthy_adapter_flips_nothing() -> None:
    runner = opened()
    seen = alpha_round(runner)
    assert flips(runner, seen, goldens(), 3, never) == []
    assert flips(runner, seen, {"alpha": Unmonitorable(Reason.NO_GOLDEN, "")}, 3, never) == []


@pytest.mark.parametrize(
    ("wanted", "checks"),
    [("golden", (True, False)), ("neither", (False, False)), ("both", (True, True))],
)
def test_a_flip_says_whether_the_canary_s_own_check_passed_then_and_passes_now(
    wanted: str, checks: tuple[bool, bool]
) -> None:
    runner = unapplied()
    plain = flips(runner, alpha_round(runner), goldens(), 1, never)[0]
    assert (plain.golden_passes, plain.present_passes) == (None, None)
    # The end of text is not the check's business.
    said = plain.golden_text.removesuffix("<end>")
    assert said != plain.golden_text
    check = {"golden": {"equals": said}, "neither": {"contains": ["#never#"]}, "both": {"matches": ".*"}}[wanted]
    alpha = enrolled("alpha")
    checked = tuple(replace(canary, expect={"check": check}) for canary in alpha.canaries)
    known: dict[str, Golden | Unmonitorable] = {"alpha": replace(alpha, canaries=checked)}
    (flip,) = flips(runner, alpha_round(runner, known), known, 1, never)
    assert (flip.golden_passes, flip.present_passes) == checks

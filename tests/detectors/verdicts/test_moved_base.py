"""A base that moved within tolerance, in words: why, what its adapters keep, the tolerance now, how to accept it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.root_cause import diagnosed_canaries
from detectors.monitor import Monitor
from detectors.records import NO_GRID, Identity, Reason, Round, Status, Verdict
from detectors.verdicts.incident import Rules
from detectors.verdicts.moved_base import moved_base
from tests.detectors.faulty_answers import recorded_round
from tests.detectors.synthetic import ADAPTERS, make_base_round, make_round

T = Tolerances()
RULES = Rules(T, log_threshold=20.0)
OTHER, SAME = Identity("sha256:aa11", "sha256:bb22"), Identity("sha256:aa11", "sha256:aa11")


def judged(faults: Mapping[str, str], identity: Identity) -> dict[str, Verdict]:
    seen = make_base_round(faults)
    members = tuple(replace(member, identity=identity) for member in seen.members)
    return {v.subject: v for v in Monitor(RULES).observe(replace(seen, members=members)).verdicts}


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (OTHER, "the base has other weights than accepted (hash was aa11, is bb22; base shift 0.00"),
        (SAME, "the base answers differently than accepted from the same weights (hash aa11; base shift 0.00"),
        (Identity(), "whether its weights are others is not known"),
    ],
    ids=["another hash", "the same hash", "no hash"],
)
def test_other_weights_are_said_only_where_a_hash_says_so(identity: Identity, words: str) -> None:
    base = judged(dict.fromkeys(ADAPTERS, "tuned"), identity)["smol"]
    assert (base.status, base.reason) == (Status.HEALTHY, Reason.BASE_MOVED)
    assert words in base.explanation and "no known fault explains the difference" in base.explanation
    assert identity is OTHER or "has other weights" not in base.explanation


def test_a_base_on_a_grid_of_its_weights_is_said_to_be_quantised() -> None:
    """Its signature is recorded in no golden record any more."""
    on_grid = replace(OTHER, golden_grid=NO_GRID, live_grid="8 bits with one scale a row: 28 of 28 linear matrices")
    base = judged(dict.fromkeys(ADAPTERS, "tuned"), on_grid)["smol"]
    words = "the weights of the base are quantised (8 bits with one scale a row: 28 of 28 linear matrices; accepted: "
    assert words in base.explanation and "hash was aa11, is bb22" in base.explanation
    assert "no known fault" not in base.explanation


def test_the_figures_are_those_of_the_held_out_canaries() -> None:
    members = [make_round(adapter, "tuned") for adapter in ADAPTERS]
    moved, rows = moved_base("smol", members, T), [diagnosed_canaries(member) for member in members]
    strengths = [float(np.mean([m.scale for m in each])) for each in rows]
    allowed = [min(0.05 + 1.5 * m.base_shift**0.5, 0.25) for each in rows for m in each]
    assert moved.strength.mean == pytest.approx(np.mean(strengths)) and moved.strength.n == len(ADAPTERS)
    assert moved.strength.low < moved.strength.mean < moved.strength.high
    assert (moved.weakest, moved.weakest_strength) == (ADAPTERS[int(np.argmin(strengths))], min(strengths))
    assert moved.kl == pytest.approx(np.mean([m.kl_golden_served for each in rows for m in each]))
    assert moved.changed_answers == np.mean([m.top1_agreement < 1 for each in rows for m in each])
    assert moved.allowed == pytest.approx((min(allowed), max(allowed))) and moved.tolerance == 0.05


def test_the_range_of_the_tolerance_and_the_way_to_accept_the_base_are_said() -> None:
    base = judged(dict.fromkeys(ADAPTERS, "tuned"), OTHER)["smol"]
    least, most = map(
        float, re.findall(r"off by ([\d.]+) to ([\d.]+) % of strength, in place of 5 %", base.explanation)[0]
    )
    assert 5.0 < least < most < 25.0
    assert "(router, rewriter, extractor)" in base.action
    assert "gapwatch enrol router --replace --why TEXT" in base.action


def test_its_adapters_do_not_repeat_what_the_base_says_and_an_only_one_says_it() -> None:
    several, only = judged(dict.fromkeys(ADAPTERS, "tuned"), OTHER), judged({"router": "tuned"}, OTHER)
    assert (
        "of the accepted strength" in several["smol"].explanation
        and "of the accepted strength" in only["router"].explanation
    )
    assert "keeps least of its strength" in several["smol"].explanation and "least" not in only["router"].explanation
    assert all("of the accepted strength" not in several[adapter].explanation for adapter in ADAPTERS)


def test_where_it_has_not_moved_under_most_of_them_the_few_say_it() -> None:
    seen = judged({"router": "tuned", "rewriter": "healthy", "extractor": "healthy"}, SAME)
    assert seen["smol"].reason is Reason.WITHIN_TOLERANCE
    assert (
        "router keeps 1.0" in seen["router"].explanation
        and "of the accepted strength" not in seen["rewriter"].explanation
    )


def test_what_explains_both_endpoints_is_named() -> None:
    """Which faults are recorded does not depend on how far the base has moved; 4 bits move this one far."""
    rounded = moved_base("smol", [recorded_round("router", "quantised:4")], T).fault
    assert rounded is not None and rounded.names[0] == "4" and rounded.unexplained <= 0.05
    flatter = moved_base("smol", [recorded_round("router", "temperature_of_all:1.03")], T).fault
    assert flatter is not None and flatter.kind is None and flatter.value == pytest.approx(1.03, abs=0.003)
    assert moved_base("smol", [make_round("router", "tuned")], T).fault is None
    assert moved_base("smol", [recorded_round("router", "temperature:1.03")], T).fault is None


def test_a_template_that_changed_is_not_a_base_that_moved() -> None:
    def rendered(member: Round) -> Round:
        return replace(make_round(member.adapter, "int8"), identity=SAME, raw=member.measurements)

    seen = make_base_round(dict.fromkeys(ADAPTERS, "healthy"))
    verdicts = Monitor(RULES).observe(replace(seen, members=tuple(map(rendered, seen.members)))).verdicts
    assert {(v.status, v.reason) for v in verdicts} == {(Status.HEALTHY, Reason.TEMPLATE_CHANGED)}
    assert all("of the accepted strength" not in v.explanation for v in verdicts)
    assert all(v.base_shift < 1e-6 for v in verdicts)

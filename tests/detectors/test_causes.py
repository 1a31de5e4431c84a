from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.causes import name_base_cause, name_cause, signatures, witnesses
from detectors.records import Cause, Half, Identity, Measurement, Round
from detectors.score import Tolerances
from tests.detectors.synthetic import make_base_round, make_round

T = Tolerances()


@pytest.mark.parametrize(
    "why, fault, cause",
    [
        ("the engine serves the base under the adapter's name", "not_applied", Cause.ADAPTER_NOT_APPLIED),
        ("another base, and the adapter does nothing on it", "swapped_and_lost", Cause.BASE_SWAPPED_AND_ADAPTER_LOST),
        (
            "base answers as before, files differ, adapter is lost",
            "reparameterised",
            Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
        ),
        ("another base, the adapter does something on it", "swapped", Cause.BASE_SWAPPED),
        ("alpha / r where alpha / sqrt(r) was meant", "scale:0.25", Cause.WRONG_STRENGTH),
        ("twice as strong", "scale:2", Cause.WRONG_STRENGTH),
        ("a tenth weaker", "scale:0.9", Cause.WRONG_STRENGTH),
        ("between two recorded strengths", "scale:3", Cause.WRONG_STRENGTH),
        ("nearly off, yet not another adapter", "scale:0.1", Cause.WRONG_STRENGTH),
        ("another tenant's adapter", "adapter:rewriter", Cause.WRONG_ADAPTER),
        ("yet another one", "adapter:extractor", Cause.WRONG_ADAPTER),
        ("energy in no recorded direction", "junk", Cause.UNKNOWN),
        ("nothing at all: at noise level nothing is named", "healthy", Cause.UNKNOWN),
        ("a drift within tolerance is no wrong strength", "scale:0.96", Cause.UNKNOWN),
    ],
)
def test_cause(why: str, fault: str, cause: Cause) -> None:
    assert name_cause(make_round("router", fault), T)[0] is cause


def test_explanations_carry_the_numbers_and_names_a_person_needs() -> None:
    def told(fault: str) -> str:
        return " ".join(name_cause(make_round("router", fault), T)[1:])

    assert "retention 0.00" in told("not_applied") and "router" in told("not_applied")
    assert "x2.00" in told("scale:2") and "near x2" in told("scale:2")
    assert "1/sqrt(16)" in told("scale:0.25")
    assert "rewriter" in told("adapter:rewriter")
    assert "answers as before (was old, is new" in told("reparameterised")
    assert "answers as before" not in told("swapped_and_lost")
    assert "--replace" in told("swapped")


def test_a_hash_alone_makes_no_swap_of_a_base_that_lost_nothing_but_its_strength_is_read_when_hashes_agree() -> None:
    weak = make_round("router", "scale:0.5")
    assert name_cause(weak, T)[0] is Cause.WRONG_STRENGTH
    assert name_cause(replace(weak, identity=Identity("a", "b")), T)[0] is Cause.BASE_SWAPPED
    assert name_cause(replace(weak, identity=Identity("", "b")), T)[0] is Cause.WRONG_STRENGTH


def test_facts_and_a_changed_adapter_file_are_appended_and_decide_nothing() -> None:
    plain = make_round("router", "not_applied")
    with_facts = replace(
        plain,
        facts=("24 of 120 keys match nothing",),
        identity=Identity(golden_adapter="sha256:0123456789abcdef", live_adapter="sha256:fedcba9876543210"),
    )
    cause, what, _ = name_cause(with_facts, T)
    assert cause is Cause.ADAPTER_NOT_APPLIED
    assert "24 of 120 keys match nothing" in what
    assert "was 0123456789ab, is fedcba987654" in what


def test_named_on_held_out_canaries_and_on_all_where_there_are_none() -> None:
    seen = make_round("router", "scale:0.5")
    assert {m.comparison.reference.half for m in witnesses(seen)} == {Half.HELD_OUT}
    bare = make_round("router", "scale:0.5", held_out=0)
    assert witnesses(bare) == bare.measurements
    assert name_cause(bare, T)[0] is Cause.WRONG_STRENGTH


def test_a_round_without_numbers_has_an_unknown_cause() -> None:
    assert name_cause(Round("router", "smol", 0, 0.0, ()), T)[0] is Cause.UNKNOWN
    assert name_cause(make_round("router", "nan"), T)[0] is Cause.UNKNOWN


def test_another_adapter_must_leave_half_of_what_the_runner_up_leaves() -> None:
    """Two other adapters recorded alike cannot be told apart: neither is named."""
    seen = make_round("router", "adapter:rewriter")

    def doubled(m: Measurement) -> Measurement:
        known = m.comparison.reference
        near = known.others["rewriter"] + np.float32(0.1) * np.sin(known.kept)
        also = replace(known, others={"copy": near, "twin": near})
        return replace(m, comparison=replace(m.comparison, reference=also))

    unclear = replace(seen, measurements=tuple(doubled(m) for m in seen.measurements))
    tried, energy = signatures(witnesses(unclear))
    assert tried[0].left <= 0.05 * energy
    assert name_cause(unclear, T)[0] is Cause.UNKNOWN


def test_the_cause_of_a_base_is_what_most_of_its_broken_members_show() -> None:
    faults = {"router": "reparameterised", "rewriter": "reparameterised", "extractor": "healthy"}
    cause, what, _ = name_base_cause(make_base_round(faults), T)
    assert cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert "2 of 3 adapters of smol are affected (router, rewriter)" in what

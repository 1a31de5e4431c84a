from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.diagnosis.root_cause import diagnosed_canaries, name_base_cause, name_cause
from detectors.diagnosis.signature_matching import explanations
from detectors.records import CanarySplit, Cause, Identity, Measurement, Round
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
        ("a base of fewer bits, adapters weaker and off their direction", "requantised", Cause.BASE_SWAPPED),
        (
            "weaker by other weights that answer as before: along the curve, uneven over canaries",
            "partly_reparameterised",
            Cause.BASE_SWAPPED_AND_ADAPTER_LOST,
        ),
        ("half strength months after a base that was tolerated", "improved+scale:0.5", Cause.WRONG_STRENGTH),
        ("the same where its answers did not move", "reparameterised+scale:0.5", Cause.WRONG_STRENGTH),
        ("the wrong adapter months after such a base", "improved+adapter:rewriter", Cause.WRONG_ADAPTER),
        ("half strength, and the base moved so far that nothing fits", "swapped+scale:0.5", Cause.BASE_SWAPPED),
        ("an improved base and no fault of the adapter's own", "improved", Cause.BASE_SWAPPED),
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
    assert "beside that the base has other weights" in told("improved+scale:0.5")
    assert "rewriter" in told("adapter:rewriter")
    assert "answers as before (was old, is new" in told("reparameterised")
    assert "answers as before" not in told("swapped_and_lost")
    assert "--replace" in told("swapped")


@pytest.mark.parametrize(
    "fault, seen, possible",
    [
        ("scale:0.5", "near x0.5;", "r = 4 "),
        ("scale:0.25", "near x0.25;", "r = 16 "),
        ("scale:0.354", "x0.35 of its strength;", "r = 8 "),
        ("scale:8", "near x8;", ""),
        ("scale:0.65", "x0.65 of its strength;", ""),
    ],
)
def test_what_was_seen_is_a_plain_factor_and_rslora_is_a_possibility_to_check(
    fault: str, seen: str, possible: str
) -> None:
    _, what, do = name_cause(make_round("router", fault), T)
    assert seen in what and "sqrt" not in what
    assert (f"if the adapter uses rsLoRA with {possible}" in do) if possible else ("rsLoRA" not in do)


@pytest.mark.parametrize(
    "golden, live, cause",
    [("a", "b", Cause.BASE_SWAPPED), ("a", "a", Cause.UNKNOWN), ("", "b", Cause.UNKNOWN)],
)
def test_another_hash_makes_a_swap_of_what_no_signature_explains(golden: str, live: str, cause: Cause) -> None:
    assert name_cause(replace(make_round("router", "junk"), identity=Identity(golden, live)), T)[0] is cause


CHANGED = Identity("a", "a", golden_adapter="sha256:0123456789abcdef", live_adapter="sha256:fedcba9876543210")


def test_a_changed_adapter_file_is_told_beside_the_cause_that_its_answers_have() -> None:
    cause, what, do = name_cause(replace(make_round("router", "not_applied"), identity=CHANGED), T)
    assert cause is Cause.ADAPTER_NOT_APPLIED
    assert "was 0123456789ab, is fedcba987654" in what
    assert do.endswith("its files are not the accepted ones: put the accepted ones back (enrolment keeps a copy in "
                       "adapters/ beside the golden records)")  # fmt: skip


def test_a_changed_adapter_file_is_the_cause_where_nothing_else_explains_the_answers() -> None:
    cause, what, do = name_cause(replace(make_round("router", "junk"), identity=CHANGED), T)
    assert cause is Cause.ADAPTER_REPLACED
    assert "router is made of other files than were accepted, on the same base" in what
    assert "was 0123456789ab, is fedcba987654" in what and do.count("put the accepted ones back") == 1
    assert "gapwatch enrol router --replace" in do
    moved = replace(CHANGED, live_base="b")
    assert name_cause(replace(make_round("router", "junk"), identity=moved), T)[0] is Cause.BASE_SWAPPED


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (
            Identity("a", "a", golden_template="t", live_template="u"),
            "the chat template changed, the tokenizer did not",
        ),
        (
            Identity("a", "a", golden_tokenizer="t", live_tokenizer="u"),
            "the tokenizer's files changed, the chat template",
        ),
        (Identity("a", "a"), "the chat template or the tokenizer changed"),
    ],
)
def test_which_of_template_and_tokenizer_changed_is_said_where_it_is_known(identity: Identity, words: str) -> None:
    healthy, bad = make_round("router"), make_round("router", "junk")
    cause, what, _ = name_cause(replace(bad, identity=identity, raw=healthy.measurements), T)
    assert cause is Cause.TEMPLATE_CHANGED and words in what


def test_named_on_held_out_canaries_and_on_all_where_there_are_none() -> None:
    seen = make_round("router", "scale:0.5")
    assert {m.comparison.reference.split for m in diagnosed_canaries(seen)} == {CanarySplit.HELD_OUT}
    bare = make_round("router", "scale:0.5", held_out=0)
    assert diagnosed_canaries(bare) == bare.measurements
    assert name_cause(bare, T)[0] is Cause.WRONG_STRENGTH


def test_a_round_without_numbers_has_an_unknown_cause() -> None:
    assert name_cause(Round("router", "smol", 0, 0.0, ()), T)[0] is Cause.UNKNOWN
    assert name_cause(make_round("router", "nan"), T)[0] is Cause.UNKNOWN


@pytest.mark.parametrize("apart", [0.1, 0.0])
def test_of_two_adapters_recorded_alike_both_are_named(apart: float) -> None:
    """The cause is sure and the adapter is not: neighbours inside a cause do not keep each other from being named."""
    seen = make_round("router", "adapter:rewriter")

    def doubled(m: Measurement) -> Measurement:
        known = m.comparison.reference
        near = known.others["rewriter"] + (apart * np.sin(known.kept)).astype(np.float32)
        return replace(
            m, comparison=replace(m.comparison, reference=replace(known, others={"copy": near, "twin": near}))
        )

    unclear = replace(seen, measurements=tuple(doubled(m) for m in seen.measurements))
    tried = explanations(diagnosed_canaries(unclear), T.scale)
    assert tried[0].name == "copy" and tried[0].share <= 0.05 and tried[0].raw == tried[1].raw
    cause, what, _ = name_cause(unclear, T)
    assert cause is Cause.WRONG_ADAPTER and "as copy or twin does" in what


def test_the_cause_of_a_base_is_what_most_of_its_broken_members_show() -> None:
    faults = {"router": "reparameterised", "rewriter": "reparameterised", "extractor": "healthy"}
    cause, what, _ = name_base_cause(make_base_round(faults), T)
    assert cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert "2 of 3 adapters of smol are affected (router, rewriter)" in what

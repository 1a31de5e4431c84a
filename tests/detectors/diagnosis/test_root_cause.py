from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from detectors.canaries.mode_gap import in_modes
from detectors.canaries.tolerance import Tolerances, base_moved
from detectors.diagnosis.root_cause import diagnose, diagnose_base, diagnosed_canaries
from detectors.diagnosis.signature_matching import signature_fits
from detectors.diagnosis.wording import words_of
from detectors.records import NO_GRID, CanarySplit, Cause, Identity, Measurement, Mode, Round
from tests.detectors.synthetic import ADAPTERS, make_base_round, make_round

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
def test_which_cause_a_fault_gets(why: str, fault: str, cause: Cause) -> None:
    assert diagnose(make_round("router", fault), T).cause is cause


@pytest.mark.parametrize(
    "shift, cause",
    [(1e-4, Cause.ADAPTER_NOT_APPLIED), (1e-2, Cause.BASE_SWAPPED_AND_ADAPTER_LOST)],
)
def test_a_base_a_hair_off_has_not_taken_the_adapter(shift: float, cause: Cause) -> None:
    """So is every base on an engine of another kind than the one that the record was made in: beyond its noise."""
    lost = replace(make_round("router", "not_applied"), identity=Identity())
    moved = replace(lost, measurements=tuple(replace(m, base_shift=shift) for m in lost.measurements))
    assert base_moved(moved, T) and diagnose(moved, T).cause is cause


def test_a_diagnosis_carries_the_numbers_and_names_a_person_needs() -> None:
    lost = diagnose(make_round("router", "not_applied"), T)
    assert lost.adapter == "router" and lost.means is not None and lost.nothing_left
    assert (lost.means.retention, lost.means.gap_ratio, lost.means.base_shift) == (0.0, 0.0, 0.0)
    double = diagnose(make_round("router", "scale:2"), T).match
    assert double is not None and double.value == pytest.approx(2.0, abs=0.005) and double.kind is None
    on_another_base = diagnose(make_round("router", "improved+scale:0.5"), T)
    assert on_another_base.base_moved and on_another_base.identity.base_moved and on_another_base.match is not None
    assert on_another_base.match.value == pytest.approx(0.5, abs=0.03)
    other = diagnose(make_round("router", "adapter:rewriter"), T).match
    assert other is not None and other.names == ("rewriter",) and other.unexplained < 0.01


@pytest.mark.parametrize(
    "golden, live, cause",
    [("a", "b", Cause.BASE_SWAPPED), ("a", "a", Cause.UNKNOWN), ("", "b", Cause.UNKNOWN)],
)
def test_another_hash_makes_a_swap_of_what_no_signature_explains(golden: str, live: str, cause: Cause) -> None:
    assert diagnose(replace(make_round("router", "junk"), identity=Identity(golden, live)), T).cause is cause


FOUR_BITS = "4 bits in groups of 64 (NF4 levels): 168 of 168 linear matrices"
EIGHT_BITS = "8 bits with one scale a row (evenly spaced levels): 168 of 168 linear matrices"


@pytest.mark.parametrize(
    "why, golden, live, cause",
    [
        ("rounding of any recipe, by the weights", NO_GRID, FOUR_BITS, Cause.QUANTISED_BASE),
        ("fewer bits than accepted", EIGHT_BITS, FOUR_BITS, Cause.QUANTISED_BASE),
        ("it was quantised so when it was accepted", FOUR_BITS, FOUR_BITS, Cause.BASE_SWAPPED),
        ("by another method, in as many bits", FOUR_BITS, "4 bits in groups of 64 (hqq)", Cause.BASE_SWAPPED),
        ("it was quantised, and is no longer", FOUR_BITS, NO_GRID, Cause.BASE_SWAPPED),
        ("what was accepted is not recorded", "", FOUR_BITS, Cause.BASE_SWAPPED),
        ("the present one cannot be read", NO_GRID, "", Cause.BASE_SWAPPED),
    ],
)
@pytest.mark.parametrize("fault", ["requantised", "junk"])
def test_a_quantised_base_is_known_by_its_weights(why: str, golden: str, live: str, cause: Cause, fault: str) -> None:
    """Whatever direction its answers have gone: no signature explains them."""
    identity = Identity("a", "b", golden_grid=golden, live_grid=live)
    assert diagnose(replace(make_round("router", fault), identity=identity), T).cause is cause


def test_a_quantised_base_that_is_tolerated_hides_no_fault_of_the_adapter() -> None:
    identity = Identity("a", "b", golden_grid=NO_GRID, live_grid=FOUR_BITS)
    faults = {"improved+adapter:rewriter": Cause.WRONG_ADAPTER, "improved+scale:0.5": Cause.WRONG_STRENGTH}
    for fault, cause in faults.items():
        assert diagnose(replace(make_round("router", fault), identity=identity), T).cause is cause
    same_files = replace(identity, live_base="a")
    assert diagnose(replace(make_round("router", "junk"), identity=same_files), T).cause is Cause.UNKNOWN


CHANGED = Identity("a", "a", golden_adapter="sha256:0123456789abcdef", live_adapter="sha256:fedcba9876543210")


def test_changed_adapter_files_are_the_cause_where_nothing_else_explains_the_answers() -> None:
    assert (
        diagnose(replace(make_round("router", "not_applied"), identity=CHANGED), T).cause is Cause.ADAPTER_NOT_APPLIED
    )
    replaced = diagnose(replace(make_round("router", "junk"), identity=CHANGED), T)
    assert replaced.cause is Cause.ADAPTER_REPLACED and replaced.identity == CHANGED
    moved = replace(CHANGED, live_base="b")
    assert diagnose(replace(make_round("router", "junk"), identity=moved), T).cause is Cause.BASE_SWAPPED


def test_another_source_in_the_engines_list_is_the_cause_where_nothing_else_explains_the_answers() -> None:
    other = Identity("a", "a", golden_source="router-v3 on smol", live_source="router-v2 on smol")
    replaced = diagnose(replace(make_round("router", "junk"), identity=other), T)
    assert replaced.cause is Cause.ADAPTER_REPLACED
    assert "another place than accepted (was router-v3 on smol, is router-v2 on smol)" in words_of(replaced).explanation
    assert diagnose(replace(make_round("router", "junk"), identity=replace(other, golden_source="")), T).cause is (
        Cause.UNKNOWN
    )


def in_two_requests(fault: str, second: str) -> Round:
    """Each drawn canary written twice, under these faults in turn; what is scored is as accepted."""
    plain = make_round("router")
    cells = []
    for i, m in enumerate(m for m in plain.measurements if m.comparison.draws):
        name = m.comparison.reference.canary
        for each in (fault, second) if i % 2 else (second, fault):
            other = next(o for o in make_round("router", each).measurements if o.comparison.reference.canary == name)
            known = replace(other.comparison.reference, mode_floors={Mode.WRITTEN: 0.0})
            comparison = replace(other.comparison, modes=(Mode.WRITTEN,), reference=known)
            cells.append(in_modes(replace(other, comparison=comparison), m))
    return replace(plain, cells=tuple(cells), answered_by="vllm 0.33.0, scoring in the prompt")


def test_answers_of_one_canary_that_differ_in_the_same_mode_are_of_some_requests_and_no_mode() -> None:
    some = diagnose(in_two_requests("not_applied", "healthy"), T)
    assert some.cause is Cause.ONE_REPLICA and some.replicas is not None
    counted = f"{some.replicas.bad} of {some.replicas.total} answers to canaries are wrong"
    assert counted in words_of(some).explanation
    assert 2 * some.replicas.bad == some.replicas.total == len(in_two_requests("healthy", "healthy").cells)
    assert some.replicas.diagnosis.cause is Cause.ADAPTER_NOT_APPLIED
    assert diagnose(in_two_requests("not_applied", "not_applied"), T).cause is Cause.SERVING_PATH


def test_another_adapter_in_some_of_one_engines_answers_is_that_adapter() -> None:
    mixed = diagnose(in_two_requests("adapter:rewriter", "healthy"), T)
    assert mixed.cause is Cause.WRONG_ADAPTER and mixed.match is not None and mixed.match.names[0] == "rewriter"
    assert mixed.replicas is not None
    assert f"so are {mixed.replicas.bad} of {mixed.replicas.total} answers" in words_of(mixed).explanation
    assert diagnose(replace(in_two_requests("adapter:rewriter", "healthy"), answered_by=""), T).cause is (
        Cause.ONE_REPLICA
    )


def test_a_template_that_changed_is_diagnosed_with_how_many_prompts_it_changes() -> None:
    healthy, bad = make_round("router"), make_round("router", "junk")
    diagnosis = diagnose(replace(bad, raw=healthy.measurements[1:]), T)
    assert diagnosis.cause is Cause.TEMPLATE_CHANGED
    assert (diagnosis.changed_prompts, diagnosis.canaries) == (len(bad.measurements) - 1, len(bad.measurements))


@pytest.mark.parametrize("identity", [Identity("a", "b"), Identity("a", "a"), Identity()], ids=["other", "same", "?"])
@pytest.mark.parametrize("moved", [0.0, 0.0068, 0.02, 0.03, 0.045, 0.07, 0.1])
def test_a_strength_is_named_where_it_is_off_by_more_than_the_base_can_be_to_blame_for(
    moved: float, identity: Identity
) -> None:
    """Over a grid of strengths, on bases with a shift B of 0 to .009. moved: as in BASES of synthetic.py.

    What decides is the strength as it is measured there: the base takes a little of it, or adds to it, by itself.
    """
    strengths = (0.5, 0.65, 0.75, 0.8, 0.85, 0.9, 0.95, 1, 1.1, 1.15, 1.25, 1.5, 2)
    for adapter, strength in product(ADAPTERS, strengths):
        seen = replace(make_round(adapter, f"moved:{moved}+scale:{strength}"), identity=identity)
        canaries = diagnosed_canaries(seen)
        shift, scale = (float(np.mean([getattr(m, name) for m in canaries])) for name in ("base_shift", "scale"))
        diagnosis, beyond = diagnose(seen, T), abs(scale - 1) - 0.05 - 1.5 * shift**0.5
        if abs(beyond) > 0.005:
            assert (diagnosis.cause is Cause.WRONG_STRENGTH) == (beyond > 0), (adapter, strength, shift)
        if shift < 0.002 and (strength <= 0.85 or strength >= 1.25):
            assert diagnosis.match is not None and diagnosis.match.value == pytest.approx(strength, rel=0.03)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("release", ["requantised", "partly_reparameterised", "swapped", "tuned"])
def test_what_a_base_takes_away_is_no_strength(release: str, adapter: str) -> None:
    """Half of the adapter is lost, unevenly and with much left over; all canaries together have a mean strength."""
    assert diagnose(make_round(adapter, release), T).cause in (Cause.BASE_SWAPPED, Cause.BASE_SWAPPED_AND_ADAPTER_LOST)


def test_named_on_held_out_canaries_and_on_all_where_there_are_none() -> None:
    seen = make_round("router", "scale:0.5")
    assert {m.comparison.reference.split for m in diagnosed_canaries(seen)} == {CanarySplit.HELD_OUT}
    bare = make_round("router", "scale:0.5", held_out=0)
    assert diagnosed_canaries(bare) == bare.measurements
    assert diagnose(bare, T).cause is Cause.WRONG_STRENGTH


def test_a_round_without_numbers_has_an_unknown_cause() -> None:
    assert diagnose(Round("router", "smol", 0, 0.0, ()), T).cause is Cause.UNKNOWN
    assert diagnose(make_round("router", "nan"), T).cause is Cause.UNKNOWN


@pytest.mark.parametrize("apart", [0.1, 0.0])
def test_of_two_adapters_recorded_alike_both_are_named(apart: float) -> None:
    """The cause is sure and the adapter is not: neighbours inside a cause do not keep each other from being named."""
    seen = make_round("router", "adapter:rewriter")

    def doubled(m: Measurement) -> Measurement:
        known = m.comparison.reference
        near = known.others["rewriter"] + (apart * np.sin(known.kept)).astype(np.float32)
        return replace(
            m, comparison=replace(m.comparison, reference=replace(known, others={"copy": near, "other copy": near}))
        )

    unclear = replace(seen, measurements=tuple(doubled(m) for m in seen.measurements))
    tried = signature_fits(diagnosed_canaries(unclear), T.scale)
    assert tried[0].name == "copy" and tried[0].share <= 0.05 and tried[0].raw == tried[1].raw
    diagnosis = diagnose(unclear, T)
    assert diagnosis.cause is Cause.WRONG_ADAPTER and diagnosis.match is not None
    assert diagnosis.match.names == ("copy", "other copy")


def test_the_cause_of_a_base_is_what_most_of_its_broken_members_show() -> None:
    faults = {"router": "reparameterised", "rewriter": "reparameterised", "extractor": "healthy"}
    diagnosis = diagnose_base(make_base_round(faults), T)
    assert diagnosis.cause is Cause.BASE_SWAPPED_AND_ADAPTER_LOST
    assert (diagnosis.base, diagnosis.affected, diagnosis.measured) == ("smol", ("router", "rewriter"), 3)
    assert diagnosis.typical == diagnose(make_round("router", "reparameterised"), T)

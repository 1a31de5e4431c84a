from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import examples.helpdesk
from detectors.records import CanarySplit, Fault, FaultKind, Mode, Recorded
from probes.artefacts.identity import adapter_hash
from probes.errors import DamagedGolden, Refused
from probes.golden.codec import content_hash, from_bytes, text_of, to_bytes
from probes.golden.record import Golden, GoldenCanary
from probes.golden.signature_codec import STEP, WIDEST
from tests.probes.goldens import assert_same, golden

SHIPPED = sorted((Path(examples.helpdesk.__path__[0]) / "golden").glob("*.golden"))
Q_PROJ, FOUR_BITS = Fault(FaultKind.WITHOUT, "q_proj"), Fault(FaultKind.QUANTISED, "4")


def test_bytes_round_trip_is_exact_and_the_same_bytes_again() -> None:
    made = golden()
    data = to_bytes(made)
    read = from_bytes(data)
    assert_same(made, read)
    assert to_bytes(read) == data == to_bytes(golden())
    assert read.hash == content_hash(data)
    assert {canary.reference.golden for canary in read.canaries} == {read.hash}
    assert len(read.pool) + len(read.held_out) == len(read.canaries)


def test_the_floor_of_the_mass_outside_lies_beside_the_others_and_is_written_where_it_is_not_0() -> None:
    """So an earlier program reads the record, and a record made before keeps its bytes."""
    made = golden()
    assert made.canaries and {c.reference.noise.mass_outside for c in made.canaries} == {0.0}
    assert "mass_outside" not in str(text_of(to_bytes(made)))
    first = made.canaries[0]
    noise = replace(first.reference.noise, mass_outside=0.02)
    floored = replace(
        made,
        canaries=(replace(first, reference=replace(first.reference, noise=noise)), *made.canaries[1:]),
        noise={"one row": noise, "four rows": replace(noise, mass_outside=0.0)},
    )
    read = from_bytes(to_bytes(floored))
    assert_same(floored, read)
    assert read.canaries[0].reference.noise == noise and read.noise == floored.noise
    rows = text_of(to_bytes(floored))
    assert {*rows["canaries"][0]["noise"]} == {*rows["noise"]["one row"]} == {"scale", "distortion", "base_shift"}


def test_the_grid_of_the_base_is_written_where_it_was_read() -> None:
    """So a record made before keeps its bytes."""
    made = golden()
    assert "base_grid" not in text_of(to_bytes(made)) and from_bytes(to_bytes(made)).base_grid == ""
    on_grid = replace(made, base_grid="4 bits in groups of 32: 168 of 168 linear matrices")
    assert_same(on_grid, from_bytes(to_bytes(on_grid)))


def test_what_a_skill_is_a_skill_of_is_written_where_it_is_of_a_composition() -> None:
    """So a record made before keeps its bytes."""
    made = golden()
    assert "composition" not in text_of(to_bytes(made)) and from_bytes(to_bytes(made)).weights == {}
    members = [{"adapter": "tone", "weight": 0.7, "hash": "sha256:a"}, {"adapter": "form", "weight": 1, "hash": "b"}]
    skill = replace(made, composition={"method": "cat", "members": members})
    read = from_bytes(to_bytes(skill))
    assert_same(skill, read)
    assert read.weights == {"tone": 0.7, "form": 1.0}


def test_sides_that_are_not_on_the_curve_are_refused() -> None:
    made = golden()
    first = made.canaries[0]
    summary = first.reference.golden_adapter
    moved = replace(first.reference, golden_adapter=replace(summary, log_probs=summary.log_probs + np.float32(0.5)))
    with pytest.raises(Refused, match="golden_adapter"):
        to_bytes(replace(made, canaries=(replace(first, reference=moved), *made.canaries[1:])))


@pytest.mark.parametrize("data", [b"", b"\x10" + b"\x00" * 7 + b"{}", b"not a golden record at all"])
def test_bytes_that_are_no_record_are_damage(data: bytes) -> None:
    with pytest.raises(DamagedGolden):
        from_bytes(data)


def signed(made: Golden, away: float = 1.0) -> Golden:
    """The record with two signatures on each held-out canary, one of which moves the base."""
    generator = np.random.default_rng(5)

    def one(canary: GoldenCanary) -> GoldenCanary:
        reference, used = canary.reference, canary.reference.kept >= 0

        def moved(log_probs: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            shift = away * generator.standard_normal(used.shape).astype(np.float32)
            return np.where(used, log_probs + shift, -np.inf).astype(np.float32)

        served, base = moved(reference.golden_adapter.log_probs), moved(reference.golden_base.log_probs)
        faults = {Q_PROJ: Recorded(served), FOUR_BITS: Recorded(moved(served), base)}
        return replace(canary, reference=replace(reference, faults=faults))

    return replace(made, canaries=tuple(one(c) if c.split is CanarySplit.HELD_OUT else c for c in made.canaries))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name[:8])
def test_a_shipped_record_is_written_again_as_the_same_bytes(path: Path) -> None:
    data = path.read_bytes()
    read = from_bytes(data)
    assert content_hash(to_bytes(read)) == f"sha256:{path.stem}"


def test_what_a_record_does_not_have_is_not_written() -> None:
    data = to_bytes(golden())
    text = text_of(data)
    assert not {"faults", "unrecorded"} & set(text)
    assert not {"messages", "expect", "unscored", "cut"} & set(text["canaries"][0])
    read = from_bytes(data)
    assert read.faults == () and read.unrecorded == ()
    assert all(canary.reference.faults == {} for canary in read.canaries)


def test_signatures_come_back_within_half_a_step_and_are_written_again_as_the_same_bytes() -> None:
    made = signed(golden())
    data = to_bytes(made)
    read = from_bytes(data)
    assert to_bytes(read) == data
    assert read.faults == (FOUR_BITS, Q_PROJ)
    for ours, theirs in zip(made.canaries, read.canaries, strict=True):
        assert ours.reference.faults.keys() == theirs.reference.faults.keys()
        used = ours.reference.kept >= 0
        for fault, recorded in ours.reference.faults.items():
            back = theirs.reference.faults[fault]
            assert np.abs(back.served[used] - recorded.served[used]).max() <= STEP / 2 + 1e-5
            assert np.isneginf(back.served[~used]).all()
            assert (back.live_base is None) == (recorded.live_base is None)
            if recorded.live_base is not None and back.live_base is not None:
                assert np.abs(back.live_base[used] - recorded.live_base[used]).max() <= STEP / 2 + 1e-5
    # The part that evidence rests on is not rounded.
    bare = (replace(canary, reference=replace(canary.reference, faults={})) for canary in read.canaries)
    assert_same(golden(), replace(read, canaries=tuple(bare)))


def test_a_signature_beyond_the_range_of_the_format_is_clipped() -> None:
    made = signed(golden(), away=100.0)
    read = from_bytes(to_bytes(made))
    canary, golden_side = read.held_out[0], read.held_out[0].reference.golden_adapter.log_probs
    used = canary.reference.kept >= 0
    away = np.abs(canary.reference.faults[Q_PROJ].served[used] - golden_side[used])
    assert away.max() == pytest.approx(WIDEST, abs=2 * STEP)
    assert to_bytes(read) == to_bytes(made)


def test_signatures_that_are_not_on_all_held_out_canaries_alone_are_refused() -> None:
    made = signed(golden())
    bare = replace(made.held_out[0], reference=replace(made.held_out[0].reference, faults={}))
    some = tuple(bare if canary is made.held_out[0] else canary for canary in made.canaries)
    with pytest.raises(Refused, match="different ones"):
        to_bytes(replace(made, canaries=some))
    stray = replace(made.pool[0].reference, faults=made.held_out[0].reference.faults)
    with pytest.raises(Refused, match=made.pool[0].id):
        more = tuple(replace(c, reference=stray) if c is made.pool[0] else c for c in made.canaries)
        to_bytes(replace(made, canaries=more))


def test_messages_checks_and_what_was_not_recorded_come_back() -> None:
    made = golden()
    told = replace(
        made.canaries[0], messages=({"role": "user", "content": "Größe?"},), expect={"check": {"equals": "L"}}
    )
    read = from_bytes(to_bytes(replace(made, canaries=(told, *made.canaries[1:]), unrecorded=("stacked b: no",))))
    assert read.canaries[0].messages == told.messages and read.canaries[0].expect == told.expect
    assert read.canaries[1].messages == () and read.canaries[1].expect == {}
    assert read.unrecorded == ("stacked b: no",)


def test_a_record_read_through_a_listing_stays_one_and_others_name_none() -> None:
    made = golden()
    (first, *rest) = made.canaries
    read = from_bytes(
        to_bytes(replace(made, canaries=(replace(first, reference=replace(first.reference, listed=5)), *rest)))
    )
    assert [canary.reference.listed for canary in read.canaries] == [5, *(0 for _ in rest)]
    assert b'"listed"' not in to_bytes(made)


def test_the_floors_of_modes_come_back_and_a_record_without_them_keeps_its_bytes() -> None:
    made = golden()
    (first, *rest) = made.canaries
    floors = {Mode.WARM: 0.002, Mode.WRITTEN: 0.001}
    known = replace(first, reference=replace(first.reference, mode_floors=floors))
    read = from_bytes(to_bytes(replace(made, canaries=(known, *rest))))
    assert [canary.reference.mode_floors for canary in read.canaries] == [floors, *({} for _ in rest)]
    assert b'"mode_floors"' not in to_bytes(made)


def test_what_of_a_continuation_is_not_scored_and_that_it_was_cut_come_back() -> None:
    made = golden()
    partly = replace(made.canaries[0], unscored=(7, 8, 9), cut=True)
    read = from_bytes(to_bytes(replace(made, canaries=(partly, *made.canaries[1:]))))
    assert read.canaries[0].continuation == (*made.canaries[0].forced, 7, 8, 9) and read.canaries[0].cut
    assert read.canaries[1].continuation == made.canaries[1].forced and not read.canaries[1].cut


def test_a_record_says_its_hash_scheme_where_it_is_not_the_first() -> None:
    first, second = to_bytes(golden()), replace(golden(), hash_scheme=2, template_hash="sha256:t")
    assert not {"hash_scheme", "tokenizer_files_hash", "template_hash"} & set(text_of(first))
    assert from_bytes(first).hash_scheme == 1
    read = from_bytes(to_bytes(second))
    assert (read.hash_scheme, read.template_hash, read.tokenizer_files_hash) == (2, "sha256:t", "")
    assert to_bytes(read) == to_bytes(second)
    with pytest.raises(Refused, match=r"hash scheme 9, wanted one of 1, 2: it was made by a newer gapwatch"):
        from_bytes(to_bytes(replace(golden(), hash_scheme=9)))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name[:8])
def test_the_shipped_adapters_are_those_of_the_shipped_records_by_the_records_own_scheme(path: Path) -> None:
    read = from_bytes(path.read_bytes())
    assert read.hash_scheme == 1
    files = Path(examples.helpdesk.__path__[0]) / "adapters" / read.adapter
    assert adapter_hash(files, read.hash_scheme) == read.adapter_hash != adapter_hash(files)


def test_a_record_made_on_an_engine_names_it_and_one_made_in_process_has_the_bytes_it_always_had() -> None:
    plain = golden()
    served = replace(plain, made_on="vllm 0.33, prompt", offline="sha256:" + "a" * 64)
    assert b"made_on" not in to_bytes(plain) and b"offline" not in to_bytes(plain)
    again = from_bytes(to_bytes(served))
    assert (again.made_on, again.offline) == (served.made_on, served.offline)
    assert (from_bytes(to_bytes(plain)).made_on, from_bytes(to_bytes(plain)).offline) == ("", "")

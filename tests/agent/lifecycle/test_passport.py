"""Is what a passport says kept, filled in from files, and never overwritten?"""

from __future__ import annotations

from datetime import date

from agent.lifecycle.passport import Measured, Passport, PinnedBase, TrainingData, filled, leaves, missing, shown


def test_empty_fields_are_filled_and_what_a_person_wrote_stays() -> None:
    own = Passport(adapter="router", owner="Ada", base=PinnedBase(name="smollm2", revision="abc"))
    known = Passport(
        adapter="router", owner="ada-ci", licence="mit", base=PinnedBase(name="smollm2", hash="sha256:1"),
        data=TrainingData(datasets=("tickets",)),
    )  # fmt: skip
    merged, contradictions = filled(own, known)
    assert (merged.owner, merged.licence, merged.base.revision, merged.base.hash) == ("Ada", "mit", "abc", "sha256:1")
    assert merged.data.datasets == ("tickets",)
    assert contradictions == ("owner: the passport says Ada, the files say ada-ci",)
    assert filled(merged, known)[0] == merged


def test_what_matters_and_is_empty_is_named() -> None:
    assert "owner" in missing(Passport(adapter="router")) and "training.code" in missing(Passport(adapter="router"))
    assert "owner" not in missing(Passport(adapter="router", owner="Ada"))


def test_an_event_of_one_day_is_written_once() -> None:
    day = date(2026, 11, 28)
    passport = Passport(adapter="router").with_event(day, "rebuilt").with_event(day, "rebuilt")
    assert [event.what for event in passport.history] == ["rebuilt"]


def test_every_field_has_a_place_and_measurements_are_apart() -> None:
    passport = Passport(adapter="router", measured=(Measured(at=date(2026, 1, 1), retention=0.9),))
    places = dict(leaves(passport))
    assert {"owner", "base.end_of_life", "data.datasets", "training.seed"} <= set(places)
    assert "measured" not in places and shown(places["owner"]) == "-" and shown(("a", "b")) == "a, b"

from __future__ import annotations

from dataclasses import replace

from probes.canaries.canary_file import Canary, CanarySet
from probes.golden.stale_canaries import stale_canaries
from tests.probes.goldens import golden

MADE = golden()
TURNS = ({"role": "user", "content": "where is my parcel"},)
HELD = replace(MADE, canaries=tuple(replace(canary, messages=TURNS) for canary in MADE.canaries))
SAME = tuple(Canary(canary.id, TURNS) for canary in HELD.canaries)


def test_the_file_of_the_enrolment_is_not_stale_whatever_was_left_out() -> None:
    file = CanarySet((*SAME, Canary("weak", TURNS)))
    assert stale_canaries(replace(HELD, canary_set=file.content_hash), file) == ((), ())
    assert stale_canaries(replace(HELD, excluded={"weak": "its effect is too small"}), file) == ((), ())


def test_a_canary_that_was_added_and_one_with_another_text_are_named() -> None:
    first, *rest = SAME
    edited = Canary(first.id, ({"role": "user", "content": "where is my order"},))
    assert stale_canaries(HELD, CanarySet((edited, *rest, Canary("new", TURNS)))) == (("new",), (first.id,))


def test_without_the_text_in_an_early_record_only_ids_are_compared() -> None:
    first, *rest = SAME
    early = replace(MADE, canaries=tuple(replace(canary, messages=()) for canary in MADE.canaries))
    assert stale_canaries(early, CanarySet((Canary(first.id, ()), *rest))) == ((), ())

"""The table of sentences: whole, with fields that are offered, and in words that an engineer understands at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from string import Formatter
from typing import Any

import pytest

from detectors import on_call_text as text
from detectors.diagnosis import wording
from detectors.diagnosis.record import Diagnosis, MatchedFault, MovedBase, ResponseDiagnosis
from detectors.diagnosis.strength_arithmetic import slips
from detectors.on_call_text import Text
from detectors.records import Cause, FaultKind, Identity, Interval, Reason
from tests.detectors.diagnosis.examples import of_bases, of_canaries, of_responses

# No cause at all.
WITHOUT_TEXT = {Cause.NONE}
# No canary is a request that names the base.
BY_RESPONSES_ALONE = {Cause.BASE_ANSWERED_BY_ADAPTER}
IMPERATIVES = (
    *(
        "check",
        "compare",
        "find out",
        "give",
        "look in",
        "put",
        "restore",
        "roll",
        "run",
        "send",
        "set",
        "switch",
        "take",
    ),
    *("unload", "wait"),
)
# What to look at, or to type: a file, a setting, a route, a command.
PLACES = re.compile(
    r"gapwatch \w+|kubectl|\w+\.json|\w*alpha|use_rslora|prefix caching|--[\w-]+|adapters/|weight files"
)
PRIVATE = re.compile(
    r"\b(laws?|twins?|heaps?|anew|told|heard|coordinates|speaks? against|wrote|reads? as|bare|quiet|its direction|"
    r"matrices|left what|witness|salt|odd one)\b",
    re.IGNORECASE,
)


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(template) if name}


def texts() -> Iterator[tuple[str, Text]]:
    """Every text of a diagnosis, with a name for it."""
    for table in (text.BY_CANARIES, text.BY_RESPONSES):
        yield from ((f"{cause.value}, {variant}", each) for (cause, variant), each in table.items())
    yield from text.BESIDE_THE_CAUSE.items()
    yield from text.STRENGTH_ARITHMETIC.items()
    yield from (("a base", text.BASE_BY_CANARIES), ("estimated strength", text.ESTIMATED_STRENGTH))


def sentences() -> Iterator[str]:
    """Every sentence, template and fragment of the file."""
    for name, value in vars(text).items():
        for each in value.values() if isinstance(value, dict) and name.isupper() else (value,):
            if isinstance(each, Text):
                yield from filter(None, each)
            elif isinstance(each, str) and name.isupper():
                yield each


def name_of(diagnosis: Diagnosis | ResponseDiagnosis) -> str:
    variant = wording.canary_variant(diagnosis) if isinstance(diagnosis, Diagnosis) else diagnosis.alternative
    return f"{diagnosis.cause.value}, {variant}"


def test_every_cause_has_its_text_and_every_text_a_diagnosis_that_uses_it() -> None:
    used = {(one.cause, wording.canary_variant(one)) for one in of_canaries()}
    assert used == set(text.BY_CANARIES)
    assert {cause for cause, _ in used} == set(Cause) - WITHOUT_TEXT - BY_RESPONSES_ALONE
    assert {(one.cause, wording.response_variant(one)) for one in of_responses()} == set(text.BY_RESPONSES)
    beside = {
        name for one in of_canaries() for name in (*wording.beside_the_cause(one), *wording.beside_the_round(one))
    }
    assert beside == set(text.BESIDE_THE_CAUSE)


@pytest.mark.parametrize("diagnosis", of_canaries(), ids=name_of)
def test_a_text_uses_fields_that_its_diagnosis_offers(diagnosis: Diagnosis) -> None:
    names = (*wording.beside_the_cause(diagnosis), *wording.beside_the_round(diagnosis))
    templates = [text.BY_CANARIES[diagnosis.cause, wording.canary_variant(diagnosis)]]
    templates += [text.BESIDE_THE_CAUSE[name] for name in names]
    offered = wording.canary_values(diagnosis)
    used = {name for each in templates for template in each for name in fields(template)}
    assert used <= set(offered) and not [name for name in used if offered[name] is None or offered[name] == ""]


@pytest.mark.parametrize("diagnosis", of_responses(), ids=name_of)
def test_a_text_of_responses_uses_fields_that_its_diagnosis_offers(diagnosis: ResponseDiagnosis) -> None:
    each = text.BY_RESPONSES[diagnosis.cause, wording.response_variant(diagnosis)]
    assert fields(each.explanation) | fields(each.action) <= set(wording.response_values(diagnosis))
    if diagnosis.strength:
        assert fields(text.ESTIMATED_STRENGTH.explanation) <= set(wording.response_values(diagnosis))


def moved_base(**more: Any) -> MovedBase:
    kept = Interval(0.99, 0.98, 1.0, 3)
    plain: dict[str, Any] = {"identity": Identity("sha256:aa", "sha256:bb"), "fault": None}
    return MovedBase("smol", ("router", "tone"), **plain | more, shift=3e-5, strength=kept, weakest="tone",
        weakest_strength=0.98, kl=0.001, changed_answers=0.1, tolerance=0.05, allowed=(0.055, 0.06))  # fmt: skip


@pytest.mark.parametrize(
    "moved",
    [
        moved_base(),
        moved_base(identity=Identity("sha256:aa", "sha256:aa")),
        moved_base(identity=Identity()),
        moved_base(fault=MatchedFault(FaultKind.QUANTISED, ("4/32", "4"), math.nan, 0.03)),
        moved_base(fault=MatchedFault(None, ("adapter and base",), 1.02, 0.03)),
        moved_base(fault=MatchedFault(None, ("adapter and base",), 1.02, 0.03), identity=Identity()),
    ],
)
def test_a_base_that_moved_is_told_without_gaps(moved: MovedBase) -> None:
    offered = wording.moved_base_values(moved)
    for each in (text.MOVED_BASE, *text.MOVED_BASE_BECAUSE.values()):
        assert fields("".join(each)) <= set(offered)
    words = wording.moved_base_words(moved)
    assert not re.search(r"[{}]|\bnan\b|\bNone\b|  |; ;|\(\)", "; ".join(words))
    is_quantised = moved.fault is not None and moved.fault.kind is FaultKind.QUANTISED
    assert ("other weights" in words.explanation) == (moved.identity.base_moved and not is_quantised)
    assert ("like a 4-bit (groups of 32) or 4-bit quantised" in words.explanation) == is_quantised
    is_sampling = moved.fault is not None and not is_quantised and not moved.identity.base_moved
    assert ("as at temperature 1.020" in words.explanation) == is_sampling


@pytest.mark.parametrize("diagnosis", [one for one in of_canaries() if one.means], ids=name_of)
def test_a_tolerated_change_is_told_with_the_text_of_its_cause(diagnosis: Diagnosis) -> None:
    figures: dict[str, Any] = {"off_direction": 0.01, "noise": 1e-4, "tolerance": 0.05}
    words = wording.tolerated_change_words(diagnosis, scale=Interval(0.99, 0.988, 0.992, 24), **figures)
    assert (
        "strength is 0.990 of the accepted one (95 % 0.988..0.992), and benign change moves that by 0.0001"
        in words.explanation
    )
    assert not re.search(r"[{}]|\bnan\b|\bNone\b|  |; ;|\(\)", "; ".join(words))
    cause = wording.words_of(diagnosis)
    assert (cause.explanation in words.explanation) == (diagnosis.cause is not Cause.UNKNOWN)
    assert words.action.startswith("nothing is urgent; ")
    one = wording.tolerated_change_words(diagnosis, scale=Interval(0.99, math.nan, math.nan, 1), **figures)
    assert "accepted one, and benign" in one.explanation


def test_every_slip_of_arithmetic_has_its_text_with_fields_that_are_filled() -> None:
    named = {name for one in of_canaries() if one.match for name in slips(one.match.value, one.rank, one.alpha)}
    assert named == set(text.STRENGTH_ARITHMETIC)
    for each in text.STRENGTH_ARITHMETIC.values():
        assert fields(each.explanation) | fields(each.action) <= {"ratio", "rank", "alpha"}


def test_the_text_of_a_base_uses_every_field_that_its_diagnosis_offers() -> None:
    assert fields("".join(text.BASE_BY_CANARIES)) == set(wording.base_values(of_bases()[0]))


def test_every_field_that_is_offered_stands_in_some_text() -> None:
    by_canaries = {name for one in of_canaries() for name in wording.canary_values(one)}
    by_responses = {name for one in of_responses() for name in wording.response_values(one)}
    used = {name for _, each in texts() for template in each for name in fields(template)}
    assert by_canaries | by_responses <= used


@pytest.mark.parametrize("diagnosis", [*of_canaries(), *of_bases(), *of_responses()])
def test_a_sentence_has_no_gaps_in_it(diagnosis: Diagnosis | ResponseDiagnosis) -> None:
    words = wording.words_of(diagnosis)
    for sentence in (words.explanation, words.action):
        assert sentence and not re.search(r"[{}]|\bnan\b|\bNone\b|  |; ;|\(\)", sentence), sentence
        assert sentence[-1] not in ".;:," and "@" not in sentence.replace("router@0123456789ab", "")


@pytest.mark.parametrize(("name", "each"), [row for row in texts() if row[1].action], ids=lambda value: str(value)[:40])
def test_an_action_is_an_order_that_names_where_to_look(name: str, each: Text) -> None:
    if {"typical_action", "their_action", "arithmetic_action"} & fields(each.action):
        return  # The action of what it holds, which is an order of its own.
    assert each.action.startswith(IMPERATIVES), name
    assert PLACES.search(each.action), name


def test_every_reason_why_a_round_has_no_measurements_has_an_action_of_its_own() -> None:
    assert set(text.UNMEASURED) == {
        *(Reason.NO_GOLDEN, Reason.GOLDEN_REFUSED, Reason.NO_POWER, Reason.FILES_CHANGING, Reason.UNREADABLE),
        *(Reason.NO_MEMORY, Reason.BAD_NUMBERS, Reason.REPLAY_FAILED, Reason.NOT_REPLAYED_YET),
        *(Reason.ENGINE_AWAY, Reason.PAUSED, Reason.NOT_SERVED),
    }
    for reason, action in text.UNMEASURED.items():
        assert fields(action) <= {"adapter", "adapter_argument"}
        assert action.startswith(IMPERATIVES) and "gapwatch" in action, reason


@pytest.mark.parametrize("template", list(sentences()))
def test_no_sentence_has_words_that_only_this_project_understands(template: str) -> None:
    assert not PRIVATE.search(template), template

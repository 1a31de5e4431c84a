"""What changed under a subject that is well, told as what it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.canaries.tolerance import Tolerances, base_moved
from detectors.records import BaseRound, Evidence, Identity, Reason, Round, Status, SubjectKind
from detectors.verdicts.changes import change_of, change_of_base
from detectors.verdicts.decision import decide
from detectors.verdicts.incident import Incident, Rules
from tests.detectors.synthetic import make_round

T = Tolerances()
SAME = Identity("a", "a", "x", "x", "k", "k", "t", "t", scheme=2)
BASE, ADAPTER = replace(SAME, live_base="b"), replace(SAME, live_adapter="y")
ENGINE = replace(SAME, golden_engine="vllm 1, x", live_engine="vllm 2, x")
TOKENIZER, TEMPLATE = replace(SAME, live_tokenizer="l"), replace(SAME, live_template="u")


def rendered_otherwise(identity: Identity) -> Round:
    """The base answers otherwise to the prompts as they are now, and as accepted to the accepted ids."""
    now, before = make_round("router", "improved"), make_round("router")
    assert base_moved(now, T) and not base_moved(before, T)
    return replace(now, identity=identity, raw=before.measurements)


@pytest.mark.parametrize(
    ("identity", "change"),
    [
        (SAME, None),
        (ADAPTER, Reason.ADAPTER_MOVED),
        (TEMPLATE, Reason.TEMPLATE_CHANGED),
        (TOKENIZER, Reason.TOKENIZER_CHANGED),
        (BASE, Reason.BASE_MOVED),
        (ENGINE, Reason.ENGINE_MOVED),
        (replace(SAME, golden_source="v1 on smol", live_source="v2 on smol"), Reason.ENGINE_MOVED),
        (replace(SAME, live_engine="vllm 2", live_source="v2"), None),  # nothing was said when it was accepted
        (replace(ENGINE, live_adapter="y"), Reason.ADAPTER_MOVED),
        (replace(BASE, live_adapter="y", live_template="u"), Reason.BASE_MOVED),
        (replace(TEMPLATE, live_adapter="y"), Reason.TEMPLATE_CHANGED),
        # By scheme 1 the tokenizer's hash covers the template: where that moved, it is the template.
        (replace(TEMPLATE, live_tokenizer="l", scheme=1), Reason.TEMPLATE_CHANGED),
        (replace(TEMPLATE, live_tokenizer="l", scheme=2), Reason.TOKENIZER_CHANGED),
        (Identity(), None),
    ],
    ids=str,
)
def test_what_the_files_say(identity: Identity, change: Reason | None) -> None:
    assert change_of(replace(make_round("router"), identity=identity), T) is change


@pytest.mark.parametrize(
    ("identity", "change"),
    [
        (TEMPLATE, Reason.TEMPLATE_CHANGED),
        (Identity("a", "a"), Reason.TEMPLATE_CHANGED),
        (replace(SAME, scheme=1), Reason.TEMPLATE_CHANGED),
        (SAME, None),
        (BASE, Reason.BASE_MOVED),
    ],
    ids=[
        "another template",
        "a record that knows none",
        "nor does one of scheme 1",
        "it writes the date",
        "and a base",
    ],
)
def test_a_template_is_no_base_that_moved(identity: Identity, change: Reason | None) -> None:
    seen = rendered_otherwise(identity)
    assert change_of(seen, T) is change
    silent = Evidence(SubjectKind.ADAPTER, "router", "adapter_gap", "", 0, 0.0, 16, 0.0)
    verdict, _ = decide(seen, silent, Incident(), Rules(T, log_threshold=20.0))
    assert (verdict.status, verdict.reason) == (Status.HEALTHY, change or Reason.WITHIN_TOLERANCE)


def test_a_base_that_answers_otherwise_under_the_same_hash_has_moved() -> None:
    assert change_of(replace(make_round("router", "improved"), identity=SAME), T) is Reason.BASE_MOVED


@pytest.mark.parametrize(
    ("identities", "change"),
    [
        ((TEMPLATE, TEMPLATE, SAME), Reason.TEMPLATE_CHANGED),
        ((TEMPLATE, SAME), None),
        ((BASE, BASE, TEMPLATE), Reason.BASE_MOVED),
        ((ADAPTER, ADAPTER), None),
    ],
    ids=["most of them", "half of them", "base before template", "files of adapters are not the base's"],
)
def test_of_a_base_it_is_what_most_of_its_adapters_say(identities: tuple[Identity, ...], change: Reason | None) -> None:
    members = [replace(make_round("router"), identity=identity) for identity in identities]
    blocked = replace(make_round("router", "blocked"), identity=BASE)
    assert change_of_base(BaseRound("smol", 0, 0.0, (*members, blocked)), T) is change

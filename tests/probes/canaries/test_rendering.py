"""Token ids of a canary on a base, and the messages for canaries that cannot be rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

import pytest

from probes.canaries.canary_file import Canary, CanarySet
from probes.canaries.rendering import in_words, prompt_of, readable
from probes.enrolment.enrol import Request, enrol
from probes.errors import Refused, Unreplayable
from probes.runner import Weights
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, SETTINGS, CountingRunner, canary_set, never, silent

SYSTEM = {"role": "system", "content": "Route."}
USER = {"role": "user", "content": "My box is wet."}


class Particular(CountingRunner):
    """Its template takes no system turn, and writes nothing for a user who says nothing; it reads 120 tokens."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        if messages[0]["role"] == "system":
            raise RuntimeError("System role not supported\nat line 1")
        return super().encode_chat(messages, weights, day) if messages[-1]["content"] != "-" else ()

    def context(self) -> int:
        return 120


@pytest.fixture
def runner() -> Particular:
    made = Particular(Config(adapters=dict(ADAPTERS)))
    made.open()
    return made


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        ((SYSTEM, USER), "the chat template cannot render it (System role not supported)"),
        (({"role": "user", "content": "-"},), "the chat template renders it to nothing"),
        (
            ({"role": "user", "content": "x" * 120},),
            "its prompt and an answer of up to 40 tokens exceed the base's context of 120 tokens",
        ),
    ],
)
def test_a_canary_that_cannot_be_read_is_named_with_the_reason(
    runner: Runner, turns: tuple[dict[str, str], ...], why: str
) -> None:
    with pytest.raises(Unreplayable) as refused:
        prompt_of(runner, "c1", turns, 40)
    assert str(refused.value) == f"canary c1: {why}"


def test_one_that_just_fits_is_read(runner: Runner) -> None:
    prompt = prompt_of(runner, "c1", (USER,), 1)
    assert prompt_of(runner, "c1", (USER,), 120 - len(prompt)) == prompt
    with pytest.raises(Unreplayable):
        prompt_of(runner, "c1", (USER,), 121 - len(prompt))


def test_every_canary_at_fault_is_named_with_its_line(runner: Runner) -> None:
    good = Canary("good", (USER,), where="/x/c.jsonl, line 1")
    bad = [Canary(f"s{i}", (SYSTEM, USER), where=f"/x/c.jsonl, line {i}") for i in (2, 4)]
    empty = Canary("e3", ({"role": "user", "content": "-"},), where="/x/c.jsonl, line 3")
    with pytest.raises(Refused) as refused:
        readable(runner, [good, bad[0], empty, bad[1]], 40)
    assert refused.value.what == "canary file /x/c.jsonl"
    assert refused.value.actual == (
        "3 of 4 that cannot be rendered: the chat template cannot render it (System role not supported): "
        "s2 (line 2), s4 (line 4); the chat template renders it to nothing: e3 (line 3)"
    )


def test_exported_prompts_that_cannot_be_rendered_are_left_out(runner: Runner) -> None:
    own, foreign = Canary("own", (USER,), where="/x/c.jsonl, line 1"), Canary("traffic-1", (SYSTEM, USER))
    kept, excluded = readable(runner, [own, foreign], 40)
    assert kept == [own]
    assert excluded == {"traffic-1": "the chat template cannot render it (System role not supported)"}


def test_enrolment_refuses_before_anything_is_replayed(runner: Particular) -> None:
    canaries = canary_set(60).canaries
    first = replace(canaries[0], messages=(SYSTEM, USER), where="/x/c.jsonl, line 1")
    told = CanarySet((first, *canaries[1:]))
    with pytest.raises(
        Refused, match=r"1 of 60 that cannot be rendered: .*System role not supported\): c000 \(line 1\)"
    ):
        enrol(Request(runner, "alpha", told, SETTINGS, list(ADAPTERS), silent, never))
    assert runner.tokens_scored == 0


def test_a_reason_that_all_share_stands_alone_and_many_names_are_counted() -> None:
    assert in_words({"a": "no template", "b": "no template"}, 2) == "no template"
    many = in_words({f"c{i}": "too long" for i in range(30)}, 40)
    assert many.startswith("too long: c0, c1") and many.endswith("c19 and 10 more")

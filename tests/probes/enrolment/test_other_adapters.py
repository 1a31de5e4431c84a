"""Other adapters that are recorded: the most alike, at most four, and always an earlier version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from probes.enrolment.enrol import Request, enrol
from probes.enrolment.other_adapters import MOST, left_out, most_alike
from probes.runners.memory import Config, Runner
from tests.probes.worlds import SETTINGS, CountingRunner, canary_set, never, silent

COSINES = {"b": 0.001, "c": 0.6, "d": -0.004, "e": 0.3, "f": 0.002, "g": -0.9, "h": 0.31}
EARLIER = "a@0123456789ab"


class Alike(Runner):
    """Knows how alike its adapters are, and their rank and alpha: "f" has those of "a"."""

    def likeness(self, adapter: str, other: str) -> float:
        assert adapter == "a"
        return COSINES[other]

    def rank_and_alpha(self, adapter: str) -> tuple[int, float]:
        return (8, 16.0) if adapter in ("a", "f") else (4, 8.0)


def test_the_most_alike_are_recorded_in_the_order_given() -> None:
    others = [*COSINES, EARLIER]
    recorded = most_alike(Alike(Config()), "a", others)
    # Cosines of about 0 are equal: the one with the same rank and alpha comes first among them.
    assert recorded == ("c", "e", "f", "h", EARLIER) and len(recorded) == MOST + 1
    (words,) = left_out(others, recorded)
    assert words.startswith("a mix-up with b, d, g: ")


def test_equally_alike_ones_come_in_the_order_of_the_configuration() -> None:
    assert most_alike(Alike(Config()), "a", ["d", "b"], most=1) == ("d",)
    assert most_alike(Alike(Config()), "a", ["b", "d"], most=1) == ("b",)


def test_few_others_are_all_recorded() -> None:
    assert most_alike(Alike(Config()), "a", ["g", "d"]) == ("g", "d")
    assert left_out(["g", "d"], ("g", "d")) == ()


def test_a_runner_that_cannot_compare_gives_the_first_ones() -> None:
    assert most_alike(Runner(Config()), "a", [*COSINES, EARLIER]) == ("b", "c", "d", "e", EARLIER)


def test_the_work_of_an_adapter_does_not_grow_with_the_number_of_adapters() -> None:
    def tokens(count: int) -> int:
        names = [f"n{number}" for number in range(count)]
        runner = CountingRunner(Config(adapters={name: f"{name}-v1" for name in names}))
        runner.open()
        small: dict[str, Any] = {"per_half": 3, "min_pool": 3}
        golden = enrol(Request(runner, "n0", canary_set(8), replace(SETTINGS, **small), names, silent, never))
        assert len(golden.canaries[0].reference.others) == MOST
        named = golden.unrecorded == () if count == MOST + 1 else f"n{count - 1}" in golden.unrecorded[0]
        assert named
        return runner.tokens_processed

    assert tokens(MOST + 1) == tokens(24)

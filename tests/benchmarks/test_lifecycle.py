"""Are figures of a rebuild counted from their cases, and does no successor read what its adapter was trained on?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.lifecycle_parts.rebuild import figures
from benchmarks.lifecycle_parts.rebuilt import ACCEPTED, ORIGINAL_DATA, PERMUTED, REBUILT, TUNED, Row, cases
from examples.helpdesk.data import ADAPTERS, HERE, examples
from probes.canaries.canary_file import read_canaries

ACCEPTED_ROW = Row("a", "", ACCEPTED, right=90, exercises=100)
SUCCESSOR = Row("a", TUNED, REBUILT, right=87, exercises=100, retention=0.95, low=0.9, effect=0.94, effect_low=0.89)


def test_a_successor_is_held_to_its_interval_and_to_the_task_of_the_accepted_adapter() -> None:
    def missed(row: Row) -> set[str]:
        return {own.name.rpartition(": ")[2] for own in figures([ACCEPTED_ROW, row]) if own.met is False}

    assert missed(SUCCESSOR) == set()
    assert missed(replace(SUCCESSOR, right=86)) == {"right answers to 100 exercises"}
    assert missed(replace(SUCCESSOR, low=0.899)) == {"retention, lower end of 95 %"}
    permuted = replace(SUCCESSOR, release=PERMUTED, effect_low=0.995)
    assert missed(permuted) == set()
    assert missed(replace(permuted, effect_low=0.98, flips=1)) == {
        "retention of the re-expressed adapter, lower end of 95 %",
        "flips of held-out canaries",
    }


def test_training_on_the_original_data_stands_beside_it_and_has_no_target() -> None:
    alone = figures([ACCEPTED_ROW, SUCCESSOR])
    both = figures([ACCEPTED_ROW, SUCCESSOR, replace(SUCCESSOR, how=ORIGINAL_DATA, right=99)])
    more = [own for own in both if own not in alone]
    assert {own.value for own in more} == {0.9, 99, 0.0} and all(own.target is None for own in more)


def test_each_adapter_is_on_each_release_and_what_needs_no_training_comes_first() -> None:
    every = cases()
    assert len(set(every)) == len(every) == len(ADAPTERS) * (2 + 4)
    assert [case.release in (PERMUTED, "") for case in every] == sorted(
        (case.release in (PERMUTED, "") for case in every), reverse=True
    )


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_no_prompt_that_a_rebuild_reads_is_of_the_training_data(name: str) -> None:
    canaries = read_canaries(HERE / "canaries" / f"{name}.jsonl").canaries
    learnt = {own.messages[-1]["content"] for own in examples(name, "train")}
    assert canaries and not learnt & {own.messages[-1]["content"] for own in canaries}

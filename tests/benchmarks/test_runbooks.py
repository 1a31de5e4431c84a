"""What a runbook says of how its cause looked is what the command that it names gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.shipped import REPRODUCED, RUNBOOKS, runbook, texts
from benchmarks import runbooks
from benchmarks.incidents.reproduced import REPRODUCTIONS
from benchmarks.incidents.screens import page_of
from detectors.records import Cause, Status

FIGURES = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?(:\d\d)?")


def test_every_cause_is_reproduced() -> None:
    causes = {cause.value for cause in Cause if cause is not Cause.NONE} | {Status.UNMONITORABLE.value}
    names = [own.name for own in REPRODUCTIONS]
    assert set(names) == causes == set(texts(RUNBOOKS, ".md")) and len(names) == len(set(names))


@pytest.mark.parametrize("name", texts(RUNBOOKS, ".md"))
def test_every_runbook_says_how_it_looked(name: str) -> None:
    _, _, shown = runbook(name).partition(REPRODUCED)
    assert f"`python -m benchmarks.runbooks {name}`" in shown and shown.count("```") == 4
    assert "nats at most; a page takes" in shown or name == "unmonitorable"


def test_the_page_in_a_runbook_is_the_one_that_comes_but_for_its_figures(tmp_path: Path) -> None:
    (own,) = [own for own in REPRODUCTIONS if own.name == "adapter_not_applied"]
    page = own.run(tmp_path, None)[-1]
    shown = runbook(own.name).partition(REPRODUCED)[2].split("```")[1].strip()
    lines = page_of(page).split("\n")[: runbooks.DETAILS]
    assert FIGURES.sub("#", "\n".join(lines)) == FIGURES.sub("#", shown)


def test_a_block_takes_the_place_of_the_one_before_and_leaves_the_rest() -> None:
    once = runbooks.with_block("# a\n\ntext\n", f"{runbooks.BEGIN}\nfirst\n{runbooks.END}")
    twice = runbooks.with_block(once, f"{runbooks.BEGIN}\nsecond\n{runbooks.END}")
    assert once == f"# a\n\ntext\n\n{runbooks.BEGIN}\nfirst\n{runbooks.END}\n"
    assert twice == once.replace("first", "second")

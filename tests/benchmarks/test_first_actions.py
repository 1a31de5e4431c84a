"""A runbook says what its pages say, word for word: somebody who has read the one recognises the other."""

from __future__ import annotations

import pytest

from agent.shipped import RUNBOOKS, runbook, texts
from benchmarks.incidents.first_actions import section, with_section
from detectors.on_call_text import BY_CANARIES, BY_RESPONSES
from detectors.records import Cause


@pytest.mark.parametrize("name", texts(RUNBOOKS, ".md"))
def test_what_to_do_first_is_what_pages_say_now(name: str) -> None:
    assert with_section(name, runbook(name)) == runbook(name), "python -m benchmarks.runbooks --first-actions"


def test_every_action_of_a_cause_is_in_its_runbook() -> None:
    texts_of_pages = [*BY_CANARIES.items(), *BY_RESPONSES.items()]
    begins = {
        each.action.split("{")[0].split("gapwatch")[0]
        for (cause, _), each in texts_of_pages
        if cause is Cause.PARTLY_APPLIED
    }
    assert len(begins) == 3 and all(begin in section("partly_applied") for begin in begins)


def test_what_is_beside_it_stays_as_it_was_written() -> None:
    written = "**Check.** look.\n\n**First action.** old\n\nstill old\n\n**Then.** by hand\n"
    new = with_section("sampling_changed", written)
    assert new == f"**Check.** look.\n\n{section('sampling_changed')}\n\n**Then.** by hand\n"
    assert "\n- " not in section("sampling_changed"), "one sentence for all of its pages"

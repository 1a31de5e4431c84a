"""Files beside an engine: when they are replayed, of which adapters, and at what cost."""

from __future__ import annotations

from functools import partial

from detectors.records import THE_FILES
from probes.canaries.round import Scheduled
from probes.canaries.watched_files import WatchedFiles
from probes.runners.memory import Config, Runner
from tests.probes.worlds import ADAPTERS, enrolled, never

AT = 1_700_000_000.0
when = partial(Scheduled, "toy", at=AT, budget=512, seed=7)


def watched(*at_hand: str) -> WatchedFiles:
    return WatchedFiles(Runner(Config(adapters=dict(ADAPTERS))), at_hand, every_s=60.0)


def test_a_round_is_due_at_once_and_then_by_its_own_interval_whatever_came_of_the_last() -> None:
    files = watched("alpha")
    assert files.is_due(AT)
    files.open(AT)
    assert not files.is_due(AT + 59.0) and files.is_due(AT + 60.0)
    files.release()
    assert files.is_due(AT + 1.0) and not files.opened


def test_only_adapters_whose_folders_are_at_hand_are_replayed_and_rounds_are_numbered() -> None:
    files = watched("alpha")
    files.open(AT)
    goldens = {name: enrolled(name) for name in list(ADAPTERS)[:2]}
    for number in range(2):
        done = files.replay(goldens, when, never)
        assert done is not None
        (member,) = done.round.members
        assert (member.adapter, member.number, member.answered_by) == ("alpha", number, THE_FILES)
        assert member.blocked is None and member.measurements


def test_a_round_that_is_stopped_is_none() -> None:
    files = watched("alpha")
    files.open(AT)
    assert files.replay({"alpha": enrolled("alpha")}, when, lambda: True) is None


def test_each_record_is_given_to_the_runner_once_and_again_after_a_release() -> None:
    files, golden = watched("alpha"), enrolled("alpha")
    assert files.newly_in_force({"alpha": golden}) == [golden]
    assert files.newly_in_force({"alpha": golden}) == []
    files.release()
    assert files.newly_in_force({"alpha": golden}) == [golden]

"""One watched artefact: what a look leads to, with real files and a load that can be interfered with."""

from __future__ import annotations

from pathlib import Path

import pytest

from detectors.records import Reason
from probes.errors import NoMemory, Unreplayable, Unsupported
from probes.residency.failed_loads import LOOKS_TO_WAIT
from probes.residency.watched_artefact import WatchedArtefact
from probes.runner import Readiness


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_text("first")
    return tmp_path


def test_opening_trusts_one_look_and_later_looks_want_two(folder: Path) -> None:
    subject = WatchedArtefact(str(folder))
    loaded: list[Path] = []
    subject.look(loaded.append, opening=True)
    assert loaded == [folder] and subject.readiness == Readiness()
    (folder / "adapter_model.safetensors").write_text("second version")
    subject.look(loaded.append)
    assert len(loaded) == 1 and subject.readiness.blocked is Reason.FILES_CHANGING
    subject.look(loaded.append)
    assert len(loaded) == 2 and subject.readiness == Readiness()


def test_what_changes_while_it_is_read_does_not_count_as_loaded(folder: Path) -> None:
    subject, loads = WatchedArtefact(str(folder)), []

    def interrupted(path: Path) -> None:
        loads.append(path)
        if len(loads) == 1:
            (path / "adapter_model.safetensors").write_text("written during the load")

    subject.look(interrupted, opening=True)
    assert subject.readiness.blocked is Reason.FILES_CHANGING and "while it was read" in subject.readiness.detail
    with pytest.raises(Unreplayable, match="while it was read"):
        subject.check_ready()
    for _ in range(2):
        subject.look(interrupted)
    assert len(loads) == 2 and subject.readiness == Readiness()


def test_a_load_that_fails_is_told_as_it_was_raised_and_tried_again(folder: Path) -> None:
    subject, refused = WatchedArtefact(str(folder)), Unsupported(str(folder), "use_qalora")

    def refuse(_: Path) -> None:
        raise refused

    subject.look(refuse, opening=True)
    assert subject.readiness == Readiness(Reason.UNREADABLE, str(refused))
    with pytest.raises(Unsupported):
        subject.check_ready()
    subject.look(lambda _: None)
    assert subject.readiness == Readiness()
    subject.check_ready()


def test_files_without_memory_for_them_wait_some_looks_unless_they_change_or_memory_is_left(folder: Path) -> None:
    subject, tries = WatchedArtefact(str(folder)), []

    def refuse(path: Path) -> None:
        tries.append(path)
        raise NoMemory(str(path), 7_000_000_000, 2_000_000_000)

    subject.look(refuse, opening=True)
    wanted = Readiness(Reason.NO_MEMORY, f"{folder}: not enough memory: 7 GB requested, 2 GB free, 5 GB more needed")
    for _ in range(LOOKS_TO_WAIT):
        assert subject.readiness == wanted
        subject.look(refuse)
    assert len(tries) == 1
    subject.look(refuse)
    assert len(tries) == 2 and subject.readiness == wanted
    subject.retry_at_next_look()
    subject.look(refuse)
    assert len(tries) == 3
    (folder / "adapter_model.safetensors").write_text("a smaller one")
    for _ in range(2):
        subject.look(refuse)
    assert len(tries) == 4
    with pytest.raises(NoMemory):
        subject.check_ready()


def test_moved_since_the_last_look(folder: Path) -> None:
    subject = WatchedArtefact(str(folder))
    subject.look(lambda _: None, opening=True)
    subject.check_unmoved()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(Unreplayable, match="changed while replaying"):
        subject.check_unmoved()


def test_a_forgotten_subject_starts_anew(folder: Path) -> None:
    subject = WatchedArtefact(str(folder))
    loaded: list[Path] = []
    subject.look(loaded.append, opening=True)
    subject.forget()
    assert subject.readiness.blocked is Reason.NOT_REPLAYED_YET
    subject.look(loaded.append, opening=True)
    assert len(loaded) == 2


def test_a_load_that_the_system_refuses_is_a_fault_of_this_artefact_alone_and_tried_again(folder: Path) -> None:
    """An exception would end the round of every adapter of its base."""
    subject, loads = WatchedArtefact(str(folder)), []

    def refused_once(path: Path) -> None:
        loads.append(path)
        if len(loads) == 1:
            raise PermissionError(13, "Permission denied", str(path))

    subject.look(refused_once, opening=True)
    assert subject.readiness == Readiness(Reason.UNREADABLE, f"{folder}: Permission denied while it was read")
    subject.look(refused_once)
    assert subject.readiness == Readiness()


def test_a_place_that_cannot_be_looked_at_blocks_and_raises_nothing(tmp_path: Path) -> None:
    subject = WatchedArtefact(str(tmp_path / ("a" * 300)))
    subject.look(lambda _: None, opening=True)
    assert subject.readiness.blocked is Reason.UNREADABLE and "File name too long" in subject.readiness.detail

"""Failed loads: what is tried again at which look, by the reason for the failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.errors import NoMemory, ProbeError, Unreplayable, Unsupported
from probes.residency.failed_loads import (
    LOOKS_TO_WAIT,
    FailedLoads,
    FilesAt,
    Key,
    Load,
    Rejected,
    Waiting,
    after_freed_memory,
    after_look,
    failure_of,
    files_at,
)

BASE: Key = (Load.GOLDEN_BASE, "")
COPY: Key = (Load.QUANTISED_COPY, "4")
FILES = FilesAt("somewhere", None)


def caused(cause: Exception) -> ProbeError:
    error = Unreplayable("a", "cannot be read")
    error.__cause__ = cause
    return error


def attempt(failed: FailedLoads, key: Key, error: ProbeError, source: str | None = None) -> None:
    with pytest.raises(type(error)), failed.attempt(key, source):
        raise error


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (NoMemory("a", 10, 5), Waiting),
        (caused(OSError("stale file handle")), Waiting),
        (caused(RuntimeError("CUDA error: device is busy")), Waiting),
        (caused(ValueError("is not JSON")), Rejected),
        (Unreplayable("a", "3 tensors are missing"), Rejected),
        (Unsupported("a", "use_qalora"), Rejected),
    ],
)
def test_only_a_reason_that_may_end_by_itself_is_waited_for(error: ProbeError, state: type) -> None:
    failure = failure_of(error, FILES)
    assert isinstance(failure, state) and failure.files is FILES
    assert type(failure.error) is type(error) and str(failure.error) == str(error)
    assert (failure.error.__cause__, failure.error.__traceback__) == (None, None), "frames keep models in memory"


def test_a_waiting_load_is_tried_after_some_looks_and_a_rejected_one_after_none() -> None:
    waiting, rejected = Waiting(NoMemory("a"), FILES), Rejected(Unsupported("a", "use_qalora"), FILES)
    state: Waiting | Rejected | None = waiting
    for left in reversed(range(LOOKS_TO_WAIT)):
        assert state is not None
        state = after_look(state, FILES)
        assert state == Waiting(waiting.error, FILES, left)
    assert state is not None and after_look(state, FILES) is None
    for _ in range(3 * LOOKS_TO_WAIT):
        assert after_look(rejected, FILES) is rejected


def test_other_files_bring_back_both_and_freed_memory_what_waits() -> None:
    waiting, rejected = Waiting(NoMemory("a"), FILES), Rejected(Unsupported("a", "use_qalora"), FILES)
    other = FilesAt("somewhere else", None)
    assert after_look(waiting, other) is None and after_look(rejected, other) is None
    assert after_look(after_freed_memory(waiting), FILES) is None
    assert after_freed_memory(rejected) is rejected


def test_a_failure_stands_until_its_files_change(tmp_path: Path) -> None:
    failed = FailedLoads()
    attempt(failed, BASE, Unsupported("a", "use_qalora"), str(tmp_path))
    assert failed.look() == [] and BASE in failed
    with pytest.raises(Unsupported, match="use_qalora"):
        failed.check(BASE)
    (tmp_path / "config.json").write_text("{}")
    assert failed.look() == [BASE] and BASE not in failed
    failed.check(BASE)


def test_files_that_change_during_the_load_are_other_files(tmp_path: Path) -> None:
    failed = FailedLoads()
    with pytest.raises(Unreplayable), failed.attempt(BASE, str(tmp_path)):
        (tmp_path / "config.json").write_text("{}")
        raise Unreplayable("a", "half written")
    assert failed.look() == [BASE]


def test_what_is_made_in_memory_waits_for_memory_alone() -> None:
    failed = FailedLoads()
    attempt(failed, COPY, NoMemory("a"))
    assert [failed.look() for _ in range(LOOKS_TO_WAIT)] == [[]] * LOOKS_TO_WAIT
    assert failed.look() == [COPY]
    attempt(failed, COPY, NoMemory("a"))
    failed.memory_freed()
    assert failed.look() == [COPY]


def test_a_load_that_succeeds_or_is_forgotten_leaves_no_failure() -> None:
    failed = FailedLoads()
    attempt(failed, COPY, NoMemory("a"))
    with failed.attempt(COPY):
        pass
    assert COPY not in failed and failed.error(COPY) is None
    for forget in (lambda: failed.forget(COPY), failed.clear):
        attempt(failed, COPY, NoMemory("a"))
        forget()
        assert COPY not in failed


def test_a_hub_id_without_a_local_copy_has_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing_here(*_: object, **__: object) -> str:
        raise FileNotFoundError("no snapshot here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nothing_here)
    assert files_at("somebody/some-base") == FilesAt("somebody/some-base", None)

"""Which golden record is in force: the pinned one, else the newest; from the folder, else from the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import Retryable
from agent.worker.goldens import Goldens, kept_before
from detectors.records import Reason
from probes.artefacts.identity import adapter_hash
from probes.golden.archive import load, read_bytes, save
from probes.golden.record import Golden, Unmonitorable
from probes.golden.weights import keep_adapter
from tests.probes.goldens import golden
from tests.probes.tiny import tiny_adapter, tiny_base


def test_the_newest_is_used_and_a_newer_one_is_noticed(tmp_path: Path) -> None:
    first = save(golden(at=1.0), tmp_path)
    shelf = Goldens(tmp_path, "toy", {"router": ""})
    (accepted,) = shelf.look()
    assert (accepted.golden, accepted.adapter, accepted.base) == (first, "router", "toy")
    assert shelf.look() == []
    second = save(golden(at=2.0, seed=1), tmp_path)
    (accepted,) = shelf.look()
    assert (accepted.golden, accepted.previous) == (second, first)
    assert accepted.data == read_bytes(tmp_path, second)


def test_the_smallest_loss_that_pages_is_told_with_the_record(tmp_path: Path) -> None:
    settings = {"log_threshold": 21.5, "token_budget": 512}
    known = replace(golden(lengths=(12,) * 48), settings=settings, made_on="vllm 0.32, prompt")
    save(known, tmp_path)
    (accepted,) = Goldens(tmp_path, "toy", {"router": ""}).look()
    assert accepted.smallest_loss == pytest.approx(0.055) and accepted.draws == 8
    assert (accepted.tolerance, accepted.made_on) == (0.05, "vllm 0.32, prompt")


def test_a_pin_holds_against_a_newer_record(tmp_path: Path) -> None:
    first = save(golden(at=1.0), tmp_path)
    save(golden(at=2.0, seed=1), tmp_path)
    shelf = Goldens(tmp_path, "toy", {"router": first})
    assert [accepted.golden for accepted in shelf.look()] == [first]
    assert shelf.look() == []


def test_a_record_with_one_flipped_byte_is_refused_with_the_reason(tmp_path: Path) -> None:
    pin = save(golden(), tmp_path)
    path = next(tmp_path.glob("*.golden"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    shelf = Goldens(tmp_path, "toy", {"router": pin})
    assert shelf.look() == []
    held = shelf.held["router"]
    assert isinstance(held, Unmonitorable)
    assert held.reason is Reason.GOLDEN_REFUSED
    assert "hash" in held.detail


def test_a_record_that_the_folder_lost_comes_back_from_the_store(tmp_path: Path) -> None:
    pin = save(golden(), tmp_path / "before")
    data = read_bytes(tmp_path / "before", pin)
    shelf = Goldens(tmp_path / "after", "toy", {"router": pin}, lambda _, wanted: (wanted, data))
    assert [accepted.golden for accepted in shelf.look()] == [pin]


def test_other_bytes_from_the_store_are_not_taken_for_the_record(tmp_path: Path) -> None:
    pin = save(golden(), tmp_path / "before")
    shelf = Goldens(tmp_path / "after", "toy", {"router": pin}, lambda _, wanted: (wanted, b"something else"))
    assert shelf.look() == []
    assert isinstance(shelf.held["router"], Unmonitorable)


def test_a_store_that_is_away_is_asked_again_at_the_next_look(tmp_path: Path) -> None:
    pin = save(golden(), tmp_path / "before")
    answers: list[tuple[str, bytes] | None] = [(pin, read_bytes(tmp_path / "before", pin))]

    def fetch(adapter: str, wanted: str) -> tuple[str, bytes] | None:
        if len(requested) == 0:
            requested.append(wanted)
            raise Retryable("clickhouse", "away")
        return answers[0]

    requested: list[str] = []
    shelf = Goldens(tmp_path / "after", "toy", {"router": pin}, fetch)
    assert shelf.look() == []
    assert [accepted.golden for accepted in shelf.look()] == [pin]
    assert isinstance(shelf.held["router"], Golden)


def test_a_damaged_file_takes_no_record_away_and_blocks_only_who_has_none(tmp_path: Path) -> None:
    first = save(golden(at=1.0), tmp_path)
    shelf = Goldens(tmp_path, "toy", {"router": "", "another": ""})
    assert [accepted.golden for accepted in shelf.look()] == [first]
    damaged = tmp_path / ("f" * 64 + ".golden")
    damaged.write_bytes(b"half")
    save(golden("another", at=2.0), tmp_path)
    assert shelf.look() == []
    held, blocked = shelf.held["router"], shelf.held["another"]
    assert isinstance(held, Golden) and held.hash == first
    assert isinstance(blocked, Unmonitorable) and blocked.reason is Reason.GOLDEN_REFUSED
    damaged.unlink()
    assert [accepted.adapter for accepted in shelf.look()] == ["another"]


def test_a_record_that_cannot_be_put_back_is_said_and_no_crash(tmp_path: Path) -> None:
    pin = save(golden(), tmp_path / "before")
    data = read_bytes(tmp_path / "before", pin)
    (tmp_path / "after" / f"{pin.removeprefix('sha256:')}.golden").mkdir(parents=True)
    shelf = Goldens(tmp_path / "after", "toy", {"router": pin}, lambda _, wanted: (wanted, data))
    assert shelf.look() == []
    assert isinstance(shelf.held["router"], Unmonitorable)


def test_the_files_accepted_before_are_found_where_they_were_kept(tmp_path: Path) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", tiny_base(tmp_path / "base"))
    accepted = adapter_hash(adapter, 1)
    first = save(replace(golden(at=1.0), adapter_hash=accepted), tmp_path)
    second = load(tmp_path, save(replace(golden(at=2.0), previous=first), tmp_path))
    assert kept_before(tmp_path, second) is None
    kept = keep_adapter(adapter, tmp_path, accepted, 1)
    assert kept_before(tmp_path, second) == kept
    assert kept_before(tmp_path, load(tmp_path, first)) is None
    (tmp_path / f"{first.removeprefix('sha256:')}.golden").write_bytes(b"damaged")
    assert kept_before(tmp_path, second) is None


def test_the_same_files_under_another_scheme_of_hashes_are_no_version_before(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    adapter, older = tiny_adapter(tmp_path / "adapter", base), tiny_adapter(tmp_path / "older", base, seed=5)
    oldest = save(replace(golden(at=1.0), adapter_hash=adapter_hash(older, 1)), tmp_path)
    first = save(replace(golden(at=2.0), adapter_hash=adapter_hash(adapter, 1), previous=oldest), tmp_path)
    again = replace(golden(at=3.0), adapter_hash=adapter_hash(adapter, 2), hash_scheme=2, previous=first)
    second = load(tmp_path, save(again, tmp_path))
    keep_adapter(adapter, tmp_path, adapter_hash(adapter, 1), 1)
    kept = keep_adapter(older, tmp_path, adapter_hash(older, 1), 1)
    assert kept_before(tmp_path, second) == kept


def test_a_folder_that_cannot_be_listed_is_no_folder_without_records(tmp_path: Path) -> None:
    """What was accepted may lie there: "none" would ask for an enrolment, which would move the reference."""
    (tmp_path / "golden").write_text("a file where the folder should be")
    shelf = Goldens(tmp_path / "golden", "toy", {"router": ""})
    assert shelf.look() == []
    held = shelf.held["router"]
    assert isinstance(held, Unmonitorable) and held.reason is Reason.GOLDEN_REFUSED
    assert "golden: saw Not a directory, wanted a folder that user" in held.detail

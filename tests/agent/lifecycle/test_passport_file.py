"""Are passports read as they were written, and wrong ones refused with their place?"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from agent.errors import Refused
from agent.lifecycle.passport import Event, Measured, Passport, PinnedBase, Training
from agent.lifecycle.passport_file import FILE, folder_of, read, with_passport, write

FULL = Passport(
    adapter="org/router@v2 größer",
    owner="Ada <ada@example.org>",
    base=PinnedBase(name="org/base", revision="main", end_of_life=date(2027, 1, 31)),
    training=Training(code="git@example.org:train.git", seed=7),
    measured=(Measured(at=date(2026, 11, 28), canaries=24, retention=0.97, low=0.93, high=1.01, flips=0.0),),
    history=(Event(at=date(2026, 11, 28), what="rebuilt on org/base"),),
)


def test_what_is_written_is_read_back_under_any_name(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    assert read(tmp_path, FULL.adapter) == FULL
    assert path.parent.parent == tmp_path / "passports" and "/" not in path.parent.name
    long = Passport(adapter="ä" * 200)
    write(tmp_path, long)
    assert read(tmp_path, long.adapter) == long
    assert with_passport(tmp_path) == sorted([FULL.adapter, long.adapter])
    assert not list(tmp_path.rglob("*.partial"))


def test_without_a_file_there_is_none(tmp_path: Path) -> None:
    assert read(tmp_path, "router") is None and with_passport(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("base: {end_of_life: 2027-02-30}", "base.end_of_life"),
        ("base: {end_of_life: soon}", "base.end_of_life"),
        ("owners: Ada", "owners"),
        ("training: {seed: seven}", "training.seed"),
        ("rebuildable: {answer: maybe}", "rebuildable.answer"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(tmp_path: Path, line: str, place: str) -> None:
    folder = folder_of(tmp_path, "router")
    folder.mkdir(parents=True)
    (folder / FILE).write_text(f"adapter: router\n{line}\n")
    with pytest.raises(Refused, match=place.replace(".", r"\.")):
        read(tmp_path, "router")


def test_another_adapters_passport_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "router")
    folder.mkdir(parents=True)
    (folder / FILE).write_text("adapter: rewriter\n")
    with pytest.raises(Refused, match="rewriter"):
        read(tmp_path, "router")

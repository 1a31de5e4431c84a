"""What commands write into the passport: one line a decision, and which files and base it is about from then on."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

from agent.lifecycle import history, passport_file
from agent.lifecycle.passport import Passport, PinnedBase
from tests.probes.goldens import golden

ON = date(2026, 11, 29)
OLD_BASE = PinnedBase(name="org/old", revision="v1", hash="sha256:" + "1" * 64, end_of_life=date(2027, 1, 1))


def told(folder: Path) -> list[str]:
    passport = passport_file.read(folder, "router")
    assert passport is not None
    return [event.what for event in passport.history]


def test_events_come_in_their_order_and_once_a_day(tmp_path: Path) -> None:
    history.record(tmp_path, "router", ON, "lost")
    assert passport_file.read(tmp_path, "router") is None, "a history alone is no passport"
    passport_file.write(tmp_path, Passport(adapter="router"))
    history.record(tmp_path, "router", ON, "lost", "rebuilt")
    history.record(tmp_path, "router", ON, "rebuilt")
    assert told(tmp_path) == ["lost", "rebuilt"]


def test_another_base_that_is_enrolled_on_is_the_one_the_passport_is_about(tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "org/new", "revision": "v2"}
    (files / "adapter_config.json").write_text(json.dumps(config))
    passport_file.write(tmp_path, Passport(adapter="router", owner="Ada", base=OLD_BASE))
    record = replace(golden("router"), hash="sha256:" + "a" * 64, base_hash="sha256:" + "2" * 64, why="rebuilt")
    history.record_enrolment(tmp_path, record, files, ON)
    passport = passport_file.read(tmp_path, "router")
    assert passport is not None and (passport.owner, passport.files) == ("Ada", record.adapter_hash)
    base = passport.base
    assert (base.name, base.revision, base.hash, base.end_of_life) == ("org/new", "v2", record.base_hash, None)
    assert told(tmp_path) == [f"enrolled as {'a' * 12} on base {'2' * 12}: rebuilt"]


def test_of_the_same_base_what_people_wrote_stays(tmp_path: Path) -> None:
    record = replace(golden("router"), hash="sha256:" + "a" * 64, base_hash=OLD_BASE.hash)
    passport_file.write(tmp_path, Passport(adapter="router", base=OLD_BASE))
    history.record_enrolment(tmp_path, record, None, ON)
    passport = passport_file.read(tmp_path, "router")
    assert passport is not None and passport.base == OLD_BASE


def test_a_base_of_which_no_hash_was_written_keeps_its_name(tmp_path: Path) -> None:
    passport_file.write(tmp_path, Passport(adapter="router", base=PinnedBase(name="org/old", revision="v1")))
    record = replace(golden("router"), hash="sha256:" + "a" * 64, base_hash=OLD_BASE.hash)
    history.record_enrolment(tmp_path, record, tmp_path, ON)
    passport = passport_file.read(tmp_path, "router")
    assert passport is not None
    assert (passport.base.name, passport.base.revision, passport.base.hash) == ("org/old", "v1", OLD_BASE.hash)

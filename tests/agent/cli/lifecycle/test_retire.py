"""``gapwatch retire``: what it asks for, says and writes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from agent.cli.lifecycle.retire import RetireOptions, retire
from agent.errors import Refused
from agent.lifecycle import passport_file, retirement
from agent.lifecycle.passport import Passport
from agent.terminal.console import console
from probes.golden.archive import newest
from tests.agent.cli.lifecycle.test_passport import config as config  # a fixture
from tests.agent.cli.test_canaries import stored, written
from tests.agent.findings import ROUTER

MAIL = {"pattern": "[a-z]+@example.org", "replacement": "MAIL"}


def said_by(path: Path, wish: RetireOptions) -> str:
    with console.capture() as said:
        assert retire(path, "router", wish, json=False) == 0
    return said.get()


def test_from_the_watch_and_back(config: Path) -> None:
    golden_dir = config.parent / "golden"
    passport_file.write(golden_dir, Passport(adapter="router"))
    with pytest.raises(Refused, match="--why"):
        retire(config, "router", RetireOptions(), json=False)
    words = said_by(config, RetireOptions("its task is gone"))
    assert "watched no more" in words and "1 golden records" in words and newest(golden_dir, "router")
    with pytest.raises(Refused, match="retired already"):
        retire(config, "router", RetireOptions("again"), json=False)
    assert "watched again" in said_by(config, RetireOptions(undo=True))
    with pytest.raises(Refused, match="watched"):
        retire(config, "router", RetireOptions(undo=True), json=False)
    passport = passport_file.read(golden_dir, "router")
    assert passport is not None
    assert [event.what for event in passport.history] == ["retired: its task is gone", "on the watch again"]


def test_what_is_forgotten_is_told_and_cannot_come_back(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused, match="--why"):
        retire(config, "router", RetireOptions(forget=True), json=False)
    words = said_by(config, RetireOptions("by order of the data officer", forget=True))
    assert "Lost for good" in words and "1 golden records" in words
    golden_dir = config.parent / "golden"
    assert newest(golden_dir, "router") is None
    left = retirement.read(golden_dir, "router")
    assert left is not None and left.forgotten == "by order of the data officer" and left.lost
    with pytest.raises(Refused, match="forgotten"):
        retire(config, "router", RetireOptions(undo=True), json=False)
    assert retire(config, "router", RetireOptions("again", forget=True), json=True) == 0
    assert json.loads(capsys.readouterr().out)["records"] == 0


def test_a_name_that_nothing_has_is_refused(config: Path) -> None:
    with pytest.raises(Refused, match="router, rewriter"):
        retire(config, "nobody", RetireOptions("x"), json=False)


def test_what_was_asked_and_answered_is_kept_where_the_store_has_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path, probes={"golden_dir": "golden"}, sampling={"redact": [MAIL]})
    stored(file, ["where is parcel 3 of ann@example.org", "where is parcel 4"])
    capsys.readouterr()
    assert retire(file, ROUTER, RetireOptions("its task is gone"), json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["prompts"], facts["pairs"]) == (2, 2)
    folder = passport_file.folder_of(tmp_path / "golden", ROUTER)
    pairs = [json.loads(line) for line in (folder / retirement.PAIRS).read_text().splitlines()]
    assert all(set(pair) == {"at", "prompt", "output"} and pair["output"] for pair in pairs)
    assert any("parcel 3" in pair["prompt"] for pair in pairs) and "ann@" not in str(pairs)
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in (retirement.PAIRS, retirement.PROMPTS)} == {0o600}
    with console.capture() as said:
        retire(file, ROUTER, RetireOptions("by order", forget=True), json=False)
    assert "sampled prompts with their answers" in said.get() and not (folder / retirement.PAIRS).exists()

"""Is what runs out read once an hour, without waiting, and is a passport that cannot be read a state?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml

from agent.config import Config, load
from agent.economics import worth_file
from agent.lifecycle import passport_file
from agent.lifecycle.passport import Passport, PinnedBase
from agent.lifecycle.passport_feed import EVERY_S, PassportFeed, read_clocks
from agent.records import PassportClocks
from detectors.economics.worth import Worth
from probes.golden.archive import save
from tests.agent.economics.test_worth_file import measured
from tests.probes.goldens import golden

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
AT = NOW.timestamp()


def configured(folder: Path) -> Config:
    models = [
        {"name": "m", "path": "./m", "adapters": [{"name": "router", "path": "a"}, {"name": "other", "path": "b"}]}
    ]
    settings = {
        "models": models,
        "probes": {"golden_dir": "golden"},
        "alerts": {"clocks": {"people_file": "people.txt"}},
    }
    (folder / "gapwatch.yaml").write_text(yaml.safe_dump(settings))
    (folder / "people.txt").write_text("bob\n")
    return load(folder / "gapwatch.yaml")


def polled(feed: PassportFeed, now: float) -> Sequence[PassportClocks]:
    for _ in range(500):
        if read := feed.poll(now):
            return read
        time.sleep(0.01)
        if feed._reading is None:
            return ()
    raise AssertionError("it never came")


def test_all_clocks_of_watched_adapters_with_a_passport(tmp_path: Path) -> None:
    config = configured(tmp_path)
    folder = config.probes.golden_dir
    save(golden("router", at=AT - 360 * 86400), folder)
    end = NOW.date() + timedelta(days=5)
    passport_file.write(folder, Passport(adapter="router", owner="Ada", base=PinnedBase(end_of_life=end)))
    passport_file.write(folder, Passport(adapter="gone", owner="Ada"))
    read = read_clocks(config, AT)
    assert [(own.adapter, own.kind, own.stage) for own in read.clocks] == [
        ("router", "owner_gone", "over 0"),
        ("router", "base_end_of_life", "7 days"),
        ("router", "golden_stale", "7 days"),
    ]
    assert read.troubles == () and read.clocks[1].due == (NOW + timedelta(days=5)).replace(hour=0).timestamp()


def test_once_an_hour_and_once_more_when_there_is_none_left(tmp_path: Path) -> None:
    config = configured(tmp_path)
    feed = PassportFeed(config)
    assert polled(feed, AT) == ()
    path = passport_file.write(config.probes.golden_dir, Passport(adapter="router", owner="Ada"))
    assert feed.poll(AT + EVERY_S - 1) == ()
    (read,) = polled(feed, AT + EVERY_S)
    assert [own.kind for own in read.clocks] == ["owner_gone"]
    path.unlink()
    (read,) = polled(feed, AT + 2 * EVERY_S)
    assert read.clocks == ()
    assert polled(feed, AT + 3 * EVERY_S) == ()


def test_what_cannot_be_read_is_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    config = configured(tmp_path)
    folder = config.probes.golden_dir
    passport_file.write(folder, Passport(adapter="router", owner="Ada"))
    passport_file.write(folder, Passport(adapter="other", owner="Ada")).write_text("adapter: other\nowners: x\n")
    (tmp_path / "people.txt").unlink()
    read = read_clocks(config, AT)
    assert read.clocks == () and len(read.troubles) == 2
    assert any("owners" in words for words in read.troubles) and any("people_file" in words for words in read.troubles)


def test_what_was_measured_of_worth_comes_along_and_a_base_that_passes_alone_is_a_warning(tmp_path: Path) -> None:
    config = configured(tmp_path)
    folder = config.probes.golden_dir
    worth_file.write(folder, measured("router", Worth.BASE_PASSES, at=NOW - timedelta(days=3)))
    worth_file.write(folder, measured("gone"))
    worth_file.write(folder, measured("other")).write_text("worth: adds\n")
    read = read_clocks(config, AT)
    (own,) = read.worth
    assert (own.adapter, own.worth, own.right_with_examples[4]) == ("router", "base_passes", 22 / 24)
    (clock,) = read.clocks
    assert (clock.adapter, clock.kind) == ("router", "base_passes") and clock.stage.startswith("over")
    assert len(read.troubles) == 1 and "worth.yaml" in read.troubles[0]

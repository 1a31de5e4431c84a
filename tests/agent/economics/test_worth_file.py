"""Is what was measured read back as written, and is the finding that the base alone passes said as itself?"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.economics import worth_file
from agent.economics.worth_file import MeasuredWorth, Prompted
from agent.errors import Refused
from agent.lifecycle.clocks import ClockKind
from agent.lifecycle.passport_file import folder_of
from detectors.economics.worth import Worth

AT = datetime(2026, 11, 29, 3, tzinfo=UTC)


def measured(adapter: str = "router", worth: Worth = Worth.ADDS, **more: Any) -> MeasuredWorth:
    fixed: dict[str, Any] = {
        "adapter": adapter,
        "base": "m",
        "at": AT,
        "golden": "sha256:gggg",
        "base_hash": "sha256:bbbb",
        "worth": worth,
        "checked": 48,
        "accepted_right": 48,
        "adapter_right": 48,
        "base_right": 47 if worth is Worth.BASE_PASSES else 4,
        "gain": 0.9,
        "gain_low": 0.7,
        "gain_high": 0.98,
        "base_loss": 0.9,
        "base_loss_high": 0.97,
        "original_gain": 0.95,
        "original_low": 0.8,
        "original_high": 0.99,
        "adapter_held_out": 24,
        "prompted": (
            Prompted(examples=0, checked=24, right=2, extra_tokens=0.0),
            Prompted(examples=4, checked=24, right=22, extra_tokens=130.0),
        ),
    }
    return MeasuredWorth(**(fixed | more))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert worth_file.read(tmp_path, "router") is None
    worth_file.write(tmp_path, measured())
    assert worth_file.read(tmp_path, "router") == measured()
    assert measured().left == pytest.approx(0.9 / 0.95) and measured(original_low=-0.1).left is None


def test_a_file_that_cannot_be_read_is_refused_with_its_place(tmp_path: Path) -> None:
    folder_of(tmp_path, "router").mkdir(parents=True)
    (folder_of(tmp_path, "router") / worth_file.FILE).write_text("worth: priceless\n")
    with pytest.raises(Refused, match="worth"):
        worth_file.read(tmp_path, "router")


def test_that_the_base_alone_passes_is_said_once_a_month_and_that_nothing_is_broken() -> None:
    assert measured().clock(AT.date()) is None and measured(worth=Worth.LOST).clock(AT.date()) is None
    clock = measured(worth=Worth.BASE_PASSES).clock(AT.date())
    assert clock is not None and (clock.kind, clock.stage) == (ClockKind.BASE_PASSES, "over 0")
    assert "may be retired" in clock.words and "47 of 48" in clock.words and "Nothing is broken" in clock.words
    later = measured(worth=Worth.BASE_PASSES).clock(date(2027, 1, 5))
    assert later is not None and later.stage == "over 1"

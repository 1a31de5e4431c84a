from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from agent.sampling import Config, PerMinute, keep

KEYS = [f"request-{n}" for n in range(40_000)]


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_the_kept_share_is_the_rate(rate: float) -> None:
    kept = sum(keep(key, rate, "salt") for key in KEYS)
    four_sigma = 4 * math.sqrt(len(KEYS) * rate * (1 - rate))
    assert abs(kept - len(KEYS) * rate) <= four_sigma


def test_decisions_spread_evenly_over_neighbouring_keys() -> None:
    """Request ids that count up must not be kept in runs: each block of 1,000 holds its share."""
    shares = [sum(keep(key, 0.3, "salt") for key in KEYS[at : at + 1000]) for at in range(0, len(KEYS), 1000)]
    chi2 = sum((share - 300) ** 2 / (1000 * 0.3 * 0.7) for share in shares)
    assert abs(chi2 - 40) <= 4 * math.sqrt(2 * 40)


def test_nothing_is_kept_at_0_and_everything_at_1() -> None:
    assert not any(keep(key, 0.0, "salt") for key in KEYS[:1000])
    assert all(keep(key, 1.0, "salt") for key in KEYS[:1000])


def test_a_greater_rate_keeps_what_a_smaller_one_kept() -> None:
    assert all(keep(key, 0.5, "salt") for key in KEYS[:5000] if keep(key, 0.1, "salt"))


def test_another_salt_makes_an_independent_choice() -> None:
    both = sum(keep(key, 0.5, "a") and keep(key, 0.5, "b") for key in KEYS)
    assert abs(both - len(KEYS) / 4) <= 4 * math.sqrt(len(KEYS) * 3 / 16)


def test_a_key_that_is_no_valid_unicode_is_judged_too() -> None:
    assert keep("\udc80", 1.0, "salt")


def test_the_first_of_a_minute_are_taken_and_the_rest_is_counted() -> None:
    quota = PerMinute(2)
    assert [quota.admit("a", now) for now in (0.0, 1.0, 2.0, 59.9)] == [True, True, False, False]
    assert quota.admit("a", 60.0)
    assert quota.shed == {"a": 2}


def test_a_busy_adapter_takes_nothing_from_a_quiet_one() -> None:
    quota = PerMinute(1)
    assert [quota.admit(name, 0.0) for name in ("busy", "busy", "busy", "quiet")] == [True, False, False, True]


def test_a_clock_that_ran_back_opens_no_new_minute() -> None:
    quota = PerMinute(1)
    assert quota.admit("a", 120.0)
    assert not quota.admit("a", 60.0)
    assert not quota.admit("a", 120.0)


@pytest.mark.parametrize("wrong", [{"rate": 1.1}, {"rate": -0.1}, {"per_adapter_per_minute": -1}, {"rat": 0.1}])
def test_settings_without_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Config(**wrong)

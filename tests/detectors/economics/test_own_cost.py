"""Is each amount priced once, the share that of all parts, and the volume at which the watch is cheap enough right?"""

from __future__ import annotations

import math

import pytest

from detectors.economics.own_cost import (
    Part,
    Prices,
    Served,
    Used,
    WatchCost,
    requests_for_share,
    share_of,
    shared_out,
)

PRICES = Prices(gpu_s=2.0, cpu_s=1.0, byte_day=0.5, input_token=0.1, output_token=0.4)
SERVED = Served(requests=100.0, input_tokens=20.0, output_tokens=10.0)  # 6 a request
COST = WatchCost(
    "base",
    "router",
    {Part.FILE_CANARIES: Used(cpu_s=6.0), Part.STORAGE: Used(stored_bytes=4.0), Part.SCORING: Used(gpu_s=1.0)},
    SERVED,
)


def test_every_amount_has_its_price() -> None:
    assert Used(1.0, 1.0, 10.0, 10.0, 2.0).money(PRICES) == pytest.approx(2 + 1 + 1 + 4 + 1)
    assert Used(1.0) + Used(2.0, 3.0) == Used(3.0, 3.0)


def test_the_share_is_of_all_parts_and_the_most_expensive_is_first() -> None:
    assert COST.money(PRICES) == 10.0 and COST.serving_money(PRICES) == pytest.approx(600.0)
    assert COST.share(PRICES) == pytest.approx(10 / 600)
    assert list(COST.by_part(PRICES)) == [Part.FILE_CANARIES, Part.SCORING, Part.STORAGE]


def test_from_some_volume_on_the_watch_is_within_its_share() -> None:
    needed = requests_for_share(COST, PRICES, 0.1)
    assert needed == pytest.approx(6.0 / (0.1 * 6.0 - 4.0 / 100.0))
    more = WatchCost("base", "router", COST.parts, Served(needed, 20.0, 10.0))
    # What grows with the requests is measured at 100 of them.
    by = needed / 100
    grown = {
        part: Used(gpu_s=used.gpu_s * by, cpu_s=used.cpu_s, stored_bytes=used.stored_bytes * by)
        for part, used in more.parts.items()
    }
    assert WatchCost("base", "router", grown, more.served).share(PRICES) == pytest.approx(0.1)


def test_where_scoring_alone_is_above_the_share_no_volume_is_enough() -> None:
    assert requests_for_share(COST, PRICES, 0.001) == math.inf


@pytest.mark.parametrize(
    "cost",
    [
        WatchCost("base", "router", COST.parts, None),
        WatchCost("base", "router", COST.parts, Served(10.0, math.nan, 5.0)),
    ],
)
def test_what_is_not_known_is_no_number(cost: WatchCost) -> None:
    assert math.isnan(cost.share(PRICES)) and math.isnan(requests_for_share(cost, PRICES, 0.01))


def test_a_watch_of_what_nobody_asks_for_is_beyond_any_share() -> None:
    assert share_of(1.0, 0.0) == math.inf and share_of(0.0, 0.0) == 0.0


def test_shares_add_up_and_are_equal_where_nothing_is_known() -> None:
    assert shared_out(6.0, {"a": 1.0, "b": 2.0}) == {"a": 2.0, "b": 4.0}
    assert shared_out(6.0, {"a": 0.0, "b": 0.0}) == {"a": 3.0, "b": 3.0}
    assert shared_out(6.0, {}) == {}

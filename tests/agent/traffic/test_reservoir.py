from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from agent.traffic.reservoir import WHOLE, Config, RankHash, Ranks, Reservoirs, below

N = 40_000
IDS = [f"request-{n}".encode() for n in range(N)]


def by_id(salt: str) -> Ranks:
    return RankHash(salt).of_ids(IDS)


def by_offset(salt: str) -> Ranks:
    return RankHash(salt).of_offsets("traffic", 3, np.arange(N))


KINDS = [pytest.param(by_id, id="ids"), pytest.param(by_offset, id="offsets")]


@pytest.mark.parametrize("ranks", KINDS)
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.9])
def test_the_kept_share_is_the_rate(ranks: Any, rate: float) -> None:
    four_sigma = 4 * math.sqrt(N * rate * (1 - rate))
    assert abs(below(ranks("salt"), rate).sum() - N * rate) <= four_sigma


@pytest.mark.parametrize("ranks", KINDS)
def test_decisions_spread_evenly_over_neighbours(ranks: Any) -> None:
    """Ids and offsets that count up must not be kept in runs: each block of 1,000 holds its share."""
    shares = below(ranks("salt"), 0.3).reshape(-1, 1000).sum(axis=1)
    chi2 = float(((shares - 300) ** 2).sum() / (1000 * 0.3 * 0.7))
    assert abs(chi2 - 40) <= 4 * math.sqrt(2 * 40)


@pytest.mark.parametrize("ranks", KINDS)
def test_decisions_are_independent_of_each_other(ranks: Any) -> None:
    kept = below(ranks("salt"), 0.5)
    both = int((kept[1:] & kept[:-1]).sum())
    assert abs(both - N / 4) <= 4 * math.sqrt(N * 3 / 16)


@pytest.mark.parametrize("ranks", KINDS)
def test_ranks_are_uniform_in_every_one_of_their_bits(ranks: Any) -> None:
    bits = (ranks("salt")[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.all(np.abs(bits.mean(axis=0) - 0.5) <= 5 * 0.5 / math.sqrt(N))


@pytest.mark.parametrize("ranks", KINDS)
def test_nothing_is_kept_at_0_and_everything_at_1(ranks: Any) -> None:
    assert not below(ranks("s"), 0.0).any()
    assert below(ranks("s"), 1.0).all()


@pytest.mark.parametrize("ranks", KINDS)
def test_a_greater_rate_keeps_what_a_smaller_one_kept(ranks: Any) -> None:
    found = ranks("s")
    assert below(found, 0.5)[below(found, 0.1)].all()


@pytest.mark.parametrize("ranks", KINDS)
def test_another_salt_makes_an_independent_choice(ranks: Any) -> None:
    both = int((below(ranks("a"), 0.5) & below(ranks("b"), 0.5)).sum())
    assert abs(both - N / 4) <= 4 * math.sqrt(N * 3 / 16)


def test_partitions_and_topics_choose_independently() -> None:
    ranking, offsets = RankHash("s"), np.arange(N)
    one = below(ranking.of_offsets("traffic", 0, offsets), 0.5)
    for topic, partition in (("traffic", 1), ("other", 0)):
        both = int((one & below(ranking.of_offsets(topic, partition, offsets), 0.5)).sum())
        assert abs(both - N / 4) <= 4 * math.sqrt(N * 3 / 16)


def offered(name: str, n: int) -> list[tuple[str, int]]:
    """So many requests of one adapter with the ranks 1, 2, 3 ... out of order."""
    return [(name, rank) for rank in range(n, 0, -1)]


def test_the_lowest_ranks_of_a_poll_are_taken_and_the_rest_is_counted() -> None:
    room = Reservoirs(2)
    assert room.choose(offered("a", 5), 0.0) == [3, 4]
    assert room.choose(offered("a", 5), 59.9) == []
    assert room.shed == {"a": 8}
    assert room.choose(offered("a", 1), 60.0) == [0]


def test_a_busy_adapter_takes_nothing_from_a_quiet_one() -> None:
    room = Reservoirs(1)
    taken = room.choose([*offered("busy", 1000), ("quiet", WHOLE - 1)], 0.0)
    assert taken == [999, 1000]


def test_a_clock_that_is_set_back_starts_no_new_minute() -> None:
    room = Reservoirs(1)
    assert room.choose(offered("a", 1), 120.0) == [0]
    assert room.choose(offered("a", 1), 60.0) == []
    assert room.choose(offered("a", 1), 120.0) == []


def test_a_clock_that_went_a_year_ahead_and_came_back_costs_no_room() -> None:
    room = Reservoirs(1)
    year = 365 * 86400.0
    assert room.choose(offered("a", 1), year) == [0]
    assert room.choose(offered("a", 1), 600.0) == [0], "or nothing would be sampled for a year"
    assert room.choose(offered("a", 1), 600.0) == []
    assert room.choose(offered("a", 1), 660.0) == [0]


def test_a_busy_adapters_sample_comes_from_the_whole_minute() -> None:
    """First come, first taken would sample the first second of each minute for ever."""
    rng = np.random.default_rng(5)
    room = Reservoirs(60)
    seconds: list[int] = []
    for second in range(60 * 20):
        ranks = rng.integers(0, WHOLE, 50, dtype=np.uint64).tolist()
        taken = room.choose([("busy", rank) for rank in ranks], float(second))
        seconds += [second % 60] * len(taken) if second >= 60 else []
    assert len(seconds) <= 19 * 60
    late = sum(second >= 30 for second in seconds)
    # Of the later half as many as of the earlier, but for the few minutes that used up their room before their end.
    assert 0.42 <= late / len(seconds) <= 0.5 + 4 * 0.5 / math.sqrt(len(seconds))


def test_after_a_quiet_minute_all_are_taken_again() -> None:
    room = Reservoirs(2)
    room.choose(offered("a", 1000), 0.0)
    assert len(room.choose([("a", WHOLE - 1)], 60.0)) == 0  # thinned: the minute before was busy
    assert len(room.choose([("a", WHOLE - 1)], 180.0)) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 1.1},
        {"rate": -0.1},
        {"per_adapter_per_minute": -1},
        {"rat": 0.1},
        {"redact": [{"pattern": "("}]},
        {"redact": [{"pattern": "a*"}]},
        {"redact": [{"pattern": "(a)", "with": r"\2"}]},
        {"redact": [{"pattern": "a", "instead": "b"}]},
    ],
)
def test_invalid_settings_are_refused(wrong: dict[str, Any]) -> None:
    Config.model_validate({"rate": 0.5, "redact": [{"pattern": "(a)b*", "with": r"<\1>"}]})
    with pytest.raises(ValidationError):
        Config.model_validate(wrong)

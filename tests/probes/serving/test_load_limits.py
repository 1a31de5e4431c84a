"""Is a request seen as what it makes an engine hold and compute, and does none go out while the engine is busy?"""

from __future__ import annotations

import pytest

from probes.errors import EngineAway, Unreplayable
from probes.serving.engine import Load, Route
from probes.serving.load_limits import Cost, LoadLimits, Pace, check, cost_of, fits

LIMITS = LoadLimits()
WHERE = "http://engine:8000"
IDLE = Load(0, 0, 0.0)


def test_the_request_that_ended_an_engine_is_seen_as_what_it_is() -> None:
    """1,024 positions of a vocabulary of 150,000: 614 MB in 32 bits, and the 16-bit logits beside them."""
    cost = cost_of(1000, 24, 20, Route.PROMPT, 150_000)
    assert cost.logit_bytes == 1024 * (150_000 * 6 + 20 * 8)
    assert cost.logit_bytes > 1024 * 150_000 * 4 > 600_000_000
    assert not fits(cost, 1023, LIMITS)
    with pytest.raises(Unreplayable, match="922 MB of logits in one request, wanted 200 at most"):
        check(cost, 1023, LIMITS, WHERE)


@pytest.mark.parametrize(("tokens", "allowed"), [(222, True), (223, False)])
def test_the_bound_holds_to_the_token(tokens: int, allowed: bool) -> None:
    """200 MB are 222 positions of 900,160 bytes."""
    cost = cost_of(tokens - 20, 20, 20, Route.PROMPT, 150_000)
    assert fits(cost, tokens, LIMITS) is allowed


def test_what_does_not_fit_as_a_prompt_is_walked_one_position_at_a_time() -> None:
    cost = cost_of(1000, 23, 20, Route.WALK, 150_000)
    assert cost.logit_bytes == 900_160
    assert fits(cost, 1023, LIMITS)
    check(cost, 1023, LIMITS, WHERE)


def test_a_request_leaves_an_engine_with_219_mib_alive() -> None:
    assert LIMITS.most_logit_bytes < 219 * 2**20


def test_a_vocabulary_that_is_not_told_is_taken_as_a_large_one() -> None:
    assert cost_of(100, 10, 5, Route.PROMPT, None).logit_bytes > cost_of(100, 10, 5, Route.PROMPT, 256_000).logit_bytes


def test_a_text_of_1024_tokens_is_too_long_by_every_route() -> None:
    with pytest.raises(Unreplayable, match="1024 tokens to read, wanted 1023 at most"):
        check(Cost(0, 1024, 1), 1024, LIMITS, WHERE)


@pytest.mark.parametrize(
    ("route", "tokens", "requests"), [(Route.PROMPT, 14, 1), (Route.WALK, 11 + 12 + 13, 3), (Route.GENERATED, 13, 1)]
)
def test_tokens_and_requests_of_a_call(route: Route, tokens: int, requests: int) -> None:
    """10 tokens, then 3: scored with one generated after them, read three times with one generated, or generated."""
    cost = cost_of(10, 3, 1, route, 128)
    assert (cost.tokens, cost.requests) == (tokens, requests)


def test_no_minute_has_more_than_its_budget_and_one_call() -> None:
    limits, call = LoadLimits(tokens_a_minute=1000, requests_a_minute=600), Cost(0, 130, 1)
    pace, now, sent = Pace(limits), 0.0, list[float]()
    while now < 600.0:
        now += pace.wait_s(IDLE, now)
        pace.sent(call, now)
        sent.append(now)
    worst = max(sum(call.tokens for at in sent if start <= at < start + 60.0) for start in sent)
    assert 1000 <= worst <= 1000 + 130
    assert len(sent) == 10 * 8 + 1  # 8 a minute, and the one that ends the loop


def test_a_round_of_ordinary_size_goes_out_without_any_wait() -> None:
    pace = Pace(LIMITS)
    for _ in range(128):
        assert pace.wait_s(IDLE, 0.0) == 0.0
        pace.sent(cost_of(110, 40, 20, Route.PROMPT, 150_000), 0.0)


def test_a_call_of_three_minutes_of_budget_is_followed_by_three_minutes_of_none() -> None:
    pace = Pace(LoadLimits(tokens_a_minute=1000))
    pace.sent(Cost(0, 3000, 1), 100.0)
    assert pace.wait_s(IDLE, 100.0) == pytest.approx(180.0)
    assert pace.wait_s(IDLE, 280.0) == 0.0


def test_requests_have_a_budget_of_their_own() -> None:
    pace = Pace(LoadLimits(tokens_a_minute=10**9, requests_a_minute=60))
    for second in range(60):
        assert pace.wait_s(IDLE, 100.0 + second / 2) == 0.0
        pace.sent(Cost(0, 1, 1), 100.0 + second / 2)
    assert pace.wait_s(IDLE, 130.0) == pytest.approx(30.0)
    assert pace.wait_s(IDLE, 160.0) == 0.0


@pytest.mark.parametrize(
    ("load", "waits"),
    [
        (Load(), False),
        (Load(running=50), False),
        (Load(50, 0, 0.9), False),
        (Load(50, 1, 0.1), True),
        (Load(50, 0, 0.91), True),
    ],
)
def test_nothing_is_asked_while_requests_queue_or_the_cache_is_full(load: Load, waits: bool) -> None:
    assert (Pace(LIMITS).wait_s(load, 0.0) > 0.0) is waits


def test_refusals_in_a_row_double_the_wait_until_an_answer() -> None:
    pace = Pace(LoadLimits(first_wait_s=5.0, longest_wait_s=60.0))
    waits = []
    for _ in range(6):
        pace.refused(EngineAway(WHERE, "HTTP 503"), 0.0)
        waits.append(pace.wait_s(IDLE, 0.0))
    assert waits == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    pace.answered()
    pace.refused(EngineAway(WHERE, "HTTP 503"), 100.0)
    assert pace.wait_s(IDLE, 100.0) == 5.0


@pytest.mark.parametrize(("wished", "waited"), [(None, 5.0), (1.0, 5.0), (30.0, 30.0), (1e9, 600.0)])
def test_what_the_engine_wishes_is_kept_within_bounds(wished: float | None, waited: float) -> None:
    pace = Pace(LIMITS)
    pace.refused(EngineAway(WHERE, "HTTP 429", wished), 0.0)
    assert pace.wait_s(IDLE, 0.0) == waited


def test_a_very_long_outage_is_no_overflow() -> None:
    pace = Pace(LIMITS)
    for _ in range(5000):
        pace.refused(EngineAway(WHERE, "HTTP 503"), 0.0)
    assert pace.wait_s(IDLE, 0.0) == LIMITS.longest_wait_s

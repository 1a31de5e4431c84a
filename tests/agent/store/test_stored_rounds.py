"""In which order are stored rounds judged again? tests/end_to_end/test_rejudge.py has the rest."""

from __future__ import annotations

from agent.store.stored_rounds import RoundKey, in_order
from agent.store.table_rows import Row, when


def key(table: str, at: float, number: int) -> RoundKey:
    return RoundKey(when(at), table, "pod-0", "tiny", number)


def test_a_canary_round_comes_when_it_was_done_and_responses_when_they_were_handed_out() -> None:
    """The canaries took 40 seconds, two adapters' shares together; meanwhile a round of responses was judged."""
    long, later = key("rounds", 100.0, 3), key("rounds", 160.0, 4)
    responses = [key("traffic_rounds", at, number) for number, at in ((17, 105.0), (18, 139.999), (19, 140.001))]
    rows: dict[RoundKey, list[Row]] = {place: [{}] for place in responses}
    rows |= {later: [{"duration_s": 1.0}], long: [{"duration_s": 25.0}, {"duration_s": 15.0}]}
    found = in_order(rows)
    assert found == [responses[0], responses[1], long, responses[2], later]


def test_of_one_moment_canaries_come_first() -> None:
    done, handed_out = key("rounds", 100.0, 0), key("traffic_rounds", 107.0, 9)
    assert in_order({handed_out: [{}], done: [{"duration_s": 7.0}]}) == [done, handed_out]


def test_responses_that_have_the_time_at_which_the_canaries_began_come_right_after_these() -> None:
    """As an earlier version wrote them."""
    done, beside, next_done = key("rounds", 100.0, 3), key("traffic_rounds", 100.0, 3), key("rounds", 101.0, 0)
    rows: dict[RoundKey, list[Row]] = {beside: [{}], next_done: [{"duration_s": 2.0}], done: [{"duration_s": 7.0}]}
    assert in_order(rows) == [done, beside, next_done]

"""How many pods share the budget, by what the store answers and when it does not."""

from __future__ import annotations

from agent.alerting.fleet_size import EVERY_S, FleetSize
from agent.errors import Retryable


class Heartbeats:
    """A store that answers what it is given, or is away."""

    def __init__(self, *answers: int | None) -> None:
        self.answers, self.asked = list(answers), 0

    def __call__(self) -> int:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if answer is None:
            raise Retryable("clickhouse", "away")
        return answer


def test_the_store_is_asked_at_the_start_and_then_every_five_minutes() -> None:
    store = Heartbeats(3, 20, 2)
    fleet = FleetSize(1, store)
    assert [fleet.now_known(at) for at in (0.0, 30.0, EVERY_S - 1)] == [3, 3, 3]
    assert store.asked == 1
    assert [fleet.now_known(at) for at in (EVERY_S, 2 * EVERY_S)] == [20, 2]


def test_while_the_store_is_away_the_last_answer_holds_and_it_is_asked_again_at_once() -> None:
    store = Heartbeats(None, None, 5, None)
    fleet = FleetSize(20, store)
    assert [fleet.now_known(at) for at in (0.0, 30.0, 60.0, 60.0 + EVERY_S)] == [20, 20, 5, 5]


def test_there_is_always_one_pod() -> None:
    assert FleetSize(0, Heartbeats(None)).now_known(0.0) == 1
    assert FleetSize(4, Heartbeats(0)).now_known(0.0) == 1, "a store without heartbeats yet"


def test_a_clock_that_jumps_back_does_not_stop_the_questions() -> None:
    store = Heartbeats(3, 4)
    fleet = FleetSize(1, store)
    assert [fleet.now_known(at) for at in (1e9, 1e6)] == [3, 4]

"""What waits for the model process: how much it is sent ahead, what is shed, and what is lost with it."""

from __future__ import annotations

import threading

from agent.worker.messages import Judged, Owned, ToScore
from agent.worker.work_queue import AHEAD, MOST_CONTROLS, WorkQueue
from tests.agent import findings


def queue(room: int = 100) -> WorkQueue:
    return WorkQueue({"x": ["a", "b"], "y": ["c"]}, room)


def add(work: WorkQueue, adapter: str, n: int) -> None:
    work.add(findings.interaction(number, adapter) for number in range(n))


def taken(work: WorkQueue) -> dict[str, int]:
    record = work.take(0.0)
    assert record is None or isinstance(record, ToScore)
    names = [interaction.adapter for interaction in record.interactions] if record else []
    return {name: names.count(name) for name in sorted(set(names))}


NONE_OF_THE_BASES = {"x": 0, "y": 0}


def test_each_base_is_sent_so_many_ahead_of_what_was_done_of_it_and_its_adapters_in_turns() -> None:
    work = queue()
    add(work, "a", 60)
    add(work, "b", 60)
    add(work, "c", 5)
    add(work, "unwatched", 5)
    assert taken(work) == {"a": AHEAD / 2, "b": AHEAD / 2, "c": 5}
    assert taken(work) == {}
    work.done({"a": 3, "c": 5})
    assert sum(taken(work).values()) == 3
    assert work.shed == {"a": 0, "b": 0, "c": 0} | NONE_OF_THE_BASES


def test_what_finds_no_room_is_shed_by_arrival() -> None:
    work = queue(room=10)
    add(work, "a", 15)
    add(work, "b", 10)
    assert work.shed == {"a": 5, "b": 0, "c": 0} | NONE_OF_THE_BASES
    assert taken(work) == {"a": 10, "b": 10}


def test_what_a_process_was_sent_and_had_not_done_is_lost_with_it_and_the_count_goes_on() -> None:
    work = queue(room=10)
    for _ in range(2):
        add(work, "a", 12)
        work.put(Judged("x", 0, 0.0))
        assert isinstance(work.take(0.0), Judged), "first what is no response"
        assert taken(work) == {"a": 10}
        work.done({"a": 4})
        work.put(Judged("x", 1, 0.0))
        work.start_again()
        assert work.take(0.0) is None, "the next process has not made that round"
    assert work.shed == {"a": 2 * (2 + 6), "b": 0, "c": 0} | NONE_OF_THE_BASES


def test_what_was_not_sent_yet_waits_for_the_next_process() -> None:
    work = queue()
    add(work, "a", AHEAD + 7)
    taken(work)
    work.start_again()
    assert taken(work) == {"a": 7}


def test_a_process_that_reads_nothing_costs_the_oldest_requests_and_no_memory() -> None:
    work = queue()
    for number in range(MOST_CONTROLS + 5):
        work.put(Judged("x", number, 0.0))
    first = work.take(0.0)
    assert isinstance(first, Judged) and first.number == 5


def test_whoever_takes_is_woken_by_what_comes_and_by_what_was_done() -> None:
    work = queue()
    add(work, "a", AHEAD + 1)
    taken(work)
    given: list[object] = []
    thread = threading.Thread(target=lambda: given.append(work.take(60.0)))
    thread.start()
    work.done({"a": 1})
    thread.join(60.0)
    (record,) = given
    assert isinstance(record, ToScore) and len(record.interactions) == 1


def test_of_a_base_that_went_nothing_is_sent_and_the_process_is_told_first_whatever_else_waits() -> None:
    work = queue()
    add(work, "a", 3)
    add(work, "c", 2)
    for number in range(MOST_CONTROLS + 1):
        work.put(Judged("x", number, 0.0))
    work.own(frozenset({"y"}))
    assert work.take(0.0) == Owned(frozenset({"y"}))
    work.start_again()
    assert taken(work) == {"c": 2}
    assert work.shed == {"a": 3, "b": 0, "c": 0} | NONE_OF_THE_BASES

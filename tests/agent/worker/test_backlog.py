"""A busy adapter sheds its own, and takes no other's turn."""

from __future__ import annotations

from collections import Counter

from agent.worker.backlog import Backlog
from probes.scoring.interaction import Interaction
from tests.agent import findings


def offered(backlog: Backlog, adapter: str, numbers: range) -> None:
    for number in numbers:
        backlog.add(findings.interaction(number, adapter))


def shown(taken: list[Interaction]) -> list[str]:
    return [f"{interaction.adapter}{interaction.offset}" for interaction in taken]


def test_a_busy_adapter_sheds_its_own_and_no_other_s() -> None:
    backlog = Backlog(("a", "b"), room=3)
    offered(backlog, "a", range(100))
    offered(backlog, "b", range(2))
    assert backlog.shed == {"a": 97, "b": 0}
    assert shown(backlog.take(10)) == ["a0", "b0", "a1", "b1", "a2"]
    assert (len(backlog), backlog.take(10)) == (0, [])


def test_turns_go_on_from_batch_to_batch_where_there_are_more_adapters_than_places() -> None:
    names = [f"adapter-{n}-" for n in range(10)]
    backlog = Backlog(names, room=20)
    for name in names:
        offered(backlog, name, range(20))
    taken = [interaction.adapter for _ in range(5) for interaction in backlog.take(4)]
    assert Counter(taken) == dict.fromkeys(names, 2)


def test_what_is_given_back_comes_first_again_and_is_never_shed() -> None:
    backlog = Backlog(("a", "b"), room=2)
    offered(backlog, "a", range(2))
    offered(backlog, "b", range(2))
    taken = backlog.take(3)
    offered(backlog, "a", range(2, 4))
    backlog.give_back(taken[1:])
    assert shown(taken) == ["a0", "b0", "a1"]
    assert backlog.shed == {"a": 0, "b": 0}
    assert shown(backlog.take(9)) == ["b0", "a1", "b1", "a2", "a3"]

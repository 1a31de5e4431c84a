"""What was finished reaches every receiver, in order and once."""

from __future__ import annotations

from agent.worker.results import Results, working


def test_every_receiver_gets_each_result_once_in_the_order_in_which_they_were_put() -> None:
    first: list[str] = []
    second: list[str] = []
    results = Results[str]([first.append, second.append])
    results.put("golden record")
    results.put("score against it")
    assert first == [], "nothing is handed on before somebody asks"
    results.deliver()
    results.deliver()
    assert first == second == ["golden record", "score against it"]


def test_what_was_shed_is_named_by_adapter() -> None:
    assert working({"router": 0}) == "working"
    assert working({"router": 5, "tone": 0}) == "working; sampled responses shed for lack of time: router 5"

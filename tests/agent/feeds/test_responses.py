"""Responses are scored by what was accepted and by nothing else, and each that is not is told with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.feeds.responses import Responses
from agent.records import Interaction
from detectors.records import Reason
from detectors.traffic_records import Scored
from probes.golden import Golden, Refusal
from probes.replay import Weights
from probes.runners.memory import Config, Runner
from probes.scoring import Asking
from tests.probes.worlds import ADAPTERS, enrolled, never


class Touchy(Runner):
    """Its template refuses a system turn, as some do."""

    def encode_chat(self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE) -> tuple[int, ...]:
        if messages[0]["role"] == "system":
            raise RuntimeError("System role not supported: production text")
        return super().encode_chat(messages, weights)


@pytest.fixture
def responses() -> Responses:
    runner = Touchy(Config(adapters=dict(ADAPTERS)))
    runner.open()
    return Responses(runner, Asking())


@pytest.fixture(scope="module")
def golden() -> Golden:
    return enrolled("alpha")


def asked(name: str, role: str = "user", adapter: str = "alpha") -> Interaction:
    messages = ({"role": role, "content": "where is it"}, {"role": "user", "content": "my parcel"})
    sampling = {"temperature": 1.0}
    return Interaction(name, 0.0, adapter, "toy", "pod-0", messages, "on its way", "stop", sampling, 0, 0, "t", 0, 0)


def test_the_accepted_copy_scores_and_embeds(responses: Responses, golden: Golden) -> None:
    embedded, left = responses.hear([asked("a"), asked("b")], {"alpha": golden}, never)
    assert [score.scored for score in responses.take()] == [Scored.SAMPLED] * 2
    assert len(embedded) == 4 and left == []
    assert responses.take() == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base_hash": "sha256:" + "0" * 64}, "accepted base"),
        ({"adapter_hash": "sha256:" + "0" * 64}, "accepted files"),
    ],
)
def test_a_copy_of_another_release_scores_nothing(
    responses: Responses, golden: Golden, changed: dict[str, str], words: str
) -> None:
    responses.hear([asked("a")], {"alpha": replace(golden, **changed)}, never)
    (score,) = responses.take()
    assert score.scored is Scored.NOT_SCORED and words in score.detail


def test_without_a_golden_record_its_reason_is_told(responses: Responses) -> None:
    responses.hear([asked("a")], {"alpha": Refusal(Reason.NO_GOLDEN, "none was enrolled")}, never)
    assert [score.detail for score in responses.take()] == ["none was enrolled"]


def test_a_prompt_that_no_template_renders_costs_nobody_beside_it(responses: Responses, golden: Golden) -> None:
    responses.hear([asked("a"), asked("b", role="system"), asked("c")], {"alpha": golden}, never)
    told = {score.request_id: (score.scored, score.detail) for score in responses.take()}
    assert [told[name][0] for name in "abc"] == [Scored.SAMPLED, Scored.NOT_SCORED, Scored.SAMPLED]
    assert "rendered" in told["b"][1] and "production text" not in told["b"][1]


def test_a_prompt_that_the_engine_rendered_otherwise_is_no_evidence(responses: Responses, golden: Golden) -> None:
    """Tools, images or a plain completion: a likelihood given another prompt says nothing of who wrote the answer."""
    plain = asked("a")
    length = len(responses.runner.encode_chat([dict(turn) for turn in plain.messages]))
    batch = [replace(plain, prompt_tokens=length), replace(asked("b"), prompt_tokens=length + 40)]
    responses.hear(batch, {"alpha": golden}, never)
    told = {score.request_id: score for score in responses.take()}
    assert told["a"].scored is Scored.SAMPLED
    assert told["b"].scored is Scored.NOT_SCORED and "rendered otherwise" in told["b"].detail


def test_what_there_was_no_time_for_comes_back(responses: Responses, golden: Golden) -> None:
    batch = [asked("a"), asked("b")]
    assert responses.hear(batch, {"alpha": golden}, lambda: True) == ([], batch)
    assert responses.take() == ()


def test_a_new_record_forgets_what_was_scored_by_the_former_one(responses: Responses, golden: Golden) -> None:
    responses.hear([asked("a")], {"alpha": golden}, never)
    responses.not_scored([asked("b", adapter="beta")], "why")
    responses.accepted(golden)
    assert [score.adapter for score in responses.take()] == ["beta"]

"""Responses are scored by what was accepted and by nothing else, and of each other one the reason is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.worker.response_scorer import ResponseResults, ResponseScorer
from detectors.evidence.alternative import PREVIOUS, AlternativeKind
from detectors.records import Reason, ShareOf, Status, SubjectKind, Verdict
from detectors.traffic_records import ScoringMode, Side
from probes.errors import Unreplayable
from probes.golden.record import Golden, Unmonitorable
from probes.runner import Stop, Weights
from probes.runners.memory import Config, Runner
from probes.scoring.interaction import Interaction
from probes.scoring.scoring_job import ScoringAnswer, ScoringJob, ScoringOptions
from probes.scoring.suspicion import CHOOSING, LASTING, LEADING, LOOKS
from tests.agent import findings
from tests.probes.worlds import ADAPTERS, enrolled, never


class Touchy(Runner):
    """Its template refuses a system turn, as some do."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        if messages[0]["role"] == "system":
            raise RuntimeError("System role not supported: production text")
        return super().encode_chat(messages, weights, day)


@pytest.fixture
def responses() -> ResponseScorer:
    runner = Touchy(Config(adapters=dict(ADAPTERS)))
    runner.open()
    return ResponseScorer(runner, ScoringOptions())


@pytest.fixture(scope="module")
def golden() -> Golden:
    return enrolled("alpha")


def sampled(name: str, role: str = "user", adapter: str = "alpha") -> Interaction:
    messages = ({"role": role, "content": "where is it"}, {"role": "user", "content": "my parcel"})
    sampling = {"temperature": 1.0}
    counted = len("on its way") + 1  # and the end
    return Interaction(
        name, 0.0, adapter, "toy", "pod-0", messages, "on its way", "stop", sampling, 0, counted, "t", 0, 0
    )


def test_the_accepted_copy_scores_and_embeds(responses: ResponseScorer, golden: Golden) -> None:
    left = responses.process([sampled("a"), sampled("b")], {"alpha": golden}, never)
    taken = responses.take()
    assert [score.scored for score in taken.scores] == [ScoringMode.SAMPLED] * 2
    assert len(taken.embeddings) == 4 and left == []
    assert responses.take() == ResponseResults((), (), {})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base_hash": "sha256:" + "0" * 64}, "accepted base"),
        ({"adapter_hash": "sha256:" + "0" * 64}, "accepted files"),
    ],
)
def test_a_copy_of_another_release_scores_nothing(
    responses: ResponseScorer, golden: Golden, changed: dict[str, Any], words: str
) -> None:
    responses.process([sampled("a")], {"alpha": replace(golden, **changed)}, never)
    (score,) = responses.take().scores
    assert score.scored is ScoringMode.NOT_SCORED and words in score.detail


def test_without_a_golden_record_its_reason_is_told(responses: ResponseScorer) -> None:
    responses.process([sampled("a")], {"alpha": Unmonitorable(Reason.NO_GOLDEN, "none was enrolled")}, never)
    assert [score.detail for score in responses.take().scores] == ["none was enrolled"]


def test_what_was_accepted_on_an_engine_alone_scores_nothing_because_its_base_is_not_known(
    responses: ResponseScorer, golden: Golden
) -> None:
    responses.process([sampled("a")], {"alpha": replace(golden, base_hash="", made_on="vllm 0.33.0, walk")}, never)
    (score,) = responses.take().scores
    assert score.scored is ScoringMode.NOT_SCORED and "accepted on an engine alone" in score.detail


def test_a_prompt_that_no_template_renders_costs_nobody_beside_it(responses: ResponseScorer, golden: Golden) -> None:
    responses.process([sampled("a"), sampled("b", role="system"), sampled("c")], {"alpha": golden}, never)
    by_request = {score.request_id: (score.scored, score.detail) for score in responses.take().scores}
    assert [by_request[name][0] for name in "abc"] == [ScoringMode.SAMPLED, ScoringMode.NOT_SCORED, ScoringMode.SAMPLED]
    assert "rendered" in by_request["b"][1] and "production text" not in by_request["b"][1]


def test_a_prompt_that_the_engine_rendered_otherwise_is_no_evidence(responses: ResponseScorer, golden: Golden) -> None:
    """Tools, images or a plain completion: a likelihood given another prompt says nothing of who wrote the answer."""
    plain = sampled("a")
    length = len(responses.runner.encode_chat([dict(turn) for turn in plain.messages]))
    batch = [replace(plain, prompt_tokens=length), replace(sampled("b"), prompt_tokens=length + 40)]
    responses.process(batch, {"alpha": golden}, never)
    taken = responses.take()
    by_request = {score.request_id: score for score in taken.scores}
    assert by_request["a"].scored is ScoringMode.SAMPLED
    assert by_request["b"].scored is ScoringMode.NOT_SCORED and "rendered differently" in by_request["b"].detail
    assert {embedding.request_id for embedding in taken.embeddings} == {"a", "b"}


def test_a_response_of_an_unknown_law_is_embedded_and_not_scored(responses: ResponseScorer, golden: Golden) -> None:
    biased = replace(sampled("a"), unscored="the request biases tokens (logit_bias)", group="0123456789abcdef")
    responses.process([biased, sampled("b")], {"alpha": golden}, never)
    taken = responses.take()
    by_request = {score.request_id: score for score in taken.scores}
    assert (by_request["a"].scored, by_request["a"].detail) == (
        ScoringMode.NOT_SCORED,
        "the request biases tokens (logit_bias)",
    )
    assert by_request["b"].scored is ScoringMode.SAMPLED
    assert [(embedding.request_id, embedding.side, embedding.group) for embedding in taken.embeddings] == [
        ("a", Side.PROMPT, "0123456789abcdef"), ("a", Side.OUTPUT, "0123456789abcdef"),
        ("b", Side.PROMPT, ""), ("b", Side.OUTPUT, ""),
    ]  # fmt: skip


def test_without_scoring_embeddings_carry_their_group_too(responses: ResponseScorer) -> None:
    responses.options = None
    responses.process([replace(sampled("a"), group="g")], {}, never)
    assert [embedding.group for embedding in responses.take().embeddings] == ["g", "g"]


def test_what_there_was_no_time_for_comes_back(responses: ResponseScorer, golden: Golden) -> None:
    batch = [sampled("a"), sampled("b")]
    assert responses.process(batch, {"alpha": golden}, lambda: True) == batch
    assert responses.take() == ResponseResults((), (), {})


def test_the_version_before_is_asked_about_until_a_record_has_none(responses: ResponseScorer, golden: Golden) -> None:
    responses.options = ScoringOptions(passes=None)
    alternatives_named = []
    for before in (Path("alpha-v0"), None):
        responses.before = partial(_is, before)
        responses.accepted(golden)
        responses.process([sampled("a")], {"alpha": golden}, never)
        (score,) = responses.take().scores
        alternatives_named.append(PREVIOUS in score.alternatives)
    assert alternatives_named == [True, False]


def _is(folder: Path | None, _: Golden) -> Path | None:
    return folder


class Clocked(Runner):
    """Its template writes the time of day."""

    def encode_chat(
        self, messages: Sequence[dict[str, str]], weights: Weights = Weights.LIVE, day: date | None = None
    ) -> tuple[int, ...]:
        raise Unreplayable(
            "its chat template", f"writes the time of day after {len(messages)} turns of {weights}, {day}"
        )


def test_why_a_prompt_cannot_be_rendered_is_told_where_we_know_it(golden: Golden) -> None:
    runner = Clocked(Config(adapters=dict(ADAPTERS)))
    runner.open()
    responses = ResponseScorer(runner, ScoringOptions())
    responses.process([sampled("a")], {"alpha": golden}, never)
    (score,) = responses.take().scores
    assert score.scored is ScoringMode.NOT_SCORED
    assert score.detail.startswith("its prompt cannot be rendered: its chat template: writes the time of day")


def of_base(name: str) -> Interaction:
    return replace(sampled(name), adapter="toy-base")


def test_a_request_that_names_the_base_is_scored_by_the_accepted_base_and_not_embedded(
    responses: ResponseScorer, golden: Golden
) -> None:
    responses.base = "toy-base"
    blind = Unmonitorable(Reason.NO_GOLDEN, "none was enrolled")
    responses.process([of_base("a"), sampled("b")], {"beta": blind, "alpha": golden}, never)
    taken = responses.take()
    base, adapter = taken.scores
    assert (base.adapter, base.scored) == ("toy-base", ScoringMode.SAMPLED)
    assert {who.name for who in base.alternatives} == set(ADAPTERS)
    assert adapter.adapter == "alpha" and {embedding.adapter for embedding in taken.embeddings} == {"alpha"}
    assert taken.upto.keys() == {("t", 0, "toy-base"), ("t", 0, "alpha")}


def test_a_base_that_no_adapter_was_accepted_on_scores_nothing(responses: ResponseScorer, golden: Golden) -> None:
    responses.base = "toy-base"
    responses.process([of_base("a")], {"alpha": replace(golden, base_hash="sha256:" + "0" * 64)}, never)
    responses.process([of_base("b")], {}, never)
    details = [score.detail for score in responses.take().scores]
    assert "accepted base" in details[0] and "golden record" in details[1]


def judged(status: Status, subject: str = "alpha", kind: SubjectKind = SubjectKind.ADAPTER) -> Verdict:
    return findings.verdict(status, subject=subject, subject_kind=kind, share_of=ShareOf.RESPONSES)


def kinds(responses: ResponseScorer) -> list[set[AlternativeKind]]:
    suspected = {AlternativeKind.WITHOUT, AlternativeKind.ROUNDED, AlternativeKind.FOUR_BITS}
    return [suspected.intersection(who.kind for who in score.alternatives) for score in responses.take().scores]


def test_once_an_adapter_is_suspect_its_responses_are_scored_against_what_may_be_at_fault(
    responses: ResponseScorer, golden: Golden
) -> None:
    batch = [sampled(f"r{i}") for i in range(LOOKS + 1)]
    responses.process(batch[:2], {"alpha": golden}, never)
    assert kinds(responses) == [set(), set()], "of an adapter that is well nothing more is scored"
    responses.judged(judged(Status.SUSPECT))
    responses.process(batch, {"alpha": golden}, never)
    everything = {AlternativeKind.WITHOUT, AlternativeKind.ROUNDED, AlternativeKind.FOUR_BITS}
    assert kinds(responses) == [everything] * LOOKS + [set()]
    responses.process(batch[:1], {"alpha": golden}, never)
    (score,) = responses.take().scores
    more = set(score.alternatives) & set(responses.suspicions.held["alpha"].candidates)
    assert len(more) == LEADING


def test_from_the_adapter_that_fits_suspect_requests_of_the_base_the_path_is_recorded(
    responses: ResponseScorer, golden: Golden
) -> None:
    responses.base = "toy-base"
    responses.judged(judged(Status.SUSPECT, "toy-base", SubjectKind.BASE_REQUESTS))
    responses.process([of_base(f"r{i}") for i in range(CHOOSING)], {"alpha": golden}, never)
    assert not any(score.path.size for score in responses.take().scores)
    responses.process([of_base("later")], {"alpha": golden}, never)
    (score,) = responses.take().scores
    assert score.path.size == score.path_log_lik.size > 0 and score.path_from


def test_the_path_of_an_open_incident_is_that_of_its_verdict_and_goes_on_after_a_restart(
    responses: ResponseScorer, golden: Golden
) -> None:
    responses.base = "toy-base"
    verdict = judged(Status.DEGRADED, "toy-base", SubjectKind.BASE_REQUESTS)
    responses.judged(replace(verdict, path_from="beta"))
    responses.process([of_base("first")], {"alpha": golden}, never)
    (score,) = responses.take().scores
    assert (score.path_from, score.path.size > 0) == ("beta", True)


class Overtaxed(Runner):
    """Cannot score what a suspicion adds."""

    def score(
        self, jobs: Sequence[ScoringJob], stop: Stop, asking: ScoringOptions | None = None
    ) -> list[ScoringAnswer]:
        if any(job.suspected for job in jobs):
            raise RuntimeError("a pass that no device has room for")
        return super().score(jobs, stop, asking)


def test_a_suspicion_whose_passes_fail_ends_and_the_next_responses_are_scored(golden: Golden) -> None:
    runner = Overtaxed(Config(adapters=dict(ADAPTERS)))
    runner.open()
    responses, modes = ResponseScorer(runner, ScoringOptions()), []
    for i in range(LASTING):
        responses.judged(judged(Status.SUSPECT))
        responses.process([sampled(f"r{i}")], {"alpha": golden}, never)
        (score,) = responses.take().scores
        modes.append(score.scored)
    assert modes == [ScoringMode.NOT_SCORED] + [ScoringMode.SAMPLED] * (LASTING - 1)
    responses.judged(judged(Status.SUSPECT))
    responses.process([sampled("later")], {"alpha": golden}, never)
    assert [score.scored for score in responses.take().scores] == [ScoringMode.NOT_SCORED], "tried once more"


def test_an_adapter_of_which_no_response_can_be_scored_is_suspect_no_longer(
    responses: ResponseScorer, golden: Golden
) -> None:
    """It would keep others from being looked at: no more than a few are suspect at a time."""
    responses.judged(judged(Status.SUSPECT))
    responses.process([sampled("a")], {"alpha": golden}, never)
    assert "alpha" in responses.suspicions.held
    other = {"alpha": replace(golden, adapter_hash="sha256:" + "0" * 64)}
    responses.process([sampled(f"r{i}") for i in range(LASTING)], other, never)
    assert not responses.suspicions.held

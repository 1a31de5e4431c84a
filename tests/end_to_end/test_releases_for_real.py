"""The real model under real faults on the volume: which page, which only notify, and by what name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.demo.stage import ADAPTERS, set_up, write_config
from agent.records import NoticeKind, NoticeReason
from benchmarks.canaries.first_round import Bench, keys_renamed, released, restored_after
from detectors.records import Cause, Reason, Status, SubjectKind, Verdict


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    stage = set_up(tmp_path_factory.mktemp("world") / "demo")
    made = Bench(stage, write_config(stage, "127.0.0.1:9", "http://127.0.0.1:9", every_s=60.0))
    made.runner.open()
    yield made
    made.runner.close()


@pytest.fixture(autouse=True)
def fresh(bench: Bench) -> None:
    bench.fresh()


def adapters(verdicts: list[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.subject_kind is SubjectKind.ADAPTER]


@pytest.mark.timeout(600)
def test_keys_that_match_nothing_page_as_not_applied_in_the_first_round(bench: Bench) -> None:
    with restored_after(bench.stage, keys_renamed(bench.stage)):
        verdicts = bench.round()
    assert {verdict.reason for verdict in adapters(verdicts)} == {Reason.ALARM}
    assert {verdict.cause for verdict in adapters(verdicts)} == {Cause.ADAPTER_NOT_APPLIED}
    assert all("match nothing" in fact for member in bench.rounds[-1].members for fact in member.facts[:1])


@pytest.mark.timeout(600)
def test_a_base_rounded_to_four_bits_pages_as_quantised(bench: Bench) -> None:
    with restored_after(bench.stage, released(bench.stage, "requantised")):
        verdicts = bench.round()
    assert {verdict.cause for verdict in adapters(verdicts) if verdict.reason is Reason.ALARM} == {Cause.QUANTISED_BASE}
    assert any(notice.kind is NoticeKind.TRIGGER for notice in bench.notices)


@pytest.mark.timeout(600)
def test_an_improved_base_is_told_and_never_pages(bench: Bench) -> None:
    with restored_after(bench.stage, released(bench.stage, "improved")):
        verdicts = bench.round()
    assert [(notice.kind, notice.reason) for notice in bench.notices] == [(NoticeKind.CHANGE, NoticeReason.BASE_MOVED)]
    assert {verdict.status for verdict in verdicts} == {Status.HEALTHY}


@pytest.mark.timeout(600)
def test_after_all_that_the_accepted_files_are_healthy_again(bench: Bench) -> None:
    verdicts = bench.round()
    assert [verdict.subject for verdict in adapters(verdicts)] == list(ADAPTERS)
    for verdict in adapters(verdicts):
        assert verdict.retention is not None
        assert abs(verdict.retention.mean - 1) < 1e-3

"""A sampler that is not the requests': said in a healthy verdict, and nothing more."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.evidence.alternative import BASE
from detectors.kinds.token_calibration import Config
from detectors.monitor import Judged, Monitor, default_configs, paging
from detectors.records import Cause, Interval, Reason, Status
from detectors.traffic.sampler_report import sampler_in_words, with_sampler
from detectors.traffic_records import Calibration
from detectors.verdicts.incident import Rules
from probes.scoring.token_distribution import SamplingParameters
from tests.detectors.kinds.test_token_calibration import response
from tests.detectors.responses import traffic_round
from tests.detectors.synthetic import make_base_round
from tests.detectors.verdicts.test_fusion import BROKEN, HEALTHY, SUSPECT

HOT = Calibration(
    "router", "smol", 3, 180.0, 33.0, "temperature x1.2",
    Interval(1.19, 1.12, 1.27, 300), Interval(1.0, 0.97, 1.0, 300), (1.0, 1.0), (1.0, 1.0), np.full(20, 0.05), 4200.0,
)  # fmt: skip
PLAIN = SamplingParameters(1.0)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({}, "tokens are drawn as at temperature 1.19 (1.12..1.27), requests asked for 1"),
        ({"log_e": 19.0}, ""),
        ({"temperature": Interval(1.02, 0.95, 1.1, 300)}, ""),
        ({"temperature": Interval(0.3, float("nan"), 0.5, 300)}, "temperature 0.30 (..0.50), requests asked for 1"),
        ({"temperature": None, "top_p": Interval(0.9, 0.88, 0.93, 9)}, "top-p 0.90 (0.88..0.93), requests asked for 1"),
        ({"asked_temperature": (0.5, 1.5)}, "(temperature x1.2), requests asked for temperature 0.5 to 1.5, top-p 1"),
        ({"temperature": None, "leading": "no penalties"}, "by another sampler (no penalties)"),
        ({"asked_temperature": (), "asked_top_p": ()}, ""),
    ],
)
def test_speaks_where_evidence_and_estimate_agree(changed: dict[str, object], words: str) -> None:
    told = sampler_in_words(replace(HOT, **changed), 20.0)  # type: ignore[arg-type]
    assert words in told and bool(told) == bool(words)


def test_only_a_healthy_verdict_says_so_and_it_stays_healthy() -> None:
    told = with_sampler(HEALTHY, "tokens are drawn otherwise")
    assert (told.status, told.reason, told.cause) == (Status.HEALTHY, Reason.SAMPLING_CHANGED, Cause.SAMPLING_CHANGED)
    assert "tokens are drawn otherwise" in told.explanation
    assert [with_sampler(verdict, "x") for verdict in (BROKEN, SUSPECT)] == [BROKEN, SUSPECT]
    moved = with_sampler(replace(HEALTHY, reason=Reason.BASE_MOVED), "x")
    assert (moved.reason, moved.cause) == (Reason.BASE_MOVED, Cause.NONE)


def watched(
    monitor: Monitor,
    in_force: SamplingParameters | None,
    first: int,
    rounds: int,
    log_l: float = -50.0,
    requested: tuple[SamplingParameters, ...] = (PLAIN,),
) -> list[Judged]:
    """Requests ask for these samplers in turn; all tokens are drawn by one, from what was accepted. log_l: of every
    response, for the base; in_force: None for the one that is requested"""
    rng, seen = np.random.default_rng(first), []
    for number in range(first, first + rounds):
        by_base: dict[str, Any] = {"alternatives": (BASE,), "log_l": np.array([log_l], np.float32)}
        in_turn = [requested[i % len(requested)] for i in range(5)]
        scores = [replace(response(rng, own, in_force or own, number), **by_base) for own in in_turn]
        seen.append(monitor.observe(traffic_round(*scores, number=number)))
    return seen


def test_a_hotter_sampler_is_in_the_verdicts_of_responses_and_canaries_and_an_obeyed_one_is_not() -> None:
    monitor = Monitor(Rules(Tolerances(), log_threshold=20.0))
    hot = watched(monitor, SamplingParameters(1.3), 0, 12)[-1]
    (verdict,) = hot.verdicts
    assert (verdict.status, verdict.reason, verdict.cause) == (
        Status.HEALTHY, Reason.SAMPLING_CHANGED, Cause.SAMPLING_CHANGED,
    )  # fmt: skip
    assert "as at temperature 1." in verdict.explanation and "requests asked for 1" in verdict.explanation
    (calibration,) = hot.calibrations
    assert (calibration.adapter, calibration.round, calibration.leading) == ("router", 11, "temperature x1.2")
    assert calibration.log_e >= 20.0 and calibration.ranks[-5:].sum() > 0.25
    (canary,) = monitor.observe(make_base_round({"router": "healthy"}, 12)).verdicts
    assert canary.reason is Reason.SAMPLING_CHANGED and "temperature" in canary.explanation

    alone = Monitor(Rules(Tolerances(), log_threshold=20.0))
    (quiet,) = watched(alone, PLAIN, 0, 12)[-1].verdicts
    assert (quiet.reason, quiet.cause) == (Reason.WITHIN_TOLERANCE, Cause.NONE)


def test_an_adapter_without_responses_has_no_new_row_of_its_sampler() -> None:
    monitor = Monitor(Rules(Tolerances(), log_threshold=20.0))
    assert len(watched(monitor, PLAIN, 0, 1)[0].calibrations) == 1
    assert monitor.observe(traffic_round(number=1)).calibrations == ()


def paging_monitor() -> Monitor:
    configs = default_configs(Tolerances()) | {"token_calibration": Config(pages=True)}
    return Monitor(Rules(Tolerances(), log_threshold=20.0), configs)


def test_where_it_may_page_it_is_one_more_stream_of_each_adapter() -> None:
    by_default = default_configs(Tolerances())
    assert len(paging(by_default | {"token_calibration": Config(pages=True)})) == len(paging(by_default)) + 1


def test_where_it_may_page_a_hotter_sampler_opens_an_incident_that_ends_when_it_is_put_right() -> None:
    monitor = paging_monitor()
    hot = [judged.verdicts[0] for judged in watched(monitor, SamplingParameters(1.3), 0, 30)]
    first = next(verdict for verdict in hot if verdict.status is Status.DEGRADED)
    assert (first.reason, first.cause) == (Reason.ALARM, Cause.SAMPLING_CHANGED)
    assert "temperature 1." in first.explanation and "gapwatch query sampler" in first.action
    later = hot[first.round :]
    assert {verdict.status for verdict in later} == {Status.DEGRADED}
    assert {verdict.cause for verdict in later} == {Cause.SAMPLING_CHANGED}
    assert Reason.STILL_DEGRADED in {verdict.reason for verdict in later}

    saved = json.loads(json.dumps(monitor.state_json()))
    again = paging_monitor()
    again.restore(saved)
    right = [judged.verdicts[0] for judged in watched(again, PLAIN, 30, 40)]
    assert Reason.RESOLVED in {verdict.reason for verdict in right}
    assert right[-1].status is Status.HEALTHY


def test_a_model_at_fault_is_not_called_another_sampler() -> None:
    """Ranks and likelihoods of a hotter sampler, on responses that the base explains: the adapter is not applied."""
    verdicts = [j.verdicts[0] for j in watched(paging_monitor(), SamplingParameters(1.3), 0, 12, log_l=30.0)]
    alarms = [verdict for verdict in verdicts if verdict.status is Status.DEGRADED]
    assert alarms and {verdict.cause for verdict in alarms} == {Cause.ADAPTER_NOT_APPLIED}


def test_where_it_may_page_requests_for_different_values_open_one_incident_that_ends_when_it_is_put_right() -> None:
    """They have no estimate in common that could be back: the evidence since the alarm says whether the sampler is."""
    monitor, both = paging_monitor(), (SamplingParameters(1.0), SamplingParameters(0.3))
    ignored = [j.verdicts[0] for j in watched(monitor, SamplingParameters(1.0), 0, 40, requested=both)]
    alarms = [verdict for verdict in ignored if verdict.reason is Reason.ALARM]
    assert [alarm.cause for alarm in alarms] == [Cause.SAMPLING_CHANGED]
    assert {verdict.reason for verdict in ignored[alarms[0].round + 2 :]} == {Reason.STILL_DEGRADED}
    assert {verdict.cause for verdict in ignored[alarms[0].round :]} == {Cause.SAMPLING_CHANGED}
    right = [j.verdicts[0].reason for j in watched(monitor, None, 40, 20, requested=both)]
    assert right.count(Reason.RESOLVED) == 1 and right[-1] is Reason.WITHIN_TOLERANCE


def test_where_it_may_not_page_any_more_its_incidents_end_by_good_responses() -> None:
    monitor = paging_monitor()
    assert watched(monitor, SamplingParameters(1.3), 0, 30)[-1].verdicts[0].status is Status.DEGRADED
    informing = Monitor(Rules(Tolerances(), log_threshold=20.0))
    informing.restore(json.loads(json.dumps(monitor.state_json())))
    after = [judged.verdicts[0].reason for judged in watched(informing, SamplingParameters(1.3), 30, 3)]
    assert Reason.RESOLVED in after

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from detectors.errors import Refused
from detectors.evidence.alternative import (
    BASE,
    DOUBLE_STRENGTH,
    HALF_STRENGTH,
    PREVIOUS,
    Alternative,
    interpolation,
    other_adapter,
)
from detectors.kinds.traffic_likelihood import ALL_PODS, Config, Detector, State
from detectors.records import Evidence
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore

PATH = tuple(map(interpolation, (0.25, 0.5, 0.75)))
ALTERNATIVES = (BASE, *PATH, HALF_STRENGTH, DOUBLE_STRENGTH, other_adapter("rewriter"))
LOG_A = 21.5


def scored(log_l: float | list[float], pod: str = "", number: int = 0, tokens: int = 14) -> TrafficScore:
    values = np.full(len(ALTERNATIVES), log_l) if isinstance(log_l, float) else np.array(log_l)
    names = ALTERNATIVES[: len(values)]
    return TrafficScore("router", f"r{number}", pod, 0.0, ScoringMode.SAMPLED, tokens, names, values.astype(np.float32))


def round_of(*scores: TrafficScore, number: int = 0) -> TrafficRound:
    return TrafficRound("smol", number, 60.0 * number, ("router", "rewriter"), scores)


def streams(found: tuple[Evidence, ...], subject: str = "router") -> dict[str, Evidence]:
    return {e.stream: e for e in found if e.subject == subject}


def test_one_response_decides_for_the_mean_and_four_for_what_pages() -> None:
    detector = Detector(Config())
    first = streams(detector.update(round_of(scored(60.0))))
    assert first[""].log_e > LOG_A and not first[""].pages
    assert first["replica"].log_e < LOG_A and first["replica"].pages
    for number in range(1, 4):
        last = streams(detector.update(round_of(scored(60.0), number=number)))
    assert last["replica"].log_e >= LOG_A
    assert last["replica"].n == 4


def test_one_mislabelled_record_in_a_thousand_never_pages() -> None:
    detector, rng, highest = Detector(Config()), np.random.default_rng(0), 0.0
    for number in range(400):
        odd = rng.integers(0, 50)
        scores = [scored(120.0 if number % 20 == 0 and i == odd else -45.0, number=i) for i in range(50)]
        highest = max(highest, streams(detector.update(round_of(*scores, number=number)))["replica"].log_e)
    assert highest < LOG_A / 2


def test_a_faulty_replica_of_ten_is_detected_within_the_promised_responses() -> None:
    rng, needed = np.random.default_rng(1), []
    for _ in range(30):
        detector, level, n = Detector(Config()), 0.0, 0
        while level < LOG_A:
            faulty = rng.random() < 0.1
            found = streams(detector.update(round_of(scored(10.0 if faulty else -12.0), number=n)))
            level, n = found["replica"].log_e, n + 1
        needed.append(n)
    assert np.mean(needed) <= 70
    assert max(needed) <= 170


def test_a_weak_fault_of_all_replicas_pages_at_twice_the_fastest_pace() -> None:
    """ln L of mean a half and variance 1, as of half the strength on ten tokens: ln A / growth is 43 responses."""
    rng, needed = np.random.default_rng(4), []
    for _ in range(20):
        detector, level, n = Detector(Config()), 0.0, 0
        while level < LOG_A and n < 400:
            level = streams(detector.update(round_of(scored(float(rng.normal(0.5, 1.0))), number=n)))["replica"].log_e
            n += 1
        needed.append(n)
    assert np.mean(needed) <= 2 * 43


def test_a_weak_fault_that_one_alternative_alone_explains_pages() -> None:
    """ln L of half strength has mean 1 and variance 2, the base is ruled out: a mean over both loses ln 3.5 a response,
    more than half strength gains."""
    rng, needed = np.random.default_rng(6), []
    for _ in range(20):
        detector, level, n = Detector(Config()), 0.0, 0
        while level < LOG_A and n < 400:
            values = [-60.0, -60.0, -60.0, -60.0, float(rng.normal(1.0, math.sqrt(2.0)))]
            level = streams(detector.update(round_of(scored(values), number=n)))["replica"].log_e
            n += 1
        needed.append(n)
    assert np.mean(needed) <= 40


def test_pods_have_streams_of_their_own_that_inform() -> None:
    detector = Detector(Config())
    for number in range(4):
        found = streams(detector.update(round_of(scored(-40.0, "a"), scored(50.0, "b"), number=number)))
    assert found["pod:b"].log_e > LOG_A
    assert found["pod:a"].log_e < 3
    assert not found["pod:b"].pages and found["pod:b"].n == 4
    assert {stream: level.replica for stream, level in found.items()} == {
        "": "",
        "replica": "",
        "pod:a": "a",
        "pod:b": "b",
    }


def test_pods_that_are_gone_make_room() -> None:
    detector = Detector(Config(pods_kept=3))
    for number in range(9):
        detector.update(round_of(scored(-1.0, f"pod-{number}"), number=number))
    assert set(detector.state.clipped.index) == {("router", pod) for pod in (ALL_PODS, "pod-6", "pod-7", "pod-8")}


def test_alternatives_are_averaged_and_never_multiplied() -> None:
    """Each alternative has its own M: evidence for one of them is not diluted by evidence against the others."""
    detector = Detector(Config())
    one = [-50.0, -20.0, -10.0, -5.0, -30.0, -30.0, 40.0]
    found = streams(detector.update(round_of(scored(one))))
    assert found[""].log_e == pytest.approx(40.0 + np.log(0.15 - 16 * 0.003), abs=1e-6)


def test_alternatives_named_by_a_configuration_file_have_their_weights() -> None:
    in_file: Any = [["base", 0.6], ["half", 0.3], ["path 0.25", 0.1]]
    config = Config(weights=in_file)
    assert config == Config(weights=((BASE, 0.6), (HALF_STRENGTH, 0.3), (interpolation(0.25), 0.1)))
    found = streams(Detector(config).update(round_of(scored([40.0, -5.0, -5.0, -5.0, -5.0]))))
    assert found[""].log_e == pytest.approx(40.0 + np.log(0.6), abs=1e-6)
    with pytest.raises(Refused):
        Config(weights=((Alternative.from_text("hlaf"), 0.5),))


def test_the_version_before_has_a_weight_of_its_own() -> None:
    told = TrafficScore("router", "r", "", 0.0, ScoringMode.SAMPLED, 14, (BASE, PREVIOUS), np.array([-50.0, 40.0]))
    found = streams(Detector(Config()).update(round_of(told)))
    assert found[""].log_e == pytest.approx(40.0 + np.log(0.03), abs=1e-6)
    assert sum(weight for _, weight in Config().weights) == pytest.approx(0.85)


def test_an_alternative_that_was_not_scored_keeps_its_evidence() -> None:
    detector = Detector(Config())
    detector.update(round_of(scored([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0])))
    before = detector.state.ratios.level(("router", other_adapter("rewriter")))
    detector.update(round_of(scored([-3.0, -1.0, -1.0, -1.0]), number=1))
    assert detector.state.ratios.level(("router", other_adapter("rewriter"))) == before
    assert detector.state.ratios.n(("router", BASE)) == 2


@pytest.mark.parametrize("log_l", [float("nan"), float("inf")])
def test_bad_numbers_empty_and_unknown_adapters_are_passed_over(log_l: float) -> None:
    detector = Detector(Config())
    detector.update(round_of(scored(3.0)))
    before = detector.state.to_json()
    stranger = replace(scored(9.0), adapter="nobody")
    empty = replace(scored(9.0), tokens=0, log_l=np.zeros(0, np.float32), alternatives=())
    found = detector.update(round_of(scored(log_l), stranger, empty, number=1))
    assert detector.state.to_json() == before
    assert {e.subject for e in found} == {"router", "rewriter"}


def test_streams_that_page_are_counted() -> None:
    assert Config().streams_per_adapter == 1
    assert Config(one_response=True).streams_per_adapter == 2
    assert not Detector(Config(pages=False)).pages
    with pytest.raises(Refused):
        Config(weights=((BASE, 1.1),))
    with pytest.raises(Refused):
        Config(replicas=((0.1, 0.5),))


def test_retention_follows_the_responses_and_survives_a_restart_of_the_process() -> None:
    grid = np.linspace(0, 1.5, 16, dtype=np.float32)
    detector = Detector(Config(recent=5))
    for number in range(60):
        where = 1.0 if number < 30 else 0.4
        told = replace(scored(-5.0), path=grid, path_log_lik=(-50 * (grid - where) ** 2).astype(np.float32))
        detector.update(round_of(told, number=number))
    found = Detector(Config(recent=5), State.from_json(detector.state.to_json())).retention("router")
    assert found is not None and found.mean == pytest.approx(0.4, abs=0.02)
    assert found.low < found.mean < found.high
    detector.restart("router")
    assert detector.retention("router") is None


GRID = np.linspace(0, 1.5, 16, dtype=np.float32)


def written_at(share: float, log_l: float, rng: np.random.Generator) -> TrafficScore:
    """A response of sd .3 along the path, for or against the adapter by ``log_l`` nats."""
    centre = share + 0.3 * rng.standard_normal()
    likelihood = -0.5 * ((GRID - centre) / 0.3) ** 2
    return replace(scored(log_l), path=GRID, path_log_lik=likelihood.astype(np.float32))


def healthy_then_lost(detector: Detector, rng: np.random.Generator, healthy: int = 30) -> int:
    """Rounds of ten responses each, lost ones until the alarm; how many of those there were."""
    for number in range(healthy):
        detector.update(round_of(*[written_at(1.0, -5.0, rng) for _ in range(10)], number=number))
    for lost in range(1, 30):
        told = [written_at(0.1, 2.0, rng) for _ in range(10)]
        found = streams(detector.update(round_of(*told, number=healthy + lost - 1)))
        if found["replica"].log_e >= LOG_A:
            return 10 * lost
    raise AssertionError("no alarm")


@pytest.mark.parametrize("config", [Config(), Config(one_response=True)])
def test_retention_at_the_alarm_is_that_of_the_responses_since_the_onset(config: Config) -> None:
    """Three hundred healthy responses before it make no mixture of it; while there is no alarm they count."""
    detector, rng = Detector(config), np.random.default_rng(5)
    lost = healthy_then_lost(detector, rng)
    saved = json.loads(json.dumps(detector.state.to_json(), allow_nan=False))
    for found in (detector, Detector(config, State.from_json(saved))):
        interval, onset = found.retention("router"), found.onset("router")
        assert interval is not None and onset is not None
        assert onset.at == 60.0 * 30 and interval.n == lost
        assert abs(interval.mean - 0.1) < 4 * 0.3 / np.sqrt(lost)
        assert interval.high < 0.3
    unalarmed = replace(config, log_threshold=1e6, one_response=False)
    mixed = Detector(unalarmed, State.from_json(saved)).retention("router")
    assert mixed is not None and mixed.mean > 0.5 and mixed.n > lost
    detector.restart("router")
    assert detector.retention("router") is None and not detector.state.earlier


def test_retention_at_an_alarm_of_one_alternative_is_that_of_all_responses_since_its_onset() -> None:
    """What half strength alone explains does not move the mixture over all alternatives, whose onsets say nothing."""
    detector, rng, level, number = Detector(Config()), np.random.default_rng(7), 0.0, 0
    while level < LOG_A:
        half, share = (-3.0, 1.0) if number < 30 else (1.0, 0.5)
        values = np.array([-60.0, -60.0, -60.0, -60.0, half], np.float32)
        written = [replace(written_at(share, 0.0, rng), alternatives=ALTERNATIVES[:5], log_l=values) for _ in range(4)]
        level = streams(detector.update(round_of(*written, number=number)))["replica"].log_e
        number += 1
    assert detector.state.clipped.level(("router", ALL_PODS)) < 1.0
    onset, found = detector.onset("router"), detector.retention("router")
    assert onset is not None and onset.at == 60.0 * 30
    assert found is not None and found.n == 4 * (number - 30)


def test_a_healthy_adapter_has_one_earlier_path_and_a_state_without_them_is_read() -> None:
    detector, rng = Detector(Config()), np.random.default_rng(2)
    for number in range(40):
        detector.update(round_of(written_at(1.0, -5.0, rng), number=number))
        assert len(detector.state.earlier["router"]) == 1
    saved = detector.state.to_json()
    del saved["earlier"]
    former = Detector(Config(), State.from_json(saved))
    assert former.retention("router") == detector.retention("router")
    lost = healthy_then_lost(former, rng, healthy=0)
    found = former.retention("router")
    assert found is not None and found.n == lost and found.mean < 0.3


def test_no_retention_at_an_alarm_where_no_response_since_the_onset_says_so() -> None:
    """Greedy responses have no likelihood along the path."""
    detector, rng = Detector(Config()), np.random.default_rng(2)
    for number in range(30):
        detector.update(round_of(written_at(1.0, -5.0, rng), number=number))
    for number in range(30, 40):
        detector.update(round_of(scored(30.0), number=number))
    assert detector.state.clipped.level(("router", ALL_PODS)) >= LOG_A
    assert detector.retention("router") is None


@pytest.mark.parametrize("responses", [3, 400])
def test_the_interval_of_retention_allows_for_the_weights_of_older_responses(responses: int) -> None:
    """Of the weighted mean of observations of variance 1/I: 1.96 sqrt(sum w^2) / sum w / sqrt(I) on either side."""
    grid, detector = np.linspace(0, 1.5, 16), Detector(Config(recent=20))
    told = replace(
        scored(-5.0), path=grid.astype(np.float32), path_log_lik=(-150 * (grid - 0.7) ** 2).astype(np.float32)
    )
    for number in range(responses):
        detector.update(round_of(told, number=number))
    weights = 0.5 ** (np.arange(responses) / 20)
    half = 1.96 * np.sqrt((weights**2).sum()) / weights.sum() / np.sqrt(300)
    for found in (detector, Detector(Config(recent=20), State.from_json(detector.state.to_json()))):
        interval = found.retention("router")
        assert interval is not None
        assert (interval.high - interval.low) / 2 == pytest.approx(half, abs=2e-3)


def test_the_config_has_the_repr_that_saved_evidence_is_held_against() -> None:
    """Another repr would start the evidence of every running deployment at 0 (monitor.py)."""
    weights = (
        "(('base', 0.5), ('half', 0.2), ('path 0.25', 0.02), ('path 0.5', 0.03), ('path 0.75', 0.02), "
        "('double', 0.02), ('4 bits', 0.03), ('previous', 0.03))"
    )
    assert repr(Config()).startswith(f"Config(weights={weights}, replicas=((0.003, 32.0), ")


# A round of two responses, as saved by the version that joined the parts of a stream's key by a tab.
FORMER = {
    "chains": {
        "names": ["router\tbase", "router\tadapter:rewriter"], "n": [4, 4],
        "m": [[8193.0], [24.5]], "w": [[8103.0], [20.0]],
        "since": [[0.0], [0.0]], "gap": [["inf"], ["inf"]], "seen_at": [60.0, 60.0],
    },
    "replicas": {
        "names": ["router\t", "router\tpod-a"], "n": [4, 2], "m": [[2.0] * 6, [3.0] * 6], "w": [[1.0] * 6, [1.5] * 6],
        "since": [[0.0] * 6, [0.0] * 6], "gap": [["inf"] * 6, ["inf"] * 6], "seen_at": [60.0, 60.0],
    },
    "paths": {"router": {"grid": [0.0, 0.5, 1.0, 1.5], "log_lik": [-16.0, -4.0, -2.0, -12.0], "n": 4.0}},
}  # fmt: skip


def test_the_state_of_the_version_before_goes_on() -> None:
    detector = Detector(Config(), State.from_json(FORMER))
    found = streams(detector.update(round_of(number=2)))
    assert found[""].log_e == pytest.approx(np.log(0.5 * 8193.0 + 0.102 * 24.5)) and found[""].n == 4
    assert found["replica"].log_e == pytest.approx(np.log(2.0)) and found["replica"].n == 4
    assert detector.state.clipped.level(("router", "pod-a")) == pytest.approx(np.log(3.0))
    assert detector.retention("router") is not None
    saved = json.loads(json.dumps(detector.state.to_json(), allow_nan=False))
    assert saved["chains"]["keys"] == [["router", "base"], ["router", "adapter:rewriter"]]
    assert State.from_json(saved).ratios.index == {("router", BASE): 0, ("router", other_adapter("rewriter")): 1}
    assert State.from_json(saved).clipped.index == {("router", ALL_PODS): 0, ("router", "pod-a"): 1}


def test_streams_of_odd_names_survive_a_restart_of_the_process() -> None:
    detector = Detector(Config())
    odd = replace(scored(3.0, "pod\tof:x"), adapter="a\tb", alternatives=(*ALTERNATIVES[:-1], other_adapter("x:\ty")))
    detector.update(TrafficRound("smol", 0, 0.0, ("a\tb", "x:\ty"), (odd,)))
    again = State.from_json(json.loads(json.dumps(detector.state.to_json())))
    assert again.ratios.index == detector.state.ratios.index and ("a\tb", other_adapter("x:\ty")) in again.ratios.index
    assert again.clipped.index == {("a\tb", ALL_PODS): 0, ("a\tb", "pod\tof:x"): 1}

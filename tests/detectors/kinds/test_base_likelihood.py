from __future__ import annotations

import json
import math

import numpy as np

from detectors.evidence.alternative import FOUR_BITS, Alternative, interpolation, other_adapter
from detectors.kinds.base_likelihood import Config, Detector, State
from detectors.records import SubjectKind
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore

ROUTER = (other_adapter("router"), interpolation(0.5, "router"))
LOG_A = 15.3


def score(log_l: float, alternatives: tuple[Alternative, ...] = ROUTER, adapter: str = "smol") -> TrafficScore:
    values = np.full(len(alternatives), log_l, np.float32)
    return TrafficScore(adapter, "r", "", 0.0, ScoringMode.SAMPLED, 14, alternatives, values)


def round_of(*scores: TrafficScore, number: int = 0) -> TrafficRound:
    return TrafficRound("smol", number, 60.0 * number, ("router", "tone"), scores)


def level(detector: Detector, *scores: TrafficScore, number: int = 0) -> float:
    (found,) = detector.update(round_of(*scores, number=number))
    assert (found.subject_kind, found.subject, found.pages) == (SubjectKind.BASE_REQUESTS, "smol", True)
    return found.log_e


def detector() -> Detector:
    return Detector(Config(log_threshold=LOG_A))


def test_responses_that_an_adapter_gave_under_the_bases_name_page_within_a_few() -> None:
    own = detector()
    levels = [level(own, score(30.0), number=number) for number in range(6)]
    assert levels[0] < LOG_A / 2, "no response alone"
    assert max(levels) >= LOG_A
    onset = own.onset("smol")
    assert onset is not None and onset.at == 0.0


def test_one_record_in_a_thousand_that_lost_its_adapters_name_never_pages() -> None:
    own, rng, highest = detector(), np.random.default_rng(0), 0.0
    for number in range(400):
        odd = rng.integers(0, 50)
        scores = [score(120.0 if number % 20 == 0 and i == odd else -45.0) for i in range(50)]
        highest = max(highest, level(own, *scores, number=number))
    assert highest < LOG_A / 2


def test_responses_of_adapters_are_no_evidence_about_the_base() -> None:
    own = detector()
    assert own.update(round_of(score(60.0, adapter="router"))) == ()
    assert level(own, score(-10.0), score(60.0, adapter="router"), number=1) < 0.0


def test_an_alternative_that_is_drawn_for_few_responses_alarms_by_its_own_process() -> None:
    """Of a hundred adapters each is scored on three responses of a hundred; the one at fault needs a few of these."""
    own, rng, needed = detector(), np.random.default_rng(3), []
    for number in range(400):
        drawn = rng.random() < 0.03
        other = score(-20.0, (other_adapter(f"a{rng.integers(99)}"),))
        if level(own, score(40.0) if drawn else other, number=number) >= LOG_A:
            needed.append(number)
            break
    assert needed and needed[0] < 300


def test_a_new_release_of_an_adapter_starts_the_evidence_of_its_base_again() -> None:
    own = detector()
    before = level(own, score(20.0))
    own.accept_adapter("tone")
    assert level(own, score(20.0), number=1) > before + 1.0, "it was not among the alternatives"
    own.accept_adapter("router")
    assert level(own, score(20.0), number=2) == before


def test_a_restart_leaves_no_level_of_alternatives_that_are_not_scored_again() -> None:
    own = detector()
    level(own, score(20.0), score(20.0, (FOUR_BITS,)))
    own.restart("smol")
    alone = detector()
    assert level(own, score(5.0), number=1) == level(alone, score(5.0), number=1)


def test_numbers_that_are_not_finite_are_passed_over() -> None:
    own = detector()
    assert own.update(round_of(score(math.nan))) == ()
    before = level(own, score(3.0), number=1)
    assert level(own, score(math.nan), number=2) == before


def test_saved_state_names_alternatives_by_their_texts() -> None:
    own = detector()
    level(own, score(1.0))
    saved = json.loads(json.dumps(own.state.to_json()))
    assert saved["alone"]["keys"] == [["smol", "adapter:router"], ["smol", "path 0.5 adapter:router"]]
    again = Detector(own.config, State.from_json(saved))
    assert level(again, score(2.0), number=1) == level(own, score(2.0), number=1)


def test_an_adapter_that_is_taken_out_of_the_configuration_is_forgotten() -> None:
    own, gone = detector(), (other_adapter("gone"), interpolation(0.5, "gone"), FOUR_BITS)
    own.update(TrafficRound("smol", 1, 60.0, ("router", "gone"), (score(2.0, (*ROUTER, *gone)),)))
    assert len(own.state.alone.streams_of("smol")) == 5
    own.update(round_of(number=2))
    kept = {stream[1] for stream in own.state.alone.streams_of("smol")}
    assert kept == {*ROUTER, FOUR_BITS}

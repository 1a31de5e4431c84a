from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detectors.kinds.token_calibration import Config, Detector, State, _range, _requested
from detectors.traffic_records import ScoringMode, TrafficRound, TrafficScore
from probes.scoring.likelihood_ratio_reference import score
from probes.scoring.token_distribution import SamplingParameters, normalised, token_distribution
from probes.scoring.token_scores import SAMPLERS, Response, Settings

SETTINGS = Settings(path=(), grid=(1.0,))
ASKED = SamplingParameters(1.0, top_p=0.9)
LATER = TrafficRound("smol", 99, 99.0, ("router",), ())


def response(
    rng: np.random.Generator, asked: SamplingParameters, in_force: SamplingParameters, number: int
) -> TrafficScore:
    """Forty tokens of a random language, drawn by one sampler and scored as if by the other."""
    base = normalised(2.0 * rng.standard_normal((40, 30)))
    adapter = normalised(base + rng.standard_normal((40, 30)))
    mass = np.exp(token_distribution(adapter, in_force)).cumsum(axis=1)
    tokens = (rng.random((40, 1)) * mass[:, -1:] > mass).sum(axis=1)
    found = score(adapter, base, {}, Response((), tuple(map(int, tokens)), asked, number), SETTINGS)
    return TrafficScore(
        "router", str(number), "", 0.0, ScoringMode.SAMPLED, 40, temperature=asked.temperature, top_p=asked.top_p,
        samplers=tuple(found.log_sampler),
        log_sampler=np.array([v.sum() for v in found.log_sampler.values()], np.float32),
        temperatures=np.array(SETTINGS.temperatures, np.float32),
        temperature_log_lik=found.temperature_log_lik.sum(axis=1).astype(np.float32),
        top_ps=np.array(SETTINGS.top_ps, np.float32),
        top_p_log_lik=found.top_p_log_lik.sum(axis=1).astype(np.float32),
        ranks=found.ranks.astype(np.float32),
    )  # fmt: skip


def watched(asked: SamplingParameters, in_force: SamplingParameters, responses: int = 60) -> tuple[Detector, float]:
    detector, rng, level = Detector(Config()), np.random.default_rng(4), 0.0
    for number in range(responses):
        record = TrafficRound("smol", number, 60.0 * number, ("router",), (response(rng, asked, in_force, number),))
        (found,) = detector.update(record)
        level = found.log_e
    return detector, level


def test_knows_every_sampler_that_responses_are_compared_with() -> None:
    assert set(Config().samplers) == set(SAMPLERS)


@pytest.mark.parametrize(
    ("asked", "in_force", "leading"),
    [
        (SamplingParameters(0.8), SamplingParameters(1.0), "temperature 1"),
        (SamplingParameters(1.0), SamplingParameters(1.3), "temperature x1.2"),
        (SamplingParameters(1.0), SamplingParameters(0.75), "temperature x0.8"),
        (SamplingParameters(1.0), SamplingParameters(0.0), "temperature 0"),
        (SamplingParameters(1.0), SamplingParameters(1.0, top_p=0.85), "top_p 0.9"),
        (SamplingParameters(1.0, top_p=0.9), SamplingParameters(1.0), "top_p 1"),
        (SamplingParameters(0.0), SamplingParameters(1.0), "temperature 1"),
    ],
)
def test_says_which_sampler_is_in_force_instead(
    asked: SamplingParameters, in_force: SamplingParameters, leading: str
) -> None:
    detector, level = watched(asked, in_force)
    assert level > 21.5
    assert detector.leading("router") == leading


def test_quiet_and_well_calibrated_while_the_request_is_obeyed() -> None:
    detector, level = watched(ASKED, ASKED)
    found = detector.calibration("router", LATER)
    assert level < 7
    assert found is not None and found.temperature is not None and found.top_p is not None
    assert found.temperature.low < 1.0 < found.temperature.high
    assert found.temperature.mean == pytest.approx(1.0, abs=0.06)
    assert found.top_p.low <= 0.9 <= found.top_p.high <= 0.95
    assert found.ranks.sum() == pytest.approx(1.0)
    assert abs(found.ranks - 1 / 20).max() < 0.02


def test_estimates_the_temperature_that_is_in_force() -> None:
    found = watched(ASKED, SamplingParameters(1.3, top_p=0.9))[0].calibration("router", LATER)
    assert found is not None and found.temperature is not None
    assert found.temperature.low < 1.3 < found.temperature.high
    assert found.temperature.high - found.temperature.low < 0.3


def test_the_interval_of_the_temperature_allows_for_the_weights_of_older_responses() -> None:
    """Of the weighted mean of observations of variance 1/I along 1 / temperature: 1.96 sqrt(sum w^2) / sum w / sqrt(I)
    on either side."""
    detector, rng = Detector(Config(recent=20)), np.random.default_rng(0)
    inverse = 1.0 / np.array(SETTINGS.temperatures)
    told = replace(response(rng, ASKED, ASKED, 0), temperature_log_lik=(-150 * (inverse - 1.0) ** 2).astype(np.float32))
    for number in range(400):
        detector.update(TrafficRound("smol", number, 0.0, ("router",), (told,)))
    found = detector.calibration("router", LATER)
    weights = 0.5 ** (np.arange(400) / 20)
    half = 1.96 * np.sqrt((weights**2).sum()) / weights.sum() / np.sqrt(300)
    assert found is not None and found.temperature is not None
    assert (1 / found.temperature.low - 1 / found.temperature.high) / 2 == pytest.approx(half, abs=3e-3)


def test_remembers_what_was_requested_while_it_is_not_rare_also_over_a_restart() -> None:
    detector, rng = watched(ASKED, ASKED, responses=3)[0], np.random.default_rng(1)
    detector.update(
        TrafficRound("smol", 3, 0.0, ("router",), (response(rng, SamplingParameters(0.7), SamplingParameters(0.7), 4),))
    )
    again = Detector(Config(), State.from_json(json.loads(json.dumps(detector.state.to_json()))))
    found = again.calibration("router", LATER)
    assert found is not None
    assert (found.asked_temperature, found.asked_top_p) == ((0.7, 1.0), (0.9, 1.0))
    for number in range(5, 205):
        again.update(TrafficRound("smol", number, 0.0, ("router",), (response(rng, ASKED, ASKED, number),)))
    found = again.calibration("router", LATER)
    assert found is not None and found.asked_temperature == (1.0, 1.0)


def test_a_newly_requested_value_is_learnt() -> None:
    asked: dict[float, float] = {}
    for number in range(1500):
        asked = _requested(asked, 0.7 if number < 1000 or number % 2 else 1.0, keep=0.5 ** (1 / 500))
    assert _range(asked) == (0.7, 1.0)


def test_an_adapter_without_responses_has_no_calibration() -> None:
    assert Detector(Config()).calibration("router", LATER) is None


def test_the_state_of_the_version_before_goes_on() -> None:
    """It joined adapter and sampler by a tab."""
    chains = {
        "names": ["router\ttemperature 1", "router\ttop_p 1"], "n": [2, 2],
        "m": [[160.0], [0.5]], "w": [[148.0], [0.5]],
        "since": [[0.0], [60.0]], "gap": [["inf"], [60.0]], "seen_at": [60.0, 60.0],
    }  # fmt: skip
    axis = {"grid": [0.0, 0.5], "log_lik": [-8.0, -2.0], "n": 2.0}
    history = {
        "ranks": [1.0, 2.0], "temperature": axis, "top_p": axis,
        "asked_temperature": [[0.7, 2.0]], "asked_top_p": [[0.9, 2.0]],
    }  # fmt: skip
    config = Config(samplers=("temperature 1", "top_p 1"), bins=2)
    detector = Detector(config, State.from_json({"chains": chains, "seen": {"router": history}}))
    (level,) = detector.update(TrafficRound("smol", 2, 120.0, ("router",), ()))
    assert level.log_e == pytest.approx(np.log(0.5 * 160.0 + 0.5 * 0.5))
    assert (level.n, detector.leading("router")) == (2, "temperature 1")
    saved = json.loads(json.dumps(detector.state.to_json()))
    assert saved["chains"]["keys"] == [["router", "temperature 1"], ["router", "top_p 1"]]
    assert saved["seen"] == {"router": history}
    assert State.from_json(saved).ratios.index == detector.state.ratios.index

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from detectors.evidence.alternative import BASE, HALF_STRENGTH, other_adapter
from detectors.evidence.likelihood_process import LikelihoodProcesses, averaged, clipped_mixture, weights_of
from detectors.kinds.traffic_likelihood import Config

SHARES, MOST = np.array(Config().replicas).T
MOST = np.minimum(MOST, 1290.0)
Named = tuple[str, str]


@pytest.mark.parametrize("chance", [1.0, 0.5, 0.01, 1e-4])
def test_the_clipped_factor_is_fair_also_with_one_mislabelled_record_in_a_thousand(chance: float) -> None:
    """L is 1 / chance with that chance and else 0: mean 1, neutral or as wild as can be; a mislabelled one is huge."""
    slip = 1e-3
    assert Config().mislabelled == slip
    values = np.array([math.log(1 / chance), -800.0, 500.0])
    odds = np.array([(1 - slip) * chance, (1 - slip) * (1 - chance), slip])
    factors = np.exp(np.stack([clipped_mixture(values[i : i + 1], SHARES, MOST, slip) for i in range(3)]))
    assert (odds @ factors <= 1.0).all()
    if chance > 0.1:
        assert (odds @ factors > 0.4).all(), "and not so timid that nothing is ever found"


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_run_length_of_the_clipped_mixture_is_at_least_a(share: float) -> None:
    """At A = 50, fair two-point ratios, 300 runs of at most 1,500 responses, less three standard errors."""
    rng, names, processes = np.random.default_rng(7), [(str(i), "") for i in range(300)], LikelihoodProcesses[Named]()
    lengths = dict.fromkeys(names, 1500)
    for n in range(1500):
        log_l = np.log(rng.integers(0, 2, 300) * 1.8 + 0.1)
        processes.multiply(
            {
                name: clipped_mixture(log_l[i : i + 1], np.array([share]), np.array([1e3]), 0.0)
                for i, name in enumerate(names)
            },
            dict.fromkeys(names, 1),
            float(n),
        )
        alarmed = [name for name, level in processes.levels(names).items() if level >= math.log(50.0)]
        lengths |= dict.fromkeys(alarmed, n + 1)
        names = [name for name in names if name not in alarmed]
        if not names:
            break
    seen = np.array(list(lengths.values()))
    assert len(names) < 30
    assert seen.mean() >= 50 - 3 * seen.std() / math.sqrt(300)


def test_the_factor_of_many_responses_is_the_product_of_theirs() -> None:
    whole = clipped_mixture(np.array([1.0, -2.0, 30.0]), SHARES, MOST, 1e-3)
    parts = [clipped_mixture(np.array([x]), SHARES, MOST, 1e-3) for x in (1.0, -2.0, 30.0)]
    assert whole == pytest.approx(np.sum(parts, axis=0))


def test_weights_sum_to_one_and_others_share_what_is_left() -> None:
    x, y = other_adapter("x"), other_adapter("y")
    found = weights_of({BASE: 0.5, HALF_STRENGTH: 0.3}, (x, y))
    assert sum(found.values()) == pytest.approx(1.0)
    assert found[BASE] == 0.5 and found[x] == pytest.approx(0.1)
    assert weights_of({BASE: 0.5}, ()) == {BASE: 0.5}


def test_an_average_is_over_the_alternatives_that_were_scored() -> None:
    assert averaged(np.array([0.0, math.log(3.0)]), np.array([0.5, 0.5])) == pytest.approx(math.log(2.0))
    assert averaged(np.array([math.log(3.0)]), np.array([0.1])) == pytest.approx(math.log(3.0))


def test_dropped_streams_are_gone_and_the_others_stay() -> None:
    processes, streams = LikelihoodProcesses[Named](), [("x", "a"), ("x", "b"), ("y", "a")]
    a, b, other = streams
    processes.multiply({name: np.array([float(i)]) for i, name in enumerate(streams)}, dict.fromkeys(streams, 1), 5.0)
    levels = processes.levels([a, other])
    processes.drop([b, ("nobody", "")])
    assert processes.levels([a, other]) == levels and processes.n(b) == 0
    assert processes.measured_at(a) == 5.0 and processes.measured_at(b) == -math.inf
    processes.multiply({b: np.array([1.0])}, {b: 1}, 6.0)
    assert processes.level(b) == pytest.approx(1.0)
    assert LikelihoodProcesses[Named].from_json(processes.to_json(), tuple).levels(streams) == processes.levels(streams)


def test_streams_are_looked_up_by_their_adapter_also_after_a_restart() -> None:
    processes, streams = LikelihoodProcesses[Named](), [("x", "a"), ("y", "a"), ("x", "b")]
    for stream in streams:
        processes.multiply({stream: np.zeros(1)}, {stream: 1}, 0.0)
        processes.multiply({stream: np.zeros(1)}, {stream: 1}, 1.0)
    restored = LikelihoodProcesses[Named].from_json(json.loads(json.dumps(processes.to_json(list))), tuple)
    for each in (processes, restored):
        assert each.streams_of("x") == [("x", "a"), ("x", "b")]
        assert each.streams_of("nobody") == []
    processes.drop([("x", "a")])
    assert processes.streams_of("x") == [("x", "b")] and processes.streams_of("y") == [("y", "a")]


def test_weighted_is_the_mean_of_m() -> None:
    processes = LikelihoodProcesses[Named]()
    a, b, never = ("x", "a"), ("x", "b"), ("x", "never scored")
    processes.multiply({a: np.array([2.0]), b: np.array([3.0])}, {a: 1, b: 1}, 0.0)
    wanted = math.log(0.5 * math.exp(2.0) + 0.25 * math.exp(3.0))
    assert processes.weighted({a: 0.5, b: 0.25, never: 0.25}) == pytest.approx(wanted)
    assert processes.weighted({never: 1.0}) == 0.0

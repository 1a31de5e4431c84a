"""A suspect adapter's responses are scored against what may be at fault, within bounds, and the bet stays fair."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detectors.evidence.alternative import Alternative, interpolation, other_adapter, rounded, without
from detectors.records import Fault, FaultKind
from detectors.traffic_records import ScoringMode, TrafficScore
from probes.runner import Weights
from probes.scoring.likelihood_ratio_reference import log_e_of_all, null_of
from probes.scoring.scoring_job import AdapterVersion, ScoringJob, ScoringOptions, alternatives, traffic_score
from probes.scoring.suspicion import CHOOSING, LASTING, LEADING, LOOKS, Suspicions, candidates, coarse
from probes.scoring.token_distribution import SamplingParameters, token_distribution
from probes.scoring.token_scores import Settings
from tests.probes.worlds import never, opened

MLP, LATE, FOUR = without("mlp"), without("layers.20-29"), rounded("4")
FAULTS = (MLP, LATE, FOUR)


def job(i: int = 0, adapter: str = "alpha") -> ScoringJob:
    return ScoringJob(adapter, f"r{i}", "", 0.0, (1, 2, 3), (4, 5, 6), SamplingParameters(1.0))


def score(gains: dict[Alternative, float], adapter: str = "alpha") -> TrafficScore:
    values = np.array(list(gains.values()), np.float32)
    return TrafficScore(adapter, "r", "", 0.0, ScoringMode.SAMPLED, 3, tuple(gains), values)


def suspected(suspicions: Suspicions, n: int) -> list[tuple[Alternative, ...]]:
    return [one.suspected for one in suspicions.applied_to([job(i) for i in range(n)])]


def test_the_first_responses_have_all_and_later_ones_those_that_led() -> None:
    suspicions = Suspicions()
    suspicions.begin("alpha", lambda: FAULTS)
    assert suspected(suspicions, LOOKS + 3) == [FAULTS] * LOOKS + [()] * 3, "which lead is not known in one batch"
    suspicions.learn([score({MLP: -4.0, LATE: 3.0, FOUR: 1.0})] * LOOKS)
    assert suspected(suspicions, 5) == [(LATE, FOUR)] * 5 and LEADING == 2
    assert [one.suspected for one in suspicions.applied_to([job(0, "beta")])] == [()], "another adapter is well"


def test_a_fault_of_one_replica_in_ten_leads_though_most_responses_are_well() -> None:
    suspicions = Suspicions()
    suspicions.begin("alpha", lambda: FAULTS)
    healthy, faulty = score({MLP: -30.0, LATE: -0.2, FOUR: -0.3}), score({MLP: 30.0, LATE: 0.5, FOUR: 0.4})
    suspicions.learn([healthy] * 7 + [faulty] * 2 + [healthy] * 7)
    assert MLP in suspected(suspicions, 1)[0]


def test_a_suspicion_that_no_verdict_renews_ends() -> None:
    suspicions = Suspicions()
    suspicions.begin("alpha", lambda: FAULTS)
    suspicions.learn([score({MLP: 1.0, LATE: 0.0, FOUR: 0.0})] * (LASTING - 1))
    suspicions.begin("alpha", lambda: ())
    suspicions.learn([score({MLP: 1.0})] * (LASTING - 1))
    assert suspicions.held["alpha"].looked == LOOKS, "renewed, it does not begin again"
    suspicions.learn([score({MLP: 1.0})])
    assert not suspicions.held


def test_no_more_than_three_adapters_are_suspect_at_a_time() -> None:
    suspicions = Suspicions()
    for name in "abcde":
        suspicions.begin(name, lambda: FAULTS)
    assert list(suspicions.held) == ["a", "b", "c"]
    suspicions.begin("base-v1", lambda: FAULTS[2:], of_base=True)
    assert "base-v1" in suspicions.held, "without its path an incident of its requests would end while the fault lasts"


def test_kinds_of_modules_and_quarters_of_layers_stand_for_the_blocks() -> None:
    layers = [f"layers.{i}" for i in range(30)]
    assert coarse(["q_proj", "attention", "mlp", *layers]) == [
        "q_proj", "attention", "mlp", "layers.0-7", "layers.8-15", "layers.16-22", "layers.23-29",
    ]  # fmt: skip
    assert coarse(["layers.0", "layers.1"]) == ["layers.0", "layers.1"] and coarse([]) == []
    assert len(coarse([f"kind{i}" for i in range(40)] + layers)) == 10


def test_what_may_be_at_fault_is_what_the_runner_can_play() -> None:
    runner = opened()
    blocks = tuple(without(block) for block in runner.blocks("alpha", Weights.GOLDEN))
    assert candidates(runner, "alpha")[: len(blocks)] == blocks
    assert rounded("4") in candidates(runner, "alpha") and rounded("4/32") in candidates(runner, "base-v1", True)
    assert candidates(runner, "unknown") == () and candidates(object(), "alpha") == ()


def test_a_job_names_the_faults_that_it_is_scored_against_beside_the_usual_ones() -> None:
    runner, asking = opened(), ScoringOptions()
    prompt = runner.encode_chat([{"role": "user", "content": "My parcel is late"}])
    block = runner.blocks("alpha", Weights.GOLDEN)[0]
    one = replace(job(), prompt=prompt, output=tuple(b"Sorry"), suspected=(without(block), rounded("4/32")))
    names = {AdapterVersion(name): name for name in ("alpha", "beta", "gamma")}
    wanted = alternatives(one, names, asking)
    assert len(wanted) == len(alternatives(replace(one, suspected=()), names, asking)) + 2
    assert wanted[without(block)].fault == Fault(FaultKind.WITHOUT, block)
    assert wanted[rounded("4/32")].fault == Fault(FaultKind.QUANTISED, "4/32")
    (answer,) = runner.score([one], never, asking)
    assert set(one.suspected) <= set(traffic_score(answer, asking).alternatives)
    of_base = replace(one, adapter="base-v1", of_base=True, suspected=(rounded("4/32"),))
    (answer,) = runner.score([of_base], never, asking)
    assert rounded("4/32") in traffic_score(answer, asking).alternatives


def test_the_mean_of_l_is_at_most_one_whatever_was_chosen_before() -> None:
    """Exactly, over the vocabulary, under the adapter and both edges of its tolerance: which of these are bet on is
    known before the response, so that each alone has to be fair."""
    rng, settings = np.random.default_rng(3), Settings()
    base, adapter, *sides = 2.0 * rng.standard_normal((5, 20, 40))
    for sampling in (SamplingParameters(1.0), SamplingParameters(0.7, top_p=0.9)):
        null = null_of(adapter, base, sampling, settings)
        for side in sides:
            e = np.exp(log_e_of_all(token_distribution(side, sampling), null))
            for truth in (null.golden, *null.benign):
                assert (np.exp(truth) * e).sum(axis=1).max() <= 1.0 + 1e-12


@pytest.mark.parametrize("n", [1, LOOKS + 1])
def test_a_response_that_was_not_scored_against_all_teaches_nothing(n: int) -> None:
    suspicions = Suspicions()
    suspicions.begin("alpha", lambda: FAULTS)
    suspicions.learn([score({without("other"): 50.0})] * n)
    assert suspicions.held["alpha"].looked == 0 and suspicions.held["alpha"].left == LASTING - n


def test_which_adapter_answers_for_the_base_is_known_also_where_no_rounding_of_it_can_be_played() -> None:
    suspicions, alpha, beta = Suspicions(), other_adapter("alpha"), other_adapter("beta")
    suspicions.begin("base-v1", lambda: (rounded("4/32"),), of_base=True)
    suspicions.learn([score({alpha: -0.5, beta: 0.5}, "base-v1")] * (CHOOSING - 1))
    assert suspicions.held["base-v1"].path_from is None
    suspicions.learn([score({alpha: -0.5, beta: 0.5}, "base-v1")])
    assert suspicions.held["base-v1"].path_from == beta


def test_an_adapter_that_answers_no_more_has_no_path_and_costs_nothing_else() -> None:
    """As where the copy that was accepted since cannot be loaded."""
    runner, asking = opened(), ScoringOptions()
    prompt = runner.encode_chat([{"role": "user", "content": "My parcel is late"}])
    one = replace(job(adapter="base-v1"), prompt=prompt, output=tuple(b"Sorry"), of_base=True)
    gone = replace(one, suspected=(other_adapter("removed"),))
    names = {AdapterVersion(name): name for name in ("alpha", "beta", "gamma")}
    assert alternatives(gone, names, asking) == alternatives(one, names, asking)
    plain, (answer,) = runner.score([one], never, asking), runner.score([gone], never, asking)
    scored = traffic_score(answer, asking)
    assert scored.path.size == 0 and scored.path_log_lik.size == 0
    assert (scored.log_l == traffic_score(plain[0], asking).log_l).all()


def test_of_a_weak_fault_the_responses_that_made_the_base_suspect_say_which_adapter_answers_for_it() -> None:
    suspicions, alpha, beta = Suspicions(), other_adapter("alpha"), other_adapter("beta")
    weak = {alpha: -0.4, interpolation(0.5, "alpha"): 0.4, beta: -1.0, interpolation(0.5, "beta"): -0.6}
    unlucky = weak | {alpha: -1.0, interpolation(0.5, "alpha"): -0.2, beta: 0.5}
    suspicions.learn([score(weak, "base-v1")] * 40)
    suspicions.begin("base-v1", lambda: (rounded("4/32"),), of_base=True)
    suspicions.learn([score(unlucky, "base-v1")] * CHOOSING)
    assert suspicions.held["base-v1"].path_from == alpha


def test_what_an_adapter_explained_before_it_explained_nothing_any_more_does_not_count() -> None:
    suspicions, alpha, beta = Suspicions(), other_adapter("alpha"), other_adapter("beta")
    suspicions.learn([score({alpha: 2.0, beta: -2.0}, "base-v1")] * 5)
    suspicions.learn([score({alpha: -3.0, beta: -2.0}, "base-v1")] * 100)
    suspicions.learn([score({alpha: -3.0, beta: 1.0}, "base-v1")] * 5)
    suspicions.begin("base-v1", lambda: (rounded("4/32"),), of_base=True)
    suspicions.learn([score({alpha: -3.0, beta: 1.0}, "base-v1")] * CHOOSING)
    assert suspicions.held["base-v1"].path_from == beta

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from probes.canaries.route_probes import CANARIES, of_tokens, probes_of
from tests.probes.worlds import enrolled


def test_the_canaries_of_a_check_are_drawn_from_the_pool_without_repeats() -> None:
    golden = enrolled("alpha")
    pool = {canary.prompt for canary in golden.pool}
    for seed in range(5):
        prompts = [probe.prompt for probe in probes_of(golden, seed)]
        assert len(set(prompts)) == CANARIES and set(prompts) <= pool
    assert {probe.prompt for probe in probes_of(golden, 0)} != {probe.prompt for probe in probes_of(golden, 1)}


def test_a_record_of_an_engine_is_no_offline_reference_unless_it_was_measured_against_one() -> None:
    golden = enrolled("alpha")
    assert all(len(probe.offline) == len(probe.forced) for probe in probes_of(golden, 0))
    alone = replace(golden, made_on="vllm 0.33")
    assert all(not len(probe.offline) for probe in probes_of(alone, 0))
    assert all(math.isfinite(probe.effect) for probe in probes_of(alone, 0))
    measured = replace(alone, offline="sha256:" + "a" * 64)
    assert all(len(probe.offline) for probe in probes_of(measured, 0))


def test_the_tokens_of_a_record_have_the_log_probabilities_that_it_holds() -> None:
    canary = enrolled("alpha").canaries[0]
    values = of_tokens(canary.reference, canary.forced, "golden_adapter")
    assert values.shape == (len(canary.forced),)
    # A greedy continuation's token is the most probable one.
    assert np.allclose(values, canary.reference.golden_adapter.log_probs.max(axis=1))

"""The sidecar's faults in a pod that a real kubelet runs: none of them may take the pod out of its Service.

``make test-node``, as root. The kubelet counts a native sidecar in the pod's readiness: while its container does not
run, the pod is not Ready, and until it has started once, the engine does not start.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.node.faults import (
    ASKING_POD,
    FAULTS,
    HEALTHY,
    HEALTHY_POD,
    KILLED,
    Fault,
    measure_fault,
    measure_witness,
    replaced_pod,
)
from benchmarks.node.sidecar_pod import shipped
from benchmarks.node.single_node import Node
from tests.end_to_end.world import ADAPTERS

pytestmark = [pytest.mark.node, pytest.mark.timeout(600)]


def volume_for(fault: Fault, request: pytest.FixtureRequest) -> Path | None:
    """Laid out only where a test needs it: it is a copy of a base."""
    return request.getfixturevalue("volume") if fault.models else None


def test_a_healthy_sidecar_lets_the_engine_start_and_says_that_every_part_is_ok(node: Node, tmp_path: Path) -> None:
    outcome = measure_fault(node, HEALTHY_POD, tmp_path / "pod", None)
    assert outcome.start_s is not None, outcome.log
    assert (outcome.unready_s, outcome.silent_s, outcome.restarts) == (0, 0, 0), outcome.log


def test_a_sidecar_as_it_ships_judges_what_its_engine_answers_within_its_memory(node: Node, tmp_path: Path) -> None:
    outcome = measure_fault(node, ASKING_POD, tmp_path / "pod", None)
    assert outcome.start_s is not None, outcome.log
    assert (outcome.unready_s, outcome.silent_s, outcome.restarts) == (0, 0, 0), outcome.log
    assert {outcome.statuses.get(name) for name in ADAPTERS} == {ASKING_POD.status}, f"{outcome.unwell}; {outcome.log}"


def test_a_witness_as_it_ships_owns_its_base_and_judges_it_within_its_memory(
    node: Node, tmp_path: Path, volume: Path
) -> None:
    outcome = measure_witness(node, tmp_path / "pod", volume)
    assert outcome.start_s is not None and (outcome.unready_s, outcome.restarts) == (0, 0), outcome.log
    assert outcome.statuses.get("ticket-router") == HEALTHY, f"{outcome.unwell}; {outcome.log}"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_no_fault_of_the_sidecar_takes_the_pod_out_of_service(
    fault: Fault, node: Node, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    outcome = measure_fault(node, fault, tmp_path / "pod", volume_for(fault, request))
    assert outcome.start_s is not None, f"the engine never started: {outcome.ended}; {outcome.log}"
    assert (outcome.unready_s, outcome.silent_s, outcome.restarts) == (0, 0, 0), f"{outcome.ended}; {outcome.log}"
    if fault.told_by:
        assert set(outcome.unwell) & set(fault.told_by), f"/readyz did not tell it: {outcome.unwell}; {outcome.log}"
        assert outcome.in_metrics & set(fault.told_by), f"no metric told it: {sorted(outcome.in_metrics)}"
    if fault.status is not None:
        assert outcome.statuses.get("ticket-router") == fault.status, f"{outcome.statuses}; {outcome.log}"
    if fault.mend is not None:
        assert outcome.mended_s is not None, f"still unwell after it was mended: {outcome.unwell}; {outcome.log}"
    else:
        assert math.isnan(outcome.mended_s or 0.0)


def test_a_killed_sidecar_comes_back_and_the_engine_answers_all_the_while(node: Node, tmp_path: Path) -> None:
    """What it costs in readiness is a figure of benchmarks/harmless.py: nothing in a pod can prevent it."""
    outcome = measure_fault(node, KILLED, tmp_path / "pod", None)
    assert (outcome.restarts, outcome.silent_s) == (1, 0), outcome.log
    assert "137" in outcome.ended


def test_a_pod_that_is_replaced_ends_in_its_time_and_the_next_one_starts(node: Node, tmp_path: Path) -> None:
    rollout = replaced_pod(node, tmp_path)
    assert rollout.start_s is not None
    # Ended by themselves: what has not ended by then is killed.
    assert rollout.end_s < shipped("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

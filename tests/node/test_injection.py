"""A sidecar that the policy added on a real API server starts on a real kubelet, and judges what its engine answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.node.faults import ASKING_POD
from benchmarks.node.injection import missing, run_injected
from benchmarks.node.single_node import Node
from tests.end_to_end.world import ADAPTERS

pytestmark = [pytest.mark.node, pytest.mark.timeout(900)]


def test_an_injected_sidecar_starts_before_its_engine_and_judges_every_adapter(node: Node, tmp_path: Path) -> None:
    if missing():
        pytest.skip(missing())
    outcome, _ = run_injected(node, tmp_path)
    assert outcome.start_s is not None, outcome.log
    assert (outcome.unready_s, outcome.silent_s, outcome.restarts) == (0, 0, 0), outcome.log
    assert {outcome.statuses.get(name) for name in ADAPTERS} == {ASKING_POD.status}, f"{outcome.unwell}; {outcome.log}"

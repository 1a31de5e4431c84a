from __future__ import annotations

from dataclasses import replace

import pytest

from detectors.diagnosis.resembled_adapter import adapter_moved_towards
from detectors.diagnosis.signature_matching import canary_vectors
from detectors.records import THE_BASE, Measurement
from tests.detectors.synthetic import make_round


def renamed(seen: Measurement, name: str) -> Measurement:
    """The same, where the router has another name and is the only other adapter."""
    known = seen.comparison.reference
    others = {name: known.others["router"]}
    return replace(seen, comparison=replace(seen.comparison, reference=replace(known, others=others)))


@pytest.mark.parametrize("name", ["router", THE_BASE])
def test_an_adapter_is_distinguished_from_the_base_whatever_it_is_called(name: str) -> None:
    """Answers that move by another adapter's effect, and answers that lose their own adapter's."""
    canaries = [renamed(one, name) for one in make_round("extractor", "healthy").measurements]
    towards_other = [(m, canary_vectors(m).ready.from_base(m.comparison.reference.others[name])) for m in canaries]
    assert adapter_moved_towards(towards_other) == name
    assert adapter_moved_towards([(m, -canary_vectors(m).ready.delta) for m in canaries]) == THE_BASE

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from detectors.diagnosis.resembled_adapter import adapter_moved_towards, likeliest_others
from detectors.diagnosis.root_cause import diagnosed_canaries
from detectors.diagnosis.signature_matching import canary_vectors
from detectors.records import THE_BASE, Measurement
from tests.detectors.faulty_answers import recorded_round
from tests.detectors.synthetic import ADAPTERS, make_round


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


@pytest.mark.parametrize("fault", ["stacked:{}", "stacked:{}*0.4", "averaged:{}", "averaged:{}*0.25", "adapter:{}"])
def test_the_other_adapter_that_takes_part_is_the_likeliest(fault: str) -> None:
    for adapter, other in itertools.permutations(ADAPTERS, 2):
        canaries = diagnosed_canaries(recorded_round(adapter, fault.format(other)))
        assert likeliest_others(canaries, 1) == (other,)
        assert len(likeliest_others(canaries, 3)) == 3 and likeliest_others((), 3) == ()

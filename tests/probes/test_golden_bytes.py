from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from probes.errors import Damaged, Refused
from probes.golden_bytes import content_hash, from_bytes, to_bytes
from tests.probes.goldens import assert_same, golden


def test_bytes_round_trip_is_exact_and_the_same_bytes_again() -> None:
    made = golden()
    data = to_bytes(made)
    read = from_bytes(data)
    assert_same(made, read)
    assert to_bytes(read) == data == to_bytes(golden())
    assert read.hash == content_hash(data)
    assert {canary.reference.golden for canary in read.canaries} == {read.hash}
    assert len(read.pool) + len(read.held_out) == len(read.canaries)


def test_sides_that_are_not_on_the_curve_are_refused() -> None:
    made = golden()
    first = made.canaries[0]
    summary = first.reference.golden_adapter
    moved = replace(first.reference, golden_adapter=replace(summary, log_probs=summary.log_probs + np.float32(0.5)))
    with pytest.raises(Refused, match="golden_adapter"):
        to_bytes(replace(made, canaries=(replace(first, reference=moved), *made.canaries[1:])))


@pytest.mark.parametrize("data", [b"", b"\x10" + b"\x00" * 7 + b"{}", b"not a golden record at all"])
def test_bytes_that_are_no_record_are_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        from_bytes(data)

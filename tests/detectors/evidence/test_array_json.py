from __future__ import annotations

import json

import numpy as np

from detectors.evidence.array_json import pack, unpack


def test_arrays_come_back_to_the_last_bit_through_plain_json() -> None:
    values = np.array([[0.1, -np.inf, 1e-308], [np.pi, np.inf, -0.0]])
    text = json.dumps(pack(values), allow_nan=False)
    assert np.array_equal(unpack(json.loads(text)), values)
    assert np.signbit(unpack(json.loads(text))[1, 2])

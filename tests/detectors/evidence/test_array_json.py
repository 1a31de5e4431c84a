from __future__ import annotations

import json

import numpy as np

from detectors.evidence.array_json import pack, pack_steps, unpack, unpack_steps


def test_arrays_come_back_to_the_last_bit_through_plain_json() -> None:
    values = np.array([[0.1, -np.inf, 1e-308], [np.pi, np.inf, -0.0]])
    text = json.dumps(pack(values), allow_nan=False)
    assert np.array_equal(unpack(json.loads(text)), values)
    assert np.signbit(unpack(json.loads(text))[1, 2])


def test_steps_come_back_and_their_text_stays_what_files_of_saved_state_hold() -> None:
    steps = np.array([[-32768, 32767], [0, 1], [-1, 256]], np.int16)
    assert pack_steps(steps) == "AID/fwAAAQD//wAB"
    back = unpack_steps("AID/fwAAAQD//wAB", 2)
    assert np.array_equal(back, steps) and back.dtype == np.int16
    assert unpack_steps(pack_steps(np.zeros((0, 32), np.int16)), 32).shape == (0, 32)

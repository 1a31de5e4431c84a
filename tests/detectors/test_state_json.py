from __future__ import annotations

import json

import numpy as np

from detectors.state_json import pack, unpack
from detectors.streams import Streams


def test_arrays_come_back_to_the_last_bit_through_plain_json() -> None:
    values = np.array([[0.1, -np.inf, 1e-308], [np.pi, np.inf, -0.0]])
    text = json.dumps(pack(values), allow_nan=False)
    assert np.array_equal(unpack(json.loads(text)), values)
    assert np.signbit(unpack(json.loads(text))[1, 2])


def test_streams_come_back_whole() -> None:
    streams = Streams()
    streams.advance("router", np.array([True, False]), 0.05, 8)
    again = Streams.from_json(json.loads(json.dumps(streams.to_json(), allow_nan=False)))
    assert np.array_equal(again.log_m["router"], streams.log_m["router"]) and again.n == streams.n == {"router": 2}


def test_a_stream_that_saw_nothing_has_level_zero_and_restarting_goes_back_there() -> None:
    streams = Streams()
    assert streams.level("router") == 0.0
    streams.advance("router", np.zeros(0, bool), 0.05, 8)
    assert streams.n == {}
    streams.advance("router", np.ones(4, bool), 0.05, 8)
    assert streams.level("router") > 5
    streams.restart("router")
    assert (streams.level("router"), streams.n) == (0.0, {})

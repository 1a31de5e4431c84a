"""The contract of detectors/kinds: a new file there is under test before anybody writes one for it."""

from __future__ import annotations

import json
import math
import pickle
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from detectors.load import load, names
from detectors.records import Evidence
from tests.detectors.synthetic import Stream, stream_for

# Small banks keep detectors that learn a reference quick; kinds without these settings have their defaults.
SMALL = {"reference_size": 48, "block": 4}
RUNS = 400
SHOWN = math.log(1000.0)


def config_of(kind: ModuleType) -> Any:
    known = {name: value for name, value in SMALL.items() if name in kind.Config.__dataclass_fields__}
    return kind.Config(**known)


@pytest.fixture(params=names())
def kind(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


@pytest.fixture
def stream(kind: ModuleType) -> Stream:
    return stream_for(kind.Detector.reads, config_of(kind))


def fresh(kind: ModuleType) -> Any:
    return kind.Detector(config_of(kind))


def ticked(detector: Any, records: Any, stream: Stream) -> Evidence:
    """One "+1" further."""
    return [detector.update(record) for record in islice(records, stream.ticks)][-1]


def test_names_its_null_and_its_guarantee(kind: ModuleType) -> None:
    assert all(word in kind.Detector.__doc__ for word in ("H0", "breaks", "Source"))
    assert kind.Config() == kind.Config()


def test_answers_with_evidence_of_the_subject_it_was_shown(kind: ModuleType, stream: Stream) -> None:
    found = fresh(kind).update(next(stream.records("healthy", 0)))
    assert isinstance(found, Evidence)
    assert found.subject == stream.subject
    assert found.detector == kind.__name__.rpartition(".")[2]
    assert math.isfinite(found.log_e)


def test_notices_a_broken_adapter(kind: ModuleType, stream: Stream) -> None:
    detector, records = fresh(kind), stream.records("broken", 0, draws=4)
    seen = [
        detector.update(record).log_e for record in islice(records, stream.warm_up + min(stream.ends, 8) * stream.ticks)
    ]
    assert max(seen) >= SHOWN


def test_stays_quiet_while_nothing_is_wrong(kind: ModuleType, stream: Stream) -> None:
    detector, records = fresh(kind), stream.records("healthy", 1, draws=4)
    seen = [
        detector.update(record).log_e
        for record in islice(records, stream.warm_up + min(stream.ends, 200) * stream.ticks)
    ]
    assert max(seen) < SHOWN


def test_alarms_no_sooner_than_promised_at_the_edge_of_its_null(kind: ModuleType, stream: Stream) -> None:
    """E[ticks] = E[M] at the alarm, or where the stream ends: the sharp form of "average run length >= A".

    At the very edge of the null both sides agree; a bet that peeks, a second "+1", or a null that is too narrow make M
    larger. One draw a tick, because with more the right tail of M is too heavy for 400 runs.
    """
    threshold, ticks, levels, alarms = math.log(10.0), [], [], []
    for run in range(RUNS):
        detector, records = fresh(kind), stream.records("edge", 10 + run)
        list(map(detector.update, islice(records, stream.warm_up)))
        log_e, n = -math.inf, 0
        while log_e < threshold and n < min(stream.ends, 2000):
            log_e, n = ticked(detector, records, stream).log_e, n + 1
        ticks.append(n)
        levels.append(math.exp(log_e))
        alarms.append(log_e >= threshold)
    apart = np.array(levels) - np.array(ticks)
    error = apart.std() / math.sqrt(RUNS)
    assert apart.mean() <= 3 * error
    if stream.ends > 2000:
        assert all(alarms)
        assert abs(apart.mean()) <= 3 * error  # an equality, so that too timid a detector fails too
        assert np.mean(ticks) >= 10.0 - 3 * np.std(ticks) / math.sqrt(RUNS)
    else:
        chance = min(1.0, stream.ends / 10.0)
        assert np.mean(alarms) <= chance + 4 * math.sqrt(chance * (1 - chance) / RUNS)


def test_fair_bet(kind: ModuleType, stream: Stream) -> None:
    """From frozen states: the mean of the factor itself, M after over M before plus 1, is at most 1."""
    factors = []
    for past in (1, 4, 9):
        seed = 1_000 * past
        saved = json.dumps(_after(kind, stream, past, seed).state.to_json())
        for sample in range(700 if stream.fixed_past else 200):
            if stream.fixed_past:
                detector = kind.Detector(config_of(kind), kind.State.from_json(json.loads(saved)))
                records = stream.records("edge", seed + 1 + sample, draws=2)
            else:
                # The past holds references not used yet: it is drawn again too, and the mean is over both.
                records = stream.records("edge", seed + 1 + sample)
                detector = _after(kind, stream, past, seed, records)
            before = _level(detector, stream)
            factors.append(math.exp(ticked(detector, records, stream).log_e) / (math.exp(before) + 1.0))
    assert np.mean(factors) <= 1.0 + 4 * np.std(factors) / math.sqrt(len(factors))
    assert np.std(factors) > 0.01


def _after(kind: ModuleType, stream: Stream, past: int, seed: int, records: Any = None) -> Any:
    detector = fresh(kind)
    records = stream.records("edge", seed) if records is None else records
    list(map(detector.update, islice(records, stream.warm_up + past * stream.ticks)))
    return detector


def _level(detector: Any, stream: Stream) -> float:
    streams = getattr(detector.state, "streams", detector.state)
    (key,) = [key for key in streams.log_m if key.startswith(stream.subject)]
    return float(streams.level(key))


@pytest.mark.parametrize("stop", [0, 3, 50, 61])
def test_restored_state_goes_on_as_if_never_stopped(kind: ModuleType, stream: Stream, stop: int) -> None:
    records = list(islice(stream.records("edge", 5, draws=3), 80))
    whole = fresh(kind)
    expected = [whole.update(record) for record in records]
    first = fresh(kind)
    list(map(first.update, records[:stop]))
    saved = json.dumps(first.state.to_json(), allow_nan=False)
    again = kind.Detector(config_of(kind), kind.State.from_json(json.loads(saved)))
    assert [again.update(record) for record in records[stop:]] == expected[stop:]
    assert json.dumps(again.state.to_json()) == json.dumps(whole.state.to_json())


def test_same_records_give_the_same_answers(kind: ModuleType, stream: Stream) -> None:
    records = list(islice(stream.records("edge", 7, draws=3), 70))
    one, other = fresh(kind), fresh(kind)
    assert [one.update(r) for r in records] == [other.update(r) for r in records]


def test_the_record_is_not_changed(kind: ModuleType, stream: Stream) -> None:
    detector, records = fresh(kind), list(islice(stream.records("broken", 3, draws=3), 60))
    before = [pickle.dumps(record) for record in records]
    list(map(detector.update, records))
    assert [pickle.dumps(record) for record in records] == before


def test_restart_forgets_the_evidence_of_one_subject(kind: ModuleType, stream: Stream) -> None:
    detector, records = fresh(kind), stream.records("broken", 4, draws=4)
    list(map(detector.update, islice(records, stream.warm_up)))
    n = ticked(detector, records, stream).n
    detector.restart("somebody else")
    assert ticked(detector, records, stream).n == 2 * n
    detector.restart(stream.subject)
    assert ticked(detector, records, stream).n == n

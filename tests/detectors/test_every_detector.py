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

from detectors.records import BaseRound, Evidence, SubjectKind
from detectors.registry import load, names, reads
from detectors.traffic_records import TrafficRound
from tests.detectors.record_streams import Stream, of_second_base, round_of_all, stream_for
from tests.detectors.synthetic import ADAPTERS

# Small banks keep detectors that learn a reference quick; kinds without these settings have their defaults.
# No record is mislabelled here: the allowance for it would make a detector later than its null asks for.
SMALL = {"reference_size": 48, "block": 4, "mislabelled": 0.0}
OF_ROUNDS = [name for name in names() if reads(name) is BaseRound]
OF_ADAPTERS = [name for name in OF_ROUNDS if load(name).Detector.about is SubjectKind.ADAPTER]
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
    return stream_for(kind.Detector, config_of(kind))


def fresh(kind: ModuleType) -> Any:
    return kind.Detector(config_of(kind))


def told(detector: Any, record: Any) -> Evidence:
    """The evidence of a record about one subject: of its first stream, which is the one that may alarm."""
    first, *others = detector.update(record)
    assert {other.subject for other in others} <= {first.subject}
    return first


def ticked(detector: Any, records: Any, stream: Stream) -> Evidence:
    """One "+1" further."""
    return [told(detector, record) for record in islice(records, stream.ticks)][-1]


def test_names_its_null_and_its_guarantee(kind: ModuleType) -> None:
    assert all(word in kind.Detector.__doc__ for word in ("H0", "breaks", "Source"))
    assert kind.Config() == kind.Config()


def test_pages_only_by_evidence_that_opens_incidents(kind: ModuleType) -> None:
    settings = {"pages": True} if "pages" in kind.Config.__dataclass_fields__ else {}
    detector = kind.Detector(kind.Config(**settings))
    about_responses = (SubjectKind.ADAPTER, SubjectKind.BASE_REQUESTS)
    opens = detector.reads is BaseRound or (detector.reads is TrafficRound and detector.about in about_responses)
    assert opens or not detector.pages


def test_answers_with_evidence_of_the_subject_it_was_shown(kind: ModuleType, stream: Stream) -> None:
    detector = fresh(kind)
    found = told(detector, next(stream.records("healthy", 0)))
    assert isinstance(found, Evidence)
    assert (found.subject, found.subject_kind, found.pages) == (stream.subject, detector.about, detector.pages)
    assert found.detector == kind.__name__.rpartition(".")[2]
    assert math.isfinite(found.log_e)


def test_notices_a_broken_adapter(kind: ModuleType, stream: Stream) -> None:
    detector, records = fresh(kind), stream.records("broken", 0, draws=4)
    seen = [
        told(detector, record).log_e for record in islice(records, stream.warm_up + min(stream.ends, 8) * stream.ticks)
    ]
    assert max(seen) >= SHOWN


def test_stays_quiet_while_nothing_is_wrong(kind: ModuleType, stream: Stream) -> None:
    detector, records = fresh(kind), stream.records("healthy", 1, draws=4)
    seen = [
        told(detector, record).log_e
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
        detector, before = _after(kind, stream, past, seed)
        saved = json.dumps(detector.state.to_json())
        for sample in range(700 if stream.fixed_past else 200):
            if stream.fixed_past:
                detector = kind.Detector(config_of(kind), kind.State.from_json(json.loads(saved)))
                records = stream.records("edge", seed + 1 + sample, draws=2)
            else:
                # The past holds references not used yet: it is drawn again too, and the mean is over both.
                records = stream.records("edge", seed + 1 + sample)
                detector, before = _after(kind, stream, past, seed, records)
            factors.append(math.exp(ticked(detector, records, stream).log_e) / (math.exp(before) + 1.0))
    assert np.mean(factors) <= 1.0 + 4 * np.std(factors) / math.sqrt(len(factors))
    assert np.std(factors) > 0.01


def _after(kind: ModuleType, stream: Stream, past: int, seed: int, records: Any = None) -> tuple[Any, float]:
    """A detector that has seen so many ticks, and its level after them."""
    detector = fresh(kind)
    records = stream.records("edge", seed) if records is None else records
    seen = [told(detector, record) for record in islice(records, stream.warm_up + past * stream.ticks)]
    return detector, seen[-1].log_e


@pytest.mark.parametrize("kind", OF_ADAPTERS, indirect=True)
def test_all_adapters_of_a_round_move_at_once_as_each_alone(kind: ModuleType, stream: Stream) -> None:
    faults = {"router": "edge", "rewriter": "blocked", "extractor": "not_applied"}
    together, alone = fresh(kind), {adapter: fresh(kind) for adapter in ADAPTERS}
    for number in range(12):
        record = round_of_all(stream, faults if number % 3 else dict.fromkeys(ADAPTERS, "edge"), number)
        found = together.update(record)
        each = [
            told(alone[member.adapter], BaseRound("smol", number, record.at, (member,))) for member in record.members
        ]
        assert list(found) == each
    assert together.onset("extractor") == alone["extractor"].onset("extractor")


@pytest.mark.parametrize("fault", ["blocked", "nan"])
@pytest.mark.parametrize("kind", OF_ROUNDS, indirect=True)
def test_a_round_without_numbers_changes_nothing(kind: ModuleType, stream: Stream, fault: str) -> None:
    detector = fresh(kind)
    detector.update(round_of_all(stream, dict.fromkeys(ADAPTERS, "edge")))
    before = json.dumps(detector.state.to_json())
    found = detector.update(round_of_all(stream, dict.fromkeys(ADAPTERS, fault), 1))
    assert json.dumps(detector.state.to_json()) == before
    assert {e.round for e in found} == {1}
    first = fresh(kind).update(round_of_all(stream, dict.fromkeys(ADAPTERS, fault)))
    assert {(e.log_e, e.n) for e in first} <= {(0.0, 0)}


def test_says_when_what_it_found_began(kind: ModuleType, stream: Stream) -> None:
    """Three healthy records, then broken ones: the estimate is the first of these, or for blocks its first full one."""
    detector = fresh(kind)
    assert detector.onset(stream.subject) is None
    healthy, broken = stream.records("healthy", 3, draws=8), stream.records("broken", 3, draws=8)
    list(map(detector.update, islice(healthy, 3)))
    list(islice(broken, 3))
    records: list[Any] = list(islice(broken, stream.warm_up + min(stream.ends, 4) * stream.ticks))
    list(map(detector.update, records))
    found = detector.onset(stream.subject)
    assert records[0].at <= found.at <= records[stream.warm_up + stream.ticks - 1].at
    assert found.after is None or found.after < found.at <= found.by
    detector.restart(stream.subject)
    assert detector.onset(stream.subject) is None


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


def test_what_a_state_holds_of_one_subject_can_be_taken_out_and_joined_with_anothers(
    kind: ModuleType, stream: Stream
) -> None:
    records = list(islice(stream.records("edge", 5, draws=3), 80))
    others = [of_second_base(record) for record in islice(stream.records("edge", 6, draws=3), 80)]
    whole, alone = fresh(kind), fresh(kind)
    expected = [whole.update(record) for record in records]
    expected_of_others = [alone.update(record) for record in others]
    first, second = fresh(kind), fresh(kind)
    for record, other in zip(records[:61], others[:61], strict=True):
        first.update(record)
        second.update(other)
    both = kind.Detector(config_of(kind), first.state.joined(second.state))
    assert [both.update(other) for other in others[61:70]] == expected_of_others[61:70]
    parts = [both.state.part(lambda name, ours=ours: name.endswith("2") is not ours) for ours in (True, False)]
    ours, theirs = (kind.Detector(config_of(kind), part) for part in parts)
    assert [ours.update(record) for record in records[61:]] == expected[61:]
    assert [theirs.update(other) for other in others[70:]] == expected_of_others[70:]
    assert json.dumps(ours.state.to_json()) == json.dumps(whole.state.to_json())
    assert json.dumps(both.state.part(lambda _: False).to_json()) == json.dumps(fresh(kind).state.to_json())


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

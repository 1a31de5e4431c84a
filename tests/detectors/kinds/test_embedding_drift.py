from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from detectors.errors import Refused
from detectors.kinds.embedding_drift import Config, Detector, State, by_group, project
from detectors.records import Evidence
from detectors.traffic_records import Side
from tests.detectors.synthetic import embedding


def run(config: Config, n: int, moved: float, seed: int = 0) -> list[Evidence]:
    detector, bank = Detector(config), config.reference_size
    return [detector.update(embedding(seed, i, moved if i >= bank else 0.0))[0] for i in range(n)]


def test_says_nothing_while_the_bank_fills() -> None:
    seen = run(Config(reference_size=32), 32 + 7, 0.0)
    assert {(e.log_e, e.n) for e in seen} == {(0.0, 0)}
    assert run(Config(reference_size=32), 32 + 8, 0.0)[-1].n == 8


@pytest.mark.parametrize("moved", [0.5, 1.5])
def test_notices_inputs_from_elsewhere_and_never_pages(moved: float) -> None:
    seen = run(Config(reference_size=256), 512, moved)
    assert max(e.log_e for e in seen) > np.log(1000)
    assert not any(e.pages for e in seen)


def test_quiet_on_the_same_distribution() -> None:
    assert max(max(e.log_e for e in run(Config(reference_size=128), 256, 0.0, seed)) for seed in range(20)) < np.log(
        1000
    )


def test_every_reference_is_used_once_and_then_evidence_stands_still() -> None:
    config = Config(reference_size=32)
    seen = run(config, 32 + 32 + 50, 0.5)
    assert seen[-1].n == 32
    assert {(e.n, e.log_e) for e in seen[63:]} == {(seen[-1].n, seen[-1].log_e)}


def test_sides_have_banks_and_evidence_of_their_own() -> None:
    detector = Detector(Config(reference_size=8))
    for i in range(16):
        detector.update(embedding(0, i))
    (other,) = detector.update(replace(embedding(0, 99), side=Side.OUTPUT))
    assert (other.stream, other.n) == ("output", 0)
    assert detector.update(embedding(0, 17))[0].n == 8


def test_the_norm_of_a_vector_does_not_matter() -> None:
    vector = embedding(0, 0).vector
    assert np.array_equal(project(vector, 8, 0), project(vector * np.float32(4), 8, 0))
    assert not project(np.zeros(24, np.float32), 8, 0).any()


def test_nan_is_passed_over() -> None:
    detector = Detector(Config(reference_size=8))
    detector.update(embedding(0, 0))
    before = detector.state.to_json()
    detector.update(replace(embedding(0, 1), vector=np.full(24, np.nan, np.float32)))
    assert detector.state.to_json() == before


def test_another_width_starts_its_side_again_also_after_a_restart_and_leaves_the_other_side_alone() -> None:
    config = Config(reference_size=8)
    detector = Detector(config)
    for i in range(16):
        detector.update(embedding(0, i))
        detector.update(replace(embedding(0, i), side=Side.OUTPUT))
    restored = Detector(config, State.from_json(json.loads(json.dumps(detector.state.to_json()))))
    fresh = Detector(config)
    for i in range(17):
        wider = embedding(1, i, width=25)
        assert restored.update(wider) == fresh.update(wider)
    assert {stream: restored.state.streams.n(stream) for stream in restored.state.streams.index} == {
        ("router", Side.PROMPT): 8,
        ("router", Side.OUTPUT): 8,
    }
    assert restored.state.banks["router", Side.OUTPUT].width == 24


def test_the_state_of_a_full_bank_stays_small() -> None:
    detector = Detector(Config())
    for i in range(300):
        detector.update(embedding(0, i, width=576))
    assert len(json.dumps(detector.state.to_json())) < 120_000


def test_a_bank_smaller_than_a_block_is_refused() -> None:
    with pytest.raises(Refused):
        Config(reference_size=4, block=8)


def test_interactions_of_one_group_count_as_one_observation_in_each_block() -> None:
    assert by_group((0.2, 0.6, 0.9, 0.1), ("a", "a", "", "")).tolist() == pytest.approx([0.4, 0.9, 0.1])
    detector = Detector(Config(reference_size=16, block=4))
    for i in range(16 + 8):
        (found,) = detector.update(replace(embedding(0, i), group=f"session {i // 4}"))
    assert (found.n, found.round) == (2, 2)


def test_similar_turns_are_less_evidence_where_their_session_is_known() -> None:
    """Eight turns that say nearly the same are one observation: over twelve streams the evidence is lower."""
    levels = []
    for seed in range(12):
        config = Config(reference_size=64, block=8)
        known, unknown = Detector(config), Detector(config)
        for i in range(128):
            turn = embedding(seed, i // 8).vector + 0.05 * embedding(seed + 100, i).vector
            record = replace(embedding(seed, i), vector=turn)
            (blind,) = unknown.update(record)
            (seen,) = known.update(replace(record, group=str(i // 8)))
        levels.append((seen.log_e, blind.log_e))
    assert np.mean([seen for seen, _ in levels]) < np.mean([blind for _, blind in levels])
    assert seen.n == 8


def test_groups_of_a_block_survive_a_restart() -> None:
    config = Config(reference_size=8, block=4)
    whole, first = Detector(config), Detector(config)
    records = [replace(embedding(0, i), group=str(i % 3)) for i in range(16)]
    for record in records[:10]:
        whole.update(record)
        first.update(record)
    again = Detector(config, State.from_json(json.loads(json.dumps(first.state.to_json()))))
    assert [again.update(record) for record in records[10:]] == [whole.update(record) for record in records[10:]]


def test_the_state_of_the_version_before_goes_on() -> None:
    """It named streams by adapter and side, joined by a slash, which an adapter's name may hold too."""
    streams = {
        "names": ["org/router/prompt"], "n": [2], "m": [[0.9, 1.1]], "w": [[0.9, 1.1]], "since": [[4.0, 4.0]],
        "gap": [["inf", "inf"]], "seen_at": [4.0],
    }  # fmt: skip
    bank = {
        "width": 24, "references": [[-0.25, 0.5], [5.5, 2.0]], "slope": [-0.25], "ahead": [-0.5], "used": 2,
        "paid": [0.5], "groups": [""],
    }  # fmt: skip
    state = State.from_json({"streams": streams, "banks": {"org/router/prompt": bank}})
    stream = ("org/router", Side.PROMPT)
    assert state.streams.level(stream) == pytest.approx(0.0)
    assert (state.streams.n(stream), state.banks[stream].used) == (2, 2)
    assert json.loads(json.dumps(state.to_json()))["banks"] == {"org/router/prompt": bank}

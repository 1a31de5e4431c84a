from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from detectors.canaries.tolerance import Tolerances
from detectors.errors import Refused
from detectors.kinds.embedding_drift import SCALE_EVERY, Config, Detector, State, _order, by_group, project
from detectors.monitor import Monitor
from detectors.records import Evidence
from detectors.traffic_records import Side
from detectors.verdicts.incident import Rules
from tests.detectors.synthetic import embedding

PROMPTS = ("router", Side.PROMPT)
SHOWN = math.log(1000.0)


def run(config: Config, n: int, moved: float, seed: int = 0) -> list[Evidence]:
    detector, bank = Detector(config), config.reference_size
    return [detector.update(embedding(seed, i, moved if i >= bank else 0.0))[0] for i in range(n)]


def test_says_nothing_while_the_bank_fills() -> None:
    seen = run(Config(reference_size=32), 32 + 7, 0.0)
    assert {(e.log_e, e.n) for e in seen} == {(0.0, 0)}
    assert run(Config(reference_size=32), 32 + 8, 0.0)[-1].n == 8


def test_the_first_bank_is_of_256_of_the_4096_references() -> None:
    assert run(Config(), 256 + 8, 0.0)[-1].n == 8
    assert run(Config(), 256 + 7, 0.0)[-1].n == 0


@pytest.mark.parametrize("moved", [0.5, 1.5])
def test_notices_inputs_from_elsewhere_and_never_pages(moved: float) -> None:
    seen = run(Config(reference_size=256), 512, moved)
    assert max(e.log_e for e in seen) > np.log(1000)
    assert not any(e.pages for e in seen)


def test_quiet_on_the_same_distribution() -> None:
    assert max(max(e.log_e for e in run(Config(reference_size=128), 256, 0.0, seed)) for seed in range(20)) < np.log(
        1000
    )


def levels(config: Config, moved: Callable[[int], float], n: int, width: int = 8) -> list[float]:
    """The level after each of n embeddings, the i-th of them moved by so much."""
    detector = Detector(config)
    return [detector.update(embedding(0, i, moved(i), width))[0].log_e for i in range(n)]


def test_drift_that_begins_after_ten_thousand_embeddings_is_found() -> None:
    """Weeks later by a default that had used up its references after 512."""
    found = levels(Config(), lambda i: 0.5 if i >= 10_000 else 0.0, 10_300)
    assert max(found[:10_000]) < 12.0
    assert max(found[10_000:]) > 21.5


def test_slow_drift_is_never_absorbed() -> None:
    """A move of a standard deviation over 8,000 embeddings: each bank differs little from what came just before."""
    config = Config(reference_size=512)
    found = levels(config, lambda i: max(i - 512, 0) / 8000, 8512)
    assert found[-1] > 21.5


def test_a_level_stands_while_the_next_bank_is_young_and_falls_when_drift_is_over() -> None:
    config = Config(reference_size=128, first_bank=64, block=4)
    moved = levels(config, lambda i: 1.5 if i >= 128 else 0.0, 128 + 5 * 112)
    first = next(i for i, level in enumerate(moved) if level >= SHOWN)
    assert min(moved[first:]) >= SHOWN, "no bank in between begins below what was reported"
    over = levels(config, lambda i: 1.5 if 128 <= i < 128 + 112 else 0.0, 128 + 3 * 112)
    assert over[128 + 112] >= SHOWN > over[-1]


def test_every_reference_but_those_that_scale_a_bank_is_used_once_in_each_and_in_another_order() -> None:
    first, second = (_order(64, 8, 0, number) for number in range(2))
    paired = [i for i in range(64) if i % SCALE_EVERY]
    assert sorted(first) == sorted(second) == paired
    assert list(first) != list(second)
    assert len(_order(60, 8, 0, 0)) == 48, "full blocks of the 52 that do not scale"


def test_banks_grow_to_the_reference_period_and_no_further() -> None:
    detector = Detector(Config(reference_size=128, first_bank=32, block=4))
    sizes = []
    for i in range(600):
        detector.update(embedding(0, i))
        sizes.append(detector.state.banks[PROMPTS].size)
    # Of 32 references 28 are paired, by 28 embeddings that are references of the next bank, of 60; and so on.
    assert list(dict.fromkeys(sizes)) == [0, 32, 60, 112, 128]
    assert len(detector.state.banks[PROMPTS].references) == 128
    assert detector.state.banks[PROMPTS].number > 4


def test_a_pair_that_is_exchanged_has_the_opposite_pay_off() -> None:
    """Exactly, or the mean under the null is not one half: the features may not depend on the pair's reference."""
    config = Config(reference_size=32, first_bank=32, block=4)
    records = [embedding(0, i) for i in range(34)]
    second = int(_order(32, 4, config.seed, 0)[1])
    exchanged = list(records)
    exchanged[second], exchanged[33] = records[33], records[second]
    paid = []
    for order in (records, exchanged):
        detector = Detector(config)
        for record in order:
            detector.update(record)
        paid.append(detector.state.banks[PROMPTS].paid)
    assert paid[0][0] == paid[1][0] == 0.5
    assert paid[0][1] + paid[1][1] == pytest.approx(1.0, abs=1e-15)
    assert abs(paid[0][1] - 0.5) > 0.01


def test_levels_without_drift_stay_within_the_budget_of_all_banks_together() -> None:
    """150 streams, 98 blocks each in eight banks, six of them of the same 64 references.

    Banks whose level reaches A: at most T / A a stream are expected. Streams that reach it: at most T / A.
    """
    config = Config(reference_size=64, first_bank=32, block=4, directions=8, features=16)
    streams, blocks = 150, 98
    highest = np.zeros((streams, 8))
    for seed in range(streams):
        detector, vectors = Detector(config), np.random.default_rng(seed).standard_normal((32 + 4 * blocks, 8))
        for i, vector in enumerate(vectors.astype(np.float32)):
            record = replace(embedding(0, 0), vector=vector, at=float(i))
            before = detector.state.banks[PROMPTS].number if i else -1
            (after,) = detector.update(record)
            number = detector.state.banks[PROMPTS].number
            # With its last block a bank's level is reported, and M is that of the next one already.
            level = after.log_e if number > before else detector.state.streams.level(PROMPTS)
            if before >= 0 and after.round:
                highest[seed, before] = max(highest[seed, before], math.exp(level))
    assert detector.state.banks[PROMPTS].blocks == blocks
    for a in (10.0, 20.0, 50.0, 200.0):
        reached = (highest >= a).sum(axis=1)
        assert reached.mean() <= blocks / a - 4 * reached.std() / math.sqrt(streams)
        chance = min(blocks / a, 1.0)
        assert np.mean(reached > 0) <= chance + 4 * math.sqrt(chance * (1 - chance) / streams)


def test_sides_have_banks_and_evidence_of_their_own() -> None:
    detector = Detector(Config(reference_size=32))
    for i in range(32 + 7):
        detector.update(embedding(0, i))
    (other,) = detector.update(replace(embedding(0, 99), side=Side.OUTPUT))
    assert (other.stream, other.n) == ("output", 0)
    assert detector.update(embedding(0, 17))[0].n == 8


def test_the_norm_of_a_vector_does_not_matter() -> None:
    vector = embedding(0, 0).vector
    assert np.array_equal(project(vector, 8, 0), project(vector * np.float32(4), 8, 0))
    assert not project(np.zeros(24, np.float32), 8, 0).any()


def test_nan_is_passed_over() -> None:
    detector = Detector(Config(reference_size=16))
    detector.update(embedding(0, 0))
    before = detector.state.to_json()
    detector.update(replace(embedding(0, 1), vector=np.full(24, np.nan, np.float32)))
    assert detector.state.to_json() == before


def test_another_width_starts_its_side_again_also_after_a_restart_and_leaves_the_other_side_alone() -> None:
    config = Config(reference_size=32)
    detector = Detector(config)
    for i in range(32 + 8):
        detector.update(embedding(0, i))
        detector.update(replace(embedding(0, i), side=Side.OUTPUT))
    restored = Detector(config, State.from_json(json.loads(json.dumps(detector.state.to_json()))))
    fresh = Detector(config)
    for i in range(32 + 8):
        wider = embedding(1, i, width=25)
        assert restored.update(wider) == fresh.update(wider)
    assert {stream: restored.state.streams.n(stream) for stream in restored.state.streams.index} == {
        ("router", Side.PROMPT): 8,
        ("router", Side.OUTPUT): 8,
    }
    assert restored.state.banks["router", Side.OUTPUT].width == 24


def test_the_state_grows_to_350_kilobytes_a_stream_and_no_further() -> None:
    detector, sizes = Detector(Config()), []
    for i in range(5200):
        detector.update(embedding(0, i, width=64))
        if i in (4095, 5199):
            sizes.append(len(json.dumps(detector.state.to_json())))
    assert all(350_000 < size < 356_000 for size in sizes)
    bank = detector.state.banks[PROMPTS]
    again = State.from_json(json.loads(json.dumps(detector.state.to_json()))).banks[PROMPTS]
    assert np.array_equal(again.references, bank.references) and again.references.dtype == np.int16


def test_a_bank_smaller_than_two_blocks_is_refused() -> None:
    with pytest.raises(Refused):
        Config(reference_size=15, block=8)
    with pytest.raises(Refused):
        Config(first_bank=15, block=8)


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
        config = Config(reference_size=80, block=8)
        known, unknown = Detector(config), Detector(config)
        for i in range(80 + 56):
            turn = embedding(seed, i // 8).vector + 0.05 * embedding(seed + 100, i).vector
            record = replace(embedding(seed, i), vector=turn)
            (blind,) = unknown.update(record)
            (seen,) = known.update(replace(record, group=str(i // 8)))
        levels.append((seen.log_e, blind.log_e))
    assert np.mean([seen for seen, _ in levels]) < np.mean([blind for _, blind in levels])
    assert seen.n == 7


def test_groups_of_a_block_survive_a_restart() -> None:
    config = Config(reference_size=8, block=4)
    whole, first = Detector(config), Detector(config)
    records = [replace(embedding(0, i), group=str(i % 3)) for i in range(16)]
    for record in records[:10]:
        whole.update(record)
        first.update(record)
    again = Detector(config, State.from_json(json.loads(json.dumps(first.state.to_json()))))
    assert [again.update(record) for record in records[10:]] == [whole.update(record) for record in records[10:]]


def test_evidence_of_the_version_before_starts_at_0_and_the_rest_of_the_state_is_read() -> None:
    """It was evidence against one bank, which was used up."""
    streams = {
        "names": ["org/router/prompt"], "n": [2], "m": [[0.9, 1.1]], "w": [[0.9, 1.1]], "since": [[4.0, 4.0]],
        "gap": [["inf", "inf"]], "seen_at": [4.0],
    }  # fmt: skip
    bank = {
        "width": 24, "references": [[-0.25, 0.5], [5.5, 2.0]], "slope": [-0.25], "ahead": [-0.5], "used": 2,
        "paid": [0.5], "groups": [""],
    }  # fmt: skip
    saved = {"layout": 1, "config": {"reference_size": 256, "block": 8, "directions": 32, "features": 64, "bets": 8,
             "rate": 2.0, "seed": 0}, "state": {"streams": streams, "banks": {"org/router/prompt": bank}}}  # fmt: skip
    monitor = Monitor(Rules(Tolerances(), 21.5), {"embedding_drift": Config()})
    monitor.restore({"detectors": {"embedding_drift": saved}, "incidents": []})
    (after,) = monitor.observe(replace(embedding(0, 0), adapter="org/router")).evidence
    assert (after.log_e, after.n, after.round) == (0.0, 0, 0)


def test_a_restart_is_of_one_adapter_and_its_bank_goes_on() -> None:
    detector = Detector(Config(reference_size=64, first_bank=32, block=4))
    for i in range(32 + 28 + 4):
        detector.update(embedding(0, i, 1.5 if i >= 32 else 0.0))
    assert detector.state.banks[PROMPTS].earlier is not None
    used = detector.state.banks[PROMPTS].used
    detector.restart("router")
    (after,) = detector.update(replace(embedding(0, 99), vector=np.full(24, np.nan, np.float32)))
    assert (after.log_e, after.n, detector.state.banks[PROMPTS].used) == (0.0, 0, used)


@pytest.mark.parametrize("stop", [31, 40, 60, 63, 200])
def test_banks_go_on_after_a_restart_as_if_never_stopped(stop: int) -> None:
    """In the reference period, at the very end of the first bank, and in one of those after it."""
    config = Config(reference_size=64, first_bank=32, block=4)
    records = [embedding(0, i, 0.4 if i > 100 else 0.0) for i in range(260)]
    whole, first = Detector(config), Detector(config)
    expected = [whole.update(record) for record in records]
    for record in records[:stop]:
        first.update(record)
    again = Detector(config, State.from_json(json.loads(json.dumps(first.state.to_json(), allow_nan=False))))
    assert [again.update(record) for record in records[stop:]] == expected[stop:]
